"""The whole way on made clips: real video files in, a report with three methods out."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mcil import report
from mcil.data import synthetic
from mcil.data.extraction import extract
from mcil.data.store import FeatureStore
from mcil.data.workers import check_jobs
from mcil.encoders import create_encoders
from mcil.experiment import Experiment, run_all
from mcil.training import TrainingOptions

FRAMES = 4
TASKS = 4
SEEDS = (0, 1)
MEMORY = 60
WITHOUT_DISTILLATION = "av-cil without attention distillation"
# Label of the method in the report -> name and options.
METHODS = {
    "fine-tuning": ("fine-tuning", {}),
    WITHOUT_DISTILLATION: ("av-cil", {"attention_weight": 0.0}),
    "av-cil": ("av-cil", {}),
    "oracle": ("oracle", {}),
}


def demo(out: Path = Path("demo"), clips: int = 40, epochs: int = 40, jobs: int = 2) -> report.ReportFiles:
    """Make clips, encode them, let fine-tuning, AV-CIL and the oracle learn them in 4 tasks, and write a report.

    What is finished is not done again: stopped and started with the same settings, it goes on.

    Args:
        out: folder for everything that is made.
        clips: clips of each of the 12 classes.
        epochs: of training in each task.
        jobs: runs at the same time.

    Returns:
        The files of the report.

    Raises:
        McilError: ``out`` holds something else or cannot be written to.
    """
    check_jobs(jobs)
    store = out / "made-clips"
    experiments = demo_experiments(store, epochs)
    console = Console(stderr=True)
    console.rule("1 of 4: make clips (real video files)")
    manifest = synthetic.make(out / "data", clips=clips)
    console.rule("2 of 4: encode them")
    encoders = create_encoders({"builtin": {"frames": FRAMES}})
    console.print(describe_probe(extract(manifest, store, encoders)))
    console.rule("3 of 4: learn 12 classes in 4 tasks")
    runs = run_all(experiments, out / "runs", jobs)
    console.rule("4 of 4: report")
    files = report.write([run.folder for run in runs], out / "report")
    report.print_table([run.folder for run in runs])
    return files


def demo_experiments(store: Path, epochs: int) -> list[Experiment]:
    """Return the runs of the demo: every method with every seed."""
    return [
        Experiment(
            store=store,
            tasks=TASKS,
            method=method,
            options=options,
            memory=MEMORY,
            modality="audio-visual",
            class_order=None,
            class_seed=None,
            missing="error",
            normalize="first-task",
            training=TrainingOptions(epochs=epochs, batch_size=32, exemplar_batch_size=16),
            label=label,
            seed=seed,
        )
        for label, (method, options) in METHODS.items()
        for seed in SEEDS
    ]


def describe_probe(store: FeatureStore) -> str:
    """Say how far each modality of ``store`` goes alone: a linear probe on all classes at once."""
    accuracy = synthetic.probe(store)
    said = ", ".join(f"{name} {value:.1f} %" for name, value in accuracy.items())
    return f"A linear probe on all classes at once gets: {said}."
