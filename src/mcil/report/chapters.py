"""What the report says about a data set, section by section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from mcil.report import attention, figures, tables
from mcil.report.blocks import Block, Bullets, Cell, Chapter, Gallery, Listing, Section, Table, Text
from mcil.report.figures import confusion_counts
from mcil.report.runs import DataSet, Method

CONFUSIONS = 4  # largest ones named for each method; half as many where there are many methods


def chapter(data: DataSet, prefix: str = "") -> Chapter:
    """Everything about one data set; ``prefix`` begins the names of its files."""
    return Chapter(f"Data set {data.name}", _summary(data), sections_of(data, tuple(SECTIONS), prefix))


def sections_of(data: DataSet, names: Sequence[str], prefix: str = "") -> list[Section]:
    """The sections called ``names``, which are keys of :data:`SECTIONS`, as far as there is something to show."""
    return [section for name in names if (section := SECTIONS[name](data, prefix)) is not None]


def _summary(data: DataSet) -> str:
    clips = data.runs[0].result["data"]["clips"]
    said = (
        f"{sum(data.task_sizes)} classes learnt in {len(data.task_sizes)} task"
        f"{'s' if len(data.task_sizes) > 1 else ''} ({_sizes(data.task_sizes)}); "
        f"{clips['train']} clips to train on, {clips['val']} to validate, {clips['test']} to test."
    )
    winners = tables.best(data, "mean_accuracy")
    if len(winners) == 1:
        winner = winners[0]
        accuracy = tables.said(winner.spread("mean_accuracy"))
        said += f" {winner.name} has the best mean accuracy, {accuracy} %"
        forgetting = winner.spread("average_forgetting")
        if forgetting.runs:
            said += f", with an average forgetting of {tables.said(forgetting)} points"
        said += "."
    return said


def _sizes(sizes: list[int]) -> str:
    if len(set(sizes)) == 1:
        return f"{sizes[0]} class{'es' if sizes[0] > 1 else ''} each"
    return " + ".join(map(str, sizes)) + " classes"


def _results(data: DataSet, prefix: str) -> Section:
    blocks: list[Block] = [Text(note, warning=True) for note in data.notes()]
    blocks += [
        tables.results(data, prefix),
        Bullets(
            "How to read it",
            [
                "Mean accuracy: accuracy on all classes seen so far, averaged over the steps. Higher is better.",
                "Average forgetting: how far old tasks are below their best, averaged over the steps. Lower is better.",
                "Final forgetting: the same after the last task only. Lower is better.",
                "Backward transfer: change of the old tasks since they were learnt. Higher is better.",
                "Last accuracy: accuracy on all classes after the last task. Higher is better.",
                "Little forgetting says nothing by itself: a method that learns little has little to forget.",
            ],
        ),
    ]
    return Section("Results", blocks)


def _runs(data: DataSet, prefix: str) -> Section:
    return Section("Each run by itself", [tables.every_run(data, prefix)])


def _classes(data: DataSet, prefix: str) -> Section:
    return Section("Accuracy by class", [tables.by_class(data, prefix)])


def _costs(data: DataSet, prefix: str) -> Section:
    return Section("Time and memory", [tables.costs(data, prefix)])


def _by_step(data: DataSet, prefix: str) -> Section:
    caption = "Each line shows how well all classes seen by then are told apart after each task (mean over seeds)"
    caption += "; the band is one standard deviation." if len(data.methods) <= figures.FEW else "."
    return Section("Accuracy as classes are added", [Gallery(caption, [figures.accuracy_by_step(data, prefix)])])


def _matrices(data: DataSet, prefix: str) -> Section:
    caption = "Read down a column to see how one task fares as later ones are learnt (percent, mean over seeds)."
    pictures = figures.accuracy_matrices(data, prefix)
    size: Any = "small" if len(data.task_sizes) <= 6 else "medium"
    return Section("Accuracy on each task after each task", [Gallery(caption, pictures, size)])


def _forgetting(data: DataSet, prefix: str) -> Section | None:
    if len(data.task_sizes) == 1:
        return None
    few = len(data.methods) <= figures.FEW
    caption = "Higher means that more of the task was lost by the end, in points below its best; below zero it got "
    caption += "better. " + ("Bars: one standard deviation over seeds." if few else "Means over seeds.")
    return Section("What was forgotten", [Gallery(caption, [figures.forgetting_by_task(data, prefix)])])


def _confusions(data: DataSet, prefix: str) -> Section:
    caption = "Rows are the true classes, columns what they were taken for after the last task (share of the row, all "
    caption += "seeds together); grey lines part the tasks."
    size: Any = "small" if len(data.class_names) <= 8 else "medium"
    folded = len(data.methods) > figures.FEW
    blocks: list[Block] = [Gallery(caption, figures.confusions(data, prefix), size, folded=folded)]
    named_each = CONFUSIONS // 2 if folded else CONFUSIONS
    named = [f"{method.name}: {said}" for method in data.methods if (said := _largest(data, method, named_each))]
    if named:
        blocks.append(Bullets("Largest confusions", named))
    return Section("Which classes are confused", blocks)


def _largest(data: DataSet, method: Method, number: int) -> str:
    counts = confusion_counts(data, method)
    totals = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:number]
    pairs = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
    names = data.class_names
    return "; ".join(
        f"{names[true]} taken for {names[taken]}, {wrong[true, taken]} of {totals[true]} clips "
        f"({100 * wrong[true, taken] / totals[true]:.0f} %)"
        for true, taken in pairs
        if wrong[true, taken]
    )


def _inputs(data: DataSet, prefix: str) -> Section | None:
    if all(len(run.result["input_accuracy"]) < 2 for run in data.runs):
        return None
    return Section("What sound and picture each contribute", [tables.by_inputs(data, prefix)])


def _networks(data: DataSet, prefix: str) -> Section | None:
    table = tables.of_networks(data, prefix)
    if table is None:
        return None
    sayings = {
        "unmasked": "Sound used: mean weight of the sound in the fusion of the test clips; with a hard threshold the "
        "share of clips whose sound takes part.",
        "load_imbalance": "Imbalance of the experts of a tower: 0 where all are picked as often, sqrt(n / k - 1) where "
        "every clip picks the same k of n. Coefficient of variation of their shares, mean over places.",
        "task_similarity": "Similarity of a task's mean text or picture feature and that of the task before: 0 "
        "(opposite) to 1 (the same). It describes the data more than the learner.",
        "metric": "The release's metrics are computed as the code of MCIL-AudioCLIP does, to be set beside its numbers "
        "only. Do not read them as results: the first rewards unlike tasks, half of the second is a constant.",
    }
    items = [text for key, text in sayings.items() if any(name.startswith(key) for name in table.data.columns)]
    return Section("Fusion and experts", [table, Bullets("How to read it", items)])


def _attention(data: DataSet, prefix: str) -> Section | None:
    blocks = attention.blocks(data, prefix)
    return Section("Where the network looks", blocks) if blocks else None


def _provenance(data: DataSet, prefix: str) -> Section:
    results = [run.result for run in data.runs]
    facts = {
        "Store": _distinct(Path(result["data"]["store"]).name for result in results),
        "Checksum of the data": data.checksum,
        "Protocol (how networks were selected)": _distinct(result["protocol"] for result in results),
        "Learnt from": _distinct(result["modality"] for result in results),
        "Seeds": ", ".join(map(str, sorted({result["seed"] for result in results}))),
        "Classes in order of arrival": "; ".join(data.class_names),
        "Versions": _distinct(_pairs(result["versions"]) for result in results),
        "Hardware": _distinct(_pairs(result["hardware"]) for result in results),
    }
    table = Table(
        f"{prefix}provenance",
        "Where the numbers come from.",
        ["What", "Value"],
        [[Cell(key), Cell(value)] for key, value in facts.items()],
        pl.DataFrame({"what": list(facts), "value": list(facts.values())}),
    )
    listings = [Listing(f"Settings of {method.name}", _settings(method)) for method in data.methods]
    return Section("How these numbers came about", [table, *listings])


def _settings(method: Method) -> str:
    """The settings of its first run as YAML; where the store stood is nobody else's business."""
    settings = {key: value for key, value in method.runs[0].settings.items() if key != "store"}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _distinct(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


SECTIONS: dict[str, Callable[[DataSet, str], Section | None]] = {
    "results": _results,
    "runs": _runs,
    "steps": _by_step,
    "matrices": _matrices,
    "forgetting": _forgetting,
    "confusions": _confusions,
    "classes": _classes,
    "inputs": _inputs,
    "figures": _networks,
    "attention": _attention,
    "costs": _costs,
    "provenance": _provenance,
}
"""What can be said about a data set, in the order of a report."""
