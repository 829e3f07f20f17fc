"""The tables of a report."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from mcil.experiment import Run
from mcil.metrics import SCALARS, Spread, mean_and_spread
from mcil.report.blocks import Cell, Table
from mcil.report.runs import DataSet, Method

TITLES = {
    "mean_accuracy": "Mean accuracy",
    "average_forgetting": "Average forgetting",
    "final_forgetting": "Final forgetting",
    "backward_transfer": "Backward transfer",
    "last_accuracy": "Last accuracy",
}
LOWER_IS_BETTER = frozenset({"average_forgetting", "final_forgetting"})
INPUT_TITLES = {"audio-visual": "Both", "audio": "Audio only", "visual": "Visual only"}
NETWORK_TITLES = {
    "unmasked": "Sound used (%)",
    "load_imbalance_visual": "Imbalance, visual",
    "load_imbalance_audio": "Imbalance, audio",
    "load_imbalance_text": "Imbalance, text",
    "task_similarity_text": "Similarity, text",
    "task_similarity_visual": "Similarity, visual",
    "metric1": "Release's metric 1",
    "metric2": "Release's metric 2",
}
DROP_TITLES = {"audio": "Drop, audio shuffled", "visual": "Drop, visual shuffled"}


def said(spread: Spread, digits: int = 1) -> str:
    """``mean ± deviation``; the mean alone for one value, a dash for none."""
    if not spread.runs:
        return "-"
    mean = _figure(spread.mean, digits)
    return mean if math.isnan(spread.deviation) else f"{mean} ± {spread.deviation:.{digits}f}"


def _figure(value: float, digits: int = 1) -> str:
    """Adding zero keeps a rounded number from being shown as -0.0."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def best(data: DataSet, key: str) -> list[Method]:
    """The method with the best mean of ``key`` and those that the spread over seeds does not set apart from it.

    Apart are means, as they are shown, that differ from the best by more than the best one's sample deviation: a
    method whose own seeds scatter is none the better for it. None where pointing one out would not be fair, or where
    no method is set apart from the best.
    """
    rivals = {method.name: method.spread(key) for method in data.methods if not method.upper_bound}
    known = {name: spread for name, spread in rivals.items() if spread.runs}
    if not data.fair or len(known) < 2:
        return []
    sign = -1 if key in LOWER_IS_BETTER else 1
    top = max(known.values(), key=lambda spread: sign * spread.mean)
    margin = 0.0 if math.isnan(top.deviation) else top.deviation
    winners = [name for name, own in known.items() if abs(round(top.mean, 1) - round(own.mean, 1)) <= margin]
    return [method for method in data.methods if method.name in winners] if len(winners) < len(known) else []


def results(data: DataSet, prefix: str = "") -> Table:
    """Method by headline figure: mean and spread over seeds, the best in bold where that is fair."""
    extra: dict[str, Callable[[Method], str]] = {}
    if len({method.modality for method in data.methods}) > 1:
        extra["Modality"] = lambda method: method.modality
    if len({method.protocol for method in data.methods}) > 1:
        extra["Protocol"] = lambda method: method.protocol
    winners = {key: best(data, key) for key in SCALARS}
    rows = [
        [
            Cell(method.name),
            *(Cell(value(method)) for value in extra.values()),
            *(Cell(said(method.spread(key)), best=method in winners[key]) for key in SCALARS),
            Cell(str(len(method.runs))),
        ]
        for method in data.methods
    ]
    records: list[dict[str, Any]] = []
    for method in data.methods:
        record: dict[str, Any] = {
            "method": method.name,
            "modality": method.modality,
            "protocol": method.protocol,
            "seeds": len(method.runs),
        }
        for key in SCALARS:
            record |= numbers(key, method.spread(key))
        records.append(record)
    caption = "Percent; mean ± sample standard deviation over seeds."
    if any(winners.values()):
        caption += " Bold: the best figure of each column and those that the spread does not set apart from it"
        caption += ", upper bounds left out." if any(m.upper_bound for m in data.methods) else "."
    return Table(
        f"{prefix}results",
        caption,
        ["Method", *extra, *(TITLES[key] for key in SCALARS), "Seeds"],
        rows,
        pl.DataFrame(records, infer_schema_length=None),
    )


