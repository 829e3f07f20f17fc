"""``mcil bench``: run a comparison suite and write its tables, figures and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from mcil.data.benchmarks import BENCHMARKS
from mcil.data.class_text import read_class_text
from mcil.data.scenario import Missing, Scenario
from mcil.data.store import FeatureStore
from mcil.errors import McilError
from mcil.experiment import attempt_all, read_class_order, read_seeds
from mcil.methods import METHODS
from mcil.models.inputs import Normalize
from mcil.report import Comparison, ComparisonFiles, Entry, write_comparison
from mcil.suites.base import SUITES, Settings
from mcil.training import TrainingOptions
from mcil.types import Modality

TASKS = 5


def bench(
    suite: str,
    data: Path | str = "store",
    tasks: int | Sequence[int] | None = None,
    methods: Sequence[str] | str | None = None,
    seeds: int | Sequence[int] | str = "0..4",
    out: Path | str = "bench",
    per_method: Mapping[str, Any] | None = None,
    memory: int = 500,
    memory_sizes: Sequence[int] | None = None,
    modality: Modality = "audio-visual",
    class_order: Sequence[str] | str | None = None,
    class_seed: int | None = None,
    missing: Missing = "error",
    normalize: Normalize = "first-task",
    training: TrainingOptions = TrainingOptions(),  # noqa: B008 (frozen)
    jobs: int = 1,
) -> ComparisonFiles:
    """Compare methods on a feature store: run every one with every seed, and write tables, figures and a report.

    Runs that are finished are not run again, in whichever suite they were run; stopped ones go on. A run that fails
    does not stop the others.

    Args:
        suite: name of the comparison: table1, table2, table3, memory, steps, attention, trimodal, trimodal-parts,
            sam-audio, sam-audio-parts, sam-audio-weights or sam-audio-analytic.
        data: feature store to learn from.
        tasks: number of equal tasks, or the number of classes of each task; by default the benchmark's where the class
            order is called by a benchmark's name, else 5 tasks, as equal as can be, of two classes at least.
        methods: names with commas between them, or a list. A suite takes those that it is about. By default all but
            those that need weights of an encoder and, where the store has no text, those that read text.
        seeds: one run of everything for each: a number, a list, or text such as "0..4" or "0,3".
        out: folder; what is written is in its folder of the suite's name, the run folders are in its folder ``runs``,
            which all suites share.
        per_method: for a method's name a mapping with its ``options`` and options of training, which count instead
            of those for all; each is a value, or a mapping from modality to value.
        memory: most exemplars kept, in clips; ignored by methods without a memory.
        memory_sizes: those that the suite ``memory`` compares; a quarter, a half, all, one and a half times and twice
            ``memory`` by default.
        modality: what to learn from: "audio", "visual" or "audio-visual".
        class_order: all class names in order of arrival, or the name of a benchmark that has them; alphabetical by
            default.
        class_seed: shuffles the class order instead.
        missing: clips that lack a modality: "error", "drop" them, or take "zeros".
        normalize: "first-task" standardises features by statistics of the first task, "none" leaves them.
        training: how each task is trained.
        jobs: runs at the same time, each in a process of its own.

    Raises:
        McilError: data, methods and settings do not fit, so that no run can begin.
    """
    chosen = SUITES[suite]
    scenario = _scenario(Path(data), tasks, class_order, class_seed)
    settings = Settings(
        store=Path(data),
        tasks=[len(task.class_names) for task in scenario.tasks] if tasks is None else tasks,
        memory=memory,
        memory_sizes=memory_sizes or _memory_sizes(memory, len(scenario.class_names)),
        modality=modality,
        class_order=class_order,
        class_seed=class_seed,
        missing=missing,
        normalize=normalize,
        training=training,
        methods=_methods(methods, Path(data)),
        per_method=per_method or {},
    )
    wanted = [Entry(experiment.label, experiment, []) for experiment in chosen.experiments(settings)]
    if not wanted:
        raise McilError(f"suite '{suite}' compares none of the methods {', '.join(settings.methods)}; name others")
    # A run is called by its method, whatever a table calls it, so that suites share runs.
    runs = [
        [replace(entry.experiment, label=entry.experiment.method, seed=seed) for seed in read_seeds(seeds)]
        for entry in wanted
    ]
    rows = [entry.name(chosen.layout) for entry, own in zip(wanted, runs, strict=True) for _ in own]
    ends = iter(attempt_all([run for own in runs for run in own], rows, Path(out) / "runs", jobs))
    entries = [replace(entry, ends=list(islice(ends, len(own)))) for entry, own in zip(wanted, runs, strict=True)]
    comparison = Comparison(
        chosen.name, chosen.title, chosen.layout, chosen.sections, scenario, entries, chosen.featured
    )
    return write_comparison(comparison, Path(out) / chosen.name)


def _scenario(
    data: Path, tasks: int | Sequence[int] | None, class_order: Sequence[str] | str | None, class_seed: int | None
) -> Scenario:
    """The classes and tasks of all runs, whatever they learn from."""
    order = read_class_order(class_order)
    store = FeatureStore(data)
    if tasks is None:
        in_benchmark = isinstance(class_order, str)
        tasks = BENCHMARKS[str(class_order)].task_sizes if in_benchmark else _task_sizes(len(set(store.labels)))
    modality: Modality = "audio" if "audio" in store.shapes else "visual"
    return Scenario(store, tasks, order, class_seed, modality, missing="zeros")


def _task_sizes(classes: int) -> list[int]:
    """Divide classes into ``TASKS`` tasks, as equal as can be, or into fewer where they would have one class."""
    tasks = max(1, min(TASKS, classes // 2))
    return [classes // tasks + (task < classes % tasks) for task in range(tasks)]


def _methods(given: Sequence[str] | str | None, store: Path) -> list[str]:
    """The methods that a user means; by default all that can learn from the store as it is, upper bounds last."""
    if given is None:
        text = read_class_text(store) is not None
        able = [name for name in METHODS.names() if not METHODS[name].needs_weights]
        able = [name for name in able if text or not METHODS[name].uses_text]
        return sorted(able, key=lambda name: METHODS[name].cumulative)
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
    for name in names:
        _ = METHODS[name]
    if not names or len(set(names)) < len(names):
        raise McilError(f"the methods {', '.join(names)} must be at least one, and each only once")
    return names


def _memory_sizes(memory: int, classes: int) -> list[int]:
    """From a quarter of ``memory`` to twice as much, but room for a clip of each class."""
    return sorted({max(classes, int(share * memory)) for share in (0.25, 0.5, 1, 1.5, 2)})
