"""What the report says about a data set, section by section."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from mcil.report import attention, figures, tables
from mcil.report.blocks import Block, Bullets, Cell, Chapter, Gallery, Listing, Section, Table, Text
from mcil.report.figures import confusion_counts
from mcil.report.runs import DataSet, Method

CONFUSIONS = 4  # largest ones named for each method


def chapter(data: DataSet, prefix: str = "") -> Chapter:
    """Everything about one data set; ``prefix`` begins the names of its files."""
    sections = [
        _results(data, prefix),
        _by_step(data, prefix),
        _matrices(data, prefix),
        *_forgetting(data, prefix),
        _confusions(data, prefix),
        Section("Accuracy by class", [tables.by_class(data, prefix)]),
        *_inputs(data, prefix),
        *_attention(data, prefix),
        Section("Time and memory", [tables.costs(data, prefix)]),
        _provenance(data, prefix),
    ]
    return Chapter(f"Data set {data.name}", _summary(data), sections)


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
        Text("Each run by itself:"),
        tables.every_run(data, prefix),
    ]
    return Section("Results", blocks)


def _by_step(data: DataSet, prefix: str) -> Section:
    caption = "Each line shows how well all classes seen by then are told apart after each task; the band is one "
    caption += "standard deviation over seeds."
    return Section("Accuracy as classes are added", [Gallery(caption, [figures.accuracy_by_step(data, prefix)])])


def _matrices(data: DataSet, prefix: str) -> Section:
    caption = "Read down a column to see how one task fares as later ones are learnt (percent, mean over seeds)."
    pictures = figures.accuracy_matrices(data, prefix)
    size: Any = "small" if len(data.task_sizes) <= 6 else "medium"
    return Section("Accuracy on each task after each task", [Gallery(caption, pictures, size)])


def _forgetting(data: DataSet, prefix: str) -> list[Section]:
    if len(data.task_sizes) == 1:
        return []
    caption = "Higher means that more of the task was lost by the end; below zero it got better. Bars: one standard "
    caption += "deviation over seeds."
    return [Section("What was forgotten", [Gallery(caption, [figures.forgetting_by_task(data, prefix)])])]


def _confusions(data: DataSet, prefix: str) -> Section:
    caption = "Rows are the true classes, columns what they were taken for after the last task (share of the row, all "
    caption += "seeds together); grey lines part the tasks."
    size: Any = "small" if len(data.class_names) <= 8 else "medium"
    blocks: list[Block] = [Gallery(caption, figures.confusions(data, prefix), size)]
    named = [f"{method.name}: {largest}" for method in data.methods if (largest := _largest(data, method))]
    if named:
        blocks.append(Bullets("Largest confusions", named))
    return Section("Which classes are confused", blocks)


def _largest(data: DataSet, method: Method) -> str:
    counts = confusion_counts(data, method)
    totals = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
    names = data.class_names
    return "; ".join(
        f"{names[true]} taken for {names[taken]}, {wrong[true, taken]} of {totals[true]} clips "
        f"({100 * wrong[true, taken] / totals[true]:.0f} %)"
        for true, taken in pairs
        if wrong[true, taken]
    )


def _inputs(data: DataSet, prefix: str) -> list[Section]:
    if all(len(run.result["input_accuracy"]) < 2 for run in data.runs):
        return []
    return [Section("What sound and picture each contribute", [tables.by_inputs(data, prefix)])]


def _attention(data: DataSet, prefix: str) -> list[Section]:
    blocks = attention.blocks(data, prefix)
    return [Section("Where the network looks", blocks)] if blocks else []


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