def every_run(data: DataSet, prefix: str = "") -> Table:
    """Each run on its own, with 95 % bootstrap intervals over test clips."""
    rows, records = [], []
    for method in data.methods:
        for run in method.runs:
            cells = [Cell(method.name), Cell(str(run.result["seed"]))]
            record = {"method": method.name, "seed": run.result["seed"], "folder": run.folder.name}
            for key in SCALARS:
                value, (low, high) = run.result[key], run.result["intervals"][key]
                cells.append(
                    Cell("-" if value is None else " ".join((_figure(value), f"[{_figure(low)}, {_figure(high)}]")))
                )
                record |= {key: value, f"{key}_low": low, f"{key}_high": high}
            rows.append(cells)
            records.append(record)
    return Table(
        f"{prefix}runs",
        "Percent; in brackets the 95 % interval over the choice of test clips (bootstrap, 1000 resamples).",
        ["Method", "Seed", *(TITLES[key] for key in SCALARS)],
        rows,
        pl.DataFrame(records, infer_schema_length=None),
    )


def by_class(data: DataSet, prefix: str = "") -> Table:
    """Accuracy of each class after the last task, a column for each method."""
    names = data.class_names
    columns = {}
    for method in data.methods:
        values = [dict(zip(r.result["class_names"], r.result["class_accuracy"], strict=True)) for r in method.runs]
        columns[method.name] = [mean_and_spread(run[name] for run in values) for name in names]
    task_of = np.repeat(np.arange(len(data.task_sizes)) + 1, data.task_sizes).tolist()
    rows = [
        [
            Cell(name),
            Cell(str(task)),
            *(Cell(said(spreads[place]), shade=_shade(spreads[place])) for spreads in columns.values()),
        ]
        for place, (name, task) in enumerate(zip(names, task_of, strict=True))
    ]
    raw = {"class": names, "task": task_of}
    for method_name, spreads in columns.items():
        raw[method_name] = [_plain(spread.mean) for spread in spreads]
    return Table(
        f"{prefix}classes",
        "Percent of a class's test clips recognised after the last task; the deeper the tint, the more.",
        ["Class", "Task", *columns],
        rows,
        pl.DataFrame(raw),
    )


def by_inputs(data: DataSet, prefix: str = "") -> Table:
    """Mean accuracy of the same learners given both modalities, or one of them, and what shuffling either loses.

    Results of before there was a drop have none.
    """
    kinds = [kind for kind in INPUT_TITLES if any(kind in run.result["input_accuracy"] for run in data.runs)]
    shuffled = [name for name in DROP_TITLES if any(name in _drops(run) for run in data.runs)]
    rows, records = [], []
    for method in data.methods:
        cells = [Cell(method.name)]
        record: dict[str, Any] = {"method": method.name}
        for kind in kinds:
            steps = [r.result["input_accuracy"][kind] for r in method.runs if kind in r.result["input_accuracy"]]
            spread = mean_and_spread(mean_and_spread(values).mean for values in steps)
            cells.append(Cell(said(spread), shade=_shade(spread)))
            record |= numbers(kind.replace("-", "_"), spread)
        for name in shuffled:
            drops = [_drops(run)[name] for run in method.runs if name in _drops(run)]
            cells.append(Cell(said(mean_and_spread(drop["mean"] for drop in drops))))
            for key in ("mean", "last"):
                record |= numbers(f"{name}_shuffled_drop_{key}", mean_and_spread(drop[key] for drop in drops))
        rows.append(cells)
        records.append(record)
    caption = "Mean accuracy over the steps, in percent, of the same trained learner given both modalities or only one."
    if shuffled:
        caption += (
            " Drop: points of it that are lost when the test clips get each other's sounds, or pictures; near 0, "
        )
        caption += "the learner does not use them."
    return Table(
        f"{prefix}inputs",
        caption,
        ["Method", *(INPUT_TITLES[kind] for kind in kinds), *(DROP_TITLES[name] for name in shuffled)],
        rows,
        pl.DataFrame(records, infer_schema_length=None),
    )


