"""``mcil run``: one experiment with one or several seeds; and many experiments, of which some may fail."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from mcil.data.scenario import Missing
from mcil.data.workers import check_jobs
from mcil.errors import McilError
from mcil.experiment.finished import Failure, Run
from mcil.experiment.folder import RunFolder
from mcil.experiment.processes import Outcome, outcomes_in_processes
from mcil.experiment.progress import ComparisonProgress, Event, RunProgress
from mcil.experiment.settings import Experiment
from mcil.experiment.single import run_single
from mcil.files import write_text
from mcil.models.inputs import Normalize
from mcil.training import OnEvent, TrainingOptions
from mcil.types import Modality


def run(
    store: Path | str,
    tasks: int | Sequence[int],
    method: str = "av-cil",
    seeds: int | Sequence[int] | str = 0,
    out: Path | str = "runs",
    options: dict[str, int | float | bool | str] | None = None,
    memory: int = 500,
    modality: Modality = "audio-visual",
    class_order: Sequence[str] | str | None = None,
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
        class_order: all class names in order of arrival, or the name of a benchmark that has them; alphabetical by
            default.
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
    """Run each experiment in a folder of its own under ``out``, ``jobs`` at a time; see :func:`run`.

    The first run that fails stops them all: those under way save their state.
    """
    check_jobs(jobs)
    for experiment in experiments:  # say what is wrong before anything is computed
        experiment.check()
    folders = [RunFolder(out / experiment.name) for experiment in experiments]
    runs: dict[int, Run] = {}
    with RunProgress() as progress:
        for experiment, folder in zip(experiments, folders, strict=True):
            progress.add(folder.path.name, experiment)
        with closing(_outcomes(experiments, folders, jobs, progress.show)) as outcomes:
            for place, outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                runs[place] = Run(folders[place].path, outcome)
    return [runs[place] for place in range(len(experiments))]


def attempt_all(
    experiments: Sequence[Experiment], rows: Sequence[str], out: Path, jobs: int = 1
) -> list[Run | Failure]:
    """Run each experiment as :func:`run_all` does, but let the others go on where one fails.

    Args:
        experiments: what to run; equal ones are run once.
        rows: what each belongs to in the table that is shown while they run.
        out: folder for the run folders.
        jobs: runs at the same time.

    Returns:
        What became of each experiment. A run that ended with anything but a :class:`McilError` leaves its whole
        traceback in ``error.txt`` in its folder.

    Raises:
        McilError: none of the experiments can begin.
    """
    check_jobs(jobs)
    ends: dict[str, Run | Failure] = {}
    names: list[str] = []
    ready: dict[str, tuple[str, Experiment]] = {}
    for place, (experiment, row) in enumerate(zip(experiments, rows, strict=True)):
        try:
            experiment.check()
            names.append(experiment.name)
            ready.setdefault(experiment.name, (row, experiment))
        except McilError as error:
            names.append(f"failure {place}")
            ends[names[place]] = Failure(experiment, str(error))
    if not ready:
        raise McilError(next(end.reason for end in ends.values() if isinstance(end, Failure)))
    folders = [RunFolder(out / name) for name in ready]
    with ComparisonProgress(jobs) as progress:
        for name, (row, experiment) in ready.items():
            progress.add(row, name, experiment)
        chosen = [experiment for _, experiment in ready.values()]
        with closing(_outcomes(chosen, folders, jobs, progress.show)) as outcomes:
            for place, outcome in outcomes:
                folder = folders[place].path
                ends[folder.name] = _end(chosen[place], folder, outcome)
                progress.end(folder.name, ends[folder.name])
    return [ends[name] for name in names]


def _end(experiment: Experiment, folder: Path, outcome: Outcome) -> Run | Failure:
    trace = folder / "error.txt"
    if not isinstance(outcome, Exception):
        trace.unlink(missing_ok=True)
        return Run(folder, outcome)
    if isinstance(outcome, McilError):
        return Failure(experiment, str(outcome))
    write_text(trace, "".join(traceback.format_exception(outcome)))
    said = " ".join(str(outcome).split()) or "no message"
    return Failure(experiment, f"{type(outcome).__name__}: {textwrap.shorten(said, 200)} (see {trace})")


def _outcomes(
    experiments: Sequence[Experiment], folders: Sequence[RunFolder], jobs: int, show: Callable[[Event], None]
) -> Generator[tuple[int, Outcome]]:
    """Yield the place of each experiment and what became of it, as each ends."""
    if jobs > 1 and len(experiments) > 1:
        yield from outcomes_in_processes(experiments, folders, min(jobs, len(experiments)), show)
        return
    for place, (experiment, folder) in enumerate(zip(experiments, folders, strict=True)):
        try:
            result = run_single(experiment, folder, _listener(folder.path.name, show))
        except Exception as error:
            yield place, error
        else:
            yield place, result


def _listener(name: str, show: Callable[[Event], None]) -> OnEvent:
    return lambda event: show((name, event))
