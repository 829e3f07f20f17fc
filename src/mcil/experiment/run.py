"""``mcil run``: one experiment with one or several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcil.data.scenario import Missing
from mcil.data.workers import check_jobs
from mcil.errors import McilError
from mcil.experiment.folder import RunFolder
from mcil.experiment.processes import run_in_processes
from mcil.experiment.progress import RunProgress
from mcil.experiment.settings import Experiment
from mcil.experiment.single import run_single
from mcil.models.inputs import Normalize
from mcil.training import TrainingOptions
from mcil.types import Modality


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its ``result.json`` says."""

    folder: Path
    result: dict[str, Any]


def run(
    store: Path | str,
    tasks: int | Sequence[int],
    method: str = "av-cil",
    seeds: int | Sequence[int] | str = 0,
    out: Path | str = "runs",
    options: dict[str, int | float | bool | str] | None = None,
    memory: int = 500,
    modality: Modality = "audio-visual",
    class_order: Sequence[str] | None = None,
    class_seed: int | None = None,
    missing: Missing = "error",
    normalize: Normalize = "first-task",
    training: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
    label: str | None = None,
    jobs: int = 1,
) -> list[Run]:
    """Learn a scenario with one method, once for each seed, and measure it.

    Args:
        store: feature store to learn from.
        tasks: number of equal tasks, or the number of classes of each task.
        method: name of the method.
        seeds: one run for each: a number, a list, or text such as "0..4" or "0,3".
        out: folder for the run folders. A finished run is not run again; one that was stopped goes on.
        options: options of the method.
        memory: most exemplars kept, in clips; ignored by methods without a memory.
        modality: what to learn from: "audio", "visual" or "audio-visual".
        class_order: all class names in order of arrival; alphabetical by default.
        class_seed: shuffles the class order instead.
        missing: clips that lack a modality: "error", "drop" them, or take "zeros".
        normalize: "first-task" standardises features by statistics of the first task, "none" leaves them.
        training: how each task is trained.
        label: name of the method in reports; the method's own name by default.
        jobs: runs at the same time, each in a process of its own.

    Returns:
        The runs, in the order of the seeds.

    Raises:
        McilError: data, method and settings do not fit.
    """
    experiments = [
        Experiment(
            Path(store),
            tasks,
            method,
            dict(options or {}),
            memory,
            modality,
            class_order,
            class_seed,
            missing,
            normalize,
            training,
            label or method,
            seed,
        )
        for seed in read_seeds(seeds)
    ]
    return run_all(experiments, Path(out), jobs)


def read_seeds(seeds: int | Sequence[int] | str) -> list[int]:
    """Return the seeds that a user means: 3, [0, 1], "0,1" or "0..4" (both ends included).

    Raises:
        McilError: it cannot be read, names a seed twice, or none.
    """
    numbers: list[int]
    if isinstance(seeds, int):
        numbers = [seeds]
    elif isinstance(seeds, str):
        first, dots, last = seeds.partition("..")
        parts = [first, last] if dots else seeds.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise McilError(f"cannot read the seeds '{seeds}'; write a number, a list such as 0,1,2 or a range 0..4")
        numbers = list(range(int(first), int(last) + 1)) if dots else [int(part) for part in parts]
    else:
        numbers = [int(seed) for seed in seeds]
    if any(number < 0 for number in numbers):
        raise McilError(f"the seeds {seeds} must be 0 or more")
    if not numbers or len(set(numbers)) < len(numbers):
        raise McilError(f"the seeds {seeds} must be at least one, and each only once")
    return numbers


def run_all(experiments: Sequence[Experiment], out: Path, jobs: int = 1) -> list[Run]:
    """Run each experiment in a folder of its own under ``out``, ``jobs`` at a time; see :func:`run`."""
    check_jobs(jobs)
    for experiment in experiments:  # say what is wrong before anything is computed
        experiment.check()
    folders = [RunFolder(out / experiment.name) for experiment in experiments]
    with RunProgress() as progress:
        for experiment, folder in zip(experiments, folders, strict=True):
            progress.add(folder.path.name, experiment)
        if jobs == 1 or len(experiments) == 1:
            results = [
                run_single(experiment, folder, progress.listener(folder.path.name))
                for experiment, folder in zip(experiments, folders, strict=True)
            ]
        else:
            results = run_in_processes(experiments, folders, min(jobs, len(experiments)), progress.show)
    return [Run(folder.path, result) for folder, result in zip(folders, results, strict=True)]
