"""Reading run folders, and sorting them into what may stand in one table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcil import metrics
from mcil.errors import McilError
from mcil.experiment import Run
from mcil.files import read_json
from mcil.methods import METHODS
from mcil.metrics import Spread, mean_and_spread

_NEEDED = (
    *metrics.SCALARS,
    "accuracy_matrix",
    "step_accuracy",
    "forgetting_by_task",
    "class_accuracy",
    "input_accuracy",
    "intervals",
    "method",
    "label",
    "protocol",
    "modality",
    "seed",
    "seconds",
    "peak_memory_mb",
    "versions",
    "hardware",
    "data",
    "task_sizes",
    "class_names",
    "memory",
    "parameters",
)
# Settings in which runs of one method may differ: they say which run it is, or do not change its outcome.
_OF_THE_RUN = frozenset(
    {"label", "seed", "store", "data_checksum", "class_order", "class_seed", "training.checkpoint_seconds"}
)


@dataclass(frozen=True)
class Method:
    """Runs of one method with the same settings, one for each seed."""

    name: str
    runs: list[Run]

    @property
    def upper_bound(self) -> bool:
        """Whether it may see all data of all classes again: a limit to compare with, not a competitor."""
        name = self.runs[0].result["method"]
        return name in METHODS.names() and METHODS[name].cumulative

    @property
    def modality(self) -> str:
        """What it learnt from."""
        return str(self.runs[0].result["modality"])

    @property
    def protocol(self) -> str:
        """How its networks were selected."""
        return str(self.runs[0].result["protocol"])

    @property
    def seeds(self) -> list[int]:
        """Seeds of its runs, sorted."""
        return sorted(run.result["seed"] for run in self.runs)

    def spread(self, key: str) -> Spread:
        """Mean and spread over the runs of a number in their results."""
        return mean_and_spread(run.result[key] for run in self.runs)

    def stack(self, key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A list of numbers in the results, stacked over the runs (R, ...); NaN for None."""
        return np.array([run.result[key] for run in self.runs], dtype=np.float64)


@dataclass(frozen=True)
class DataSet:
    """Methods that were tested on the same clips with the same task sizes."""

    name: str
    checksum: str
    task_sizes: list[int]
    methods: list[Method]

    @property
    def runs(self) -> list[Run]:
        """All runs, method after method."""
        return [run for method in self.methods for run in method.runs]

    @property
    def class_names(self) -> list[str]:
        """All classes, in the order in which they arrived in the first run."""
        return list(self.runs[0].result["class_names"])

    def notes(self) -> list[str]:
        """What keeps its rows from being compared without a thought."""
        notes = []
        if len({method.protocol for method in self.methods}) > 1:
            notes.append(
                "Protocols are mixed in this table: networks were selected with different validation clips. "
                "Compare rows of the same protocol only."
            )
        if len({tuple(method.seeds) for method in self.methods}) > 1:
            notes.append("The methods were run with different seeds; their means are not over the same runs.")
        if len({tuple(run.result["class_names"]) for run in self.runs}) > 1:
            notes.append(
                "The classes arrived in different orders in different runs; figures by task are means over them."
            )
        return notes

    @property
    def fair(self) -> bool:
        """Whether the best method may be pointed out: same protocol and same seeds for all."""
        protocols = {method.protocol for method in self.methods}
        return len(protocols) == 1 and len({tuple(method.seeds) for method in self.methods}) == 1


def read_runs(paths: Sequence[Path]) -> list[DataSet]:
    """Read run folders, or folders of run folders, and sort them by data and method.

    Raises:
        McilError: there is no run, or one is not finished, is damaged, or stands there twice.
    """
    folders = list(dict.fromkeys(folder.resolve() for path in paths for folder in _run_folders(Path(path))))
    if not folders:
        raise McilError("no run folders are given; name at least one")
    runs = [read_run(folder) for folder in folders]
    by_data: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        key = (run.result["data"]["checksum"], tuple(run.result["task_sizes"]))
        by_data.setdefault(key, []).append(run)
    sets = [
        DataSet(Path(found[0].result["data"]["store"]).name, checksum, list(sizes), _methods(found))
        for (checksum, sizes), found in by_data.items()
    ]
    return _named_apart(sets)


def _run_folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise McilError(f"{path}: there is no such folder; check the path")
    if _looks_like_a_run(path):
        return [path]
    inside = sorted(folder for folder in path.iterdir() if folder.is_dir() and _looks_like_a_run(folder))
    if not inside:
        raise McilError(f"{path}: this is no run folder and holds none; name a folder that 'mcil run' made")
    return inside


def _looks_like_a_run(path: Path) -> bool:
    return (path / "result.json").is_file() or (path / "config.yaml").is_file()


def read_run(folder: Path) -> Run:
    """Read a run folder; McilError where it is not finished or damaged."""
    if not (folder / "result.json").is_file():
        raise McilError(f"{folder}: this run is not finished; start it again with the same command, or leave it out")
    result = read_json(folder / "result.json", "result of a run")
    missing = [key for key in _NEEDED if key not in result] if isinstance(result, dict) else list(_NEEDED)
    if missing:
        raise McilError(f"{folder}: its result.json lacks {', '.join(missing[:3])}; run it again with this version")
    run = Run(folder, result)
    _ = run.settings, run.predictions  # what is damaged is said before anything is written
    return run


def _methods(runs: list[Run]) -> list[Method]:
    """Put runs with the same label and settings together; where one label has several settings, name them."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        settings = json.dumps(_compared(run), sort_keys=True)
        found.setdefault((run.result["label"], settings), []).append(run)
    methods = []
    for (label, _), group in found.items():
        _refuse_twice(label, group)
        alike = [_compared(others[0]) for (other, _), others in found.items() if other == label]
        own = _compared(group[0])
        keys = sorted({key for settings in alike for key in settings})
        differing = [key for key in keys if len({json.dumps(s.get(key)) for s in alike}) > 1]
        details = [_said(key, own.get(key)) for key in differing]
        methods.append(Method(", ".join([label, *details]), sorted(group, key=lambda run: int(run.result["seed"]))))
    return methods


def _compared(run: Run) -> dict[str, Any]:
    flat = {key: value for key, value in _flat(run.settings) if key not in _OF_THE_RUN}
    return flat | {key: run.result[key] for key in ("modality", "protocol", "memory")}


def _said(key: str, value: Any) -> str:
    name = key.rpartition(".")[2].replace("_", " ")
    return str(value) if key in ("modality", "protocol") else f"{name} {value}"


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "training.protocol":  # the result says it too
            yield f"{prefix}{key}", value


def _refuse_twice(label: str, runs: list[Run]) -> None:
    seen: dict[tuple[Any, ...], Path] = {}
    for run in runs:
        key = (run.result["seed"], *run.result["class_names"])
        if key in seen:
            raise McilError(
                f"{run.folder}: the same run of '{label}' with seed {run.result['seed']} as {seen[key]}; leave one out"
            )
        seen[key] = run.folder


def _named_apart(sets: list[DataSet]) -> list[DataSet]:
    """Add what tells data sets apart whose stores have the same name."""
    names = [data.name for data in sets]
    return [
        data
        if names.count(data.name) == 1
        else DataSet(
            f"{data.name} ({'+'.join(map(str, data.task_sizes))} classes, {data.checksum[:8]})",
            data.checksum,
            data.task_sizes,
            data.methods,
        )
        for data in sets
    ]
