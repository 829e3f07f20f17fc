"""Fine-tuning, AV-CIL and the oracle on real data sets: from import to report.

``python -m benchmarks.real_data DATA --out OUT`` does it all, and goes on where it was stopped. ``--results FOLDER``
also collects what is small and holds no data: results, settings and tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.collect import copy_runs
from benchmarks.real_data_sets import REAL_DATA, Prepared, RealData
from mcil import metrics, report
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.experiment import Experiment, run_all
from mcil.files import write_text
from mcil.metrics import mean_and_spread
from mcil.training import TrainingOptions

METHODS = ("fine-tuning", "av-cil", "oracle")
MODALITIES = ("audio", "visual", "audio-visual")
SEEDS = (0, 1, 2)
EPOCHS = 40
LARGEST_BATCH = 256
STEPS = 4  # in an epoch of the smallest task, at least
COLUMNS = {
    "mean_accuracy": "Mean accuracy",
    "average_forgetting": "Average forgetting",
    "last_accuracy": "Last accuracy",
}
NEW_AND_OLD = {
    "new": "New classes right",
    "new_as_old": "New taken for old",
    "old": "Old classes right",
    "old_as_new": "Old taken for new",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_data", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores, runs and report")
    parser.add_argument("--sets", nargs="+", choices=list(REAL_DATA), default=list(REAL_DATA))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="folder to collect the small results in")
    chosen = parser.parse_args()
    finished: dict[str, list[Path]] = {}
    for name in chosen.sets:
        data = REAL_DATA[name]
        prepared = data.prepare(chosen.data, chosen.out / "stores" / name, chosen.out / "media" / name)
        runs = run_all(experiments(prepared, data), chosen.out / "runs" / name, chosen.jobs)
        finished[name] = [run.folder for run in runs]
    report.write([folder for folders in finished.values() for folder in folders], chosen.out / "report")
    if chosen.results is not None:
        for name, folders in finished.items():
            collect(folders, chosen.results / name)


def experiments(prepared: Prepared, data: RealData, epochs: int = EPOCHS) -> list[Experiment]:
    """Return the runs on a data set: each modality, method and seed, all with the same settings."""
    scenario = Scenario(FeatureStore(prepared.store), data.tasks, prepared.class_order, modality=data.modalities[-1])
    batch = batch_size(min(len(task.train) for task in scenario.tasks))
    training = TrainingOptions(epochs=epochs, batch_size=batch, exemplar_batch_size=max(1, batch // 2))
    return [
        Experiment(
            store=prepared.store,
            tasks=data.tasks,
            method=method,
            options={},
            memory=data.memory,
            modality=modality,
            class_order=prepared.class_order,
            class_seed=None,
            missing="error",
            normalize="first-task",
            training=training,
            label=method,
            seed=seed,
        )
        for modality in data.modalities
        for method in METHODS
        for seed in SEEDS
    ]


def batch_size(clips: int) -> int:
    """Return the largest power of two, up to 256, that leaves ``STEPS`` steps an epoch in a task of ``clips`` clips."""
    return min(LARGEST_BATCH, 1 << (max(1, clips // STEPS).bit_length() - 1))


def collect(runs: Sequence[Path], results: Path) -> None:
    """Copy results and settings of finished runs, without paths of this machine, and write their tables.

    ``results`` gets ``runs/<run>/result.json`` and ``config.yaml``, ``results.csv`` (mean and sample standard deviation
    over seeds of every headline figure), ``new-and-old.csv`` (see :func:`new_and_old`) and ``tables.md`` of the two.
    """
    found = [
        result | new_and_old(pl.read_parquet(folder / "predictions.parquet"), result)
        for folder, result in zip(runs, copy_runs(runs, results), strict=True)
    ]
    headline, shares = spreads(found, metrics.SCALARS), spreads(found, tuple(NEW_AND_OLD))
    write_text(results / "results.csv", headline.write_csv())
    write_text(results / "new-and-old.csv", shares.write_csv())
    write_text(results / "tables.md", markdown(headline, COLUMNS) + "\n" + markdown(shares, NEW_AND_OLD))


def new_and_old(predictions: pl.DataFrame, result: dict[str, Any]) -> dict[str, float]:
    """Say how a run tells new classes from old ones, right after each task but the first; means over these, percent.

    ``new`` and ``old``: share of test clips of the task's own and of earlier classes that are recognised.
    ``new_as_old`` and ``old_as_new``: share of them that are taken for a class of the other side.
    """
    shares: list[dict[str, float]] = []
    for task in range(1, len(result["task_sizes"])):
        old_classes = sum(result["task_sizes"][:task])
        tested = predictions.filter(pl.col("after_task") == task, pl.col("inputs") == result["modality"])
        new, old = tested.filter(pl.col("label") >= old_classes), tested.filter(pl.col("label") < old_classes)
        shares.append(
            {
                "new": share(new["prediction"] == new["label"]),
                "new_as_old": share(new["prediction"] < old_classes),
                "old": share(old["prediction"] == old["label"]),
                "old_as_new": share(old["prediction"] >= old_classes),
            }
        )
    return {key: mean_and_spread(step[key] for step in shares).mean for key in NEW_AND_OLD}


def share(hits: pl.Series) -> float:
    """Return how many are true, in percent."""
    return 100.0 * int(hits.sum()) / len(hits)


def spreads(found: Sequence[dict[str, Any]], keys: Sequence[str]) -> pl.DataFrame:
    """Return a row for each modality and method: mean and sample standard deviation over seeds of ``keys``."""
    rows: list[dict[str, Any]] = []
    for modality in MODALITIES:
        for method in dict.fromkeys(run["method"] for run in found):
            runs = [run for run in found if (run["modality"], run["method"]) == (modality, method)]
            if runs:
                row: dict[str, Any] = {"modality": modality, "method": method, "seeds": len(runs)}
                for key in keys:
                    spread = mean_and_spread(run[key] for run in runs)
                    row |= {key: round(spread.mean, 4), f"{key}_std": round(spread.deviation, 4)}
                rows.append(row)
    return pl.DataFrame(rows)


def markdown(table: pl.DataFrame, columns: dict[str, str]) -> str:
    """Return a table of :func:`spreads` as Markdown: mean ± deviation."""
    lines = [f"| Learnt from | Method | {' | '.join(columns.values())} |", "|---|---|" + "---|" * len(columns)]
    for row in table.iter_rows(named=True):
        cells = (f"{row[key]:.1f} ± {row[f'{key}_std']:.1f}" for key in columns)
        lines.append(f"| {row['modality']} | {row['method']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