def _drops(run: Run) -> dict[str, dict[str, float | None]]:
    """What shuffling loses, by modality; nothing in results that are older than the figure."""
    drops: dict[str, dict[str, float | None]] = run.result.get("shuffle_drop", {})
    return drops


def of_networks(data: DataSet, prefix: str = "") -> Table | None:
    """What networks tell besides predictions, of the methods whose networks do; None where none does."""
    told = {method.name: [_of_network(run) for run in method.runs] for method in data.methods}
    told = {name: runs for name, runs in told.items() if any(runs)}
    keys = [key for key in NETWORK_TITLES if any(key in run for runs in told.values() for run in runs)]
    if not keys:
        return None
    rows, records = [], []
    for name, runs in told.items():
        spreads = {key: mean_and_spread(run.get(key) for run in runs) for key in keys}
        rows.append(
            [Cell(name), *(Cell(said(spread, 1 if key == "unmasked" else 2)) for key, spread in spreads.items())]
        )
        record: dict[str, Any] = {"method": name}
        for key, spread in spreads.items():
            record |= numbers(key, spread)
        records.append(record)
    return Table(
        f"{prefix}networks",
        "Means over seeds; of the network after the last task, and similarity as a mean over the tasks but the first.",
        ["Method", *(NETWORK_TITLES[key] for key in keys)],
        rows,
        pl.DataFrame(records, infer_schema_length=None),
    )


def _of_network(run: Run) -> dict[str, float | None]:
    """What a run's network told, a number by each key of :data:`NETWORK_TITLES`; {} where it told nothing."""
    result = run.result
    found: dict[str, float | None] = {}
    if "unmasked" in result:
        found["unmasked"] = 100 * result["unmasked"][-1]
    for tower, imbalance in result.get("load_imbalance", {}).items():
        found[f"load_imbalance_{tower}"] = imbalance[-1]
    for modality, similarity in result.get("task_similarity", {}).items():
        found[f"task_similarity_{modality}"] = mean_and_spread(similarity[1:]).mean
    found |= result.get("released", {})
    return found


def costs(data: DataSet, prefix: str = "") -> Table:
    """Time and memory of a run."""
    figures = ("seconds", "peak_memory_mb", "memory", "parameters")
    rows, records = [], []
    for method in data.methods:
        seconds, peak, memory, parameters = (method.spread(key) for key in figures)
        rows.append(
            [
                Cell(method.name),
                Cell(_minutes(seconds.mean)),
                Cell(f"{said(peak, 0)} MiB"),
                Cell(f"{memory.mean:,.0f}"),
                Cell(f"{parameters.mean:,.0f}"),
            ]
        )
        record: dict[str, Any] = {"method": method.name}
        for key in figures:
            record |= numbers(key, method.spread(key))
        records.append(record)
    return Table(
        f"{prefix}costs",
        "Means over seeds: time of a whole run, its peak memory, clips it may keep as exemplars, weights at the end.",
        ["Method", "Time a run", "Peak memory", "Exemplars (at most)", "Parameters"],
        rows,
        pl.DataFrame(records, infer_schema_length=None),
    )


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def numbers(key: str, spread: Spread) -> dict[str, float | None]:
    """Mean and deviation as machines read them: ``key`` and ``key_std``."""
    return {key: _plain(spread.mean), f"{key}_std": _plain(spread.deviation)}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _shade(spread: Spread) -> float | None:
    return None if math.isnan(spread.mean) else round(spread.mean / 100, 3)
