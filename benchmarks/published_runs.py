"""Whole runs against those of AV-CIL's published code, on the same features with the same settings.

``python -m benchmarks.published_runs DATA PUBLISHED --out OUT --results FOLDER`` prepares the YouTube-8M features as
they were prepared for the published code, runs the same methods and seeds, and writes both side by side. ``PUBLISHED``
is a JSON file of the accuracies that the published code reached.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.decomposition import PCA

from benchmarks.collect import copy_runs
from benchmarks.real_data_sets import Array, ordered
from mcil.data.store import FeatureStore
from mcil.experiment import Experiment, run_all
from mcil.files import read_json, write_text
from mcil.metrics import mean_and_spread
from mcil.training import TrainingOptions

WIDTH, RMS = 768, 0.5
SEEDS = (0, 1, 2)
OPTIONS: dict[str, dict[str, Any]] = {
    "icarl-fc": {"distillation": "double"},
    "icarl-nme": {"distillation": "double"},
}
FIGURES = {
    "mean_accuracy": "Mean accuracy",
    "average_forgetting": "Average forgetting",
    "last_accuracy": "Last accuracy",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_runs", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("published", type=Path, help="JSON file of the published code's runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for store and runs")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--results", type=Path, required=True, help="folder to collect the small results in")
    chosen = parser.parse_args()
    published = read_json(chosen.published, "runs of the published code")["runs"]
    file = chosen.data / "yt8m_av30.npz"
    store = prepare(file, chosen.out / "store")
    runs = run_all(experiments(store, ordered(file), list(published)), chosen.out / "runs", chosen.jobs)
    ours = copy_runs([run.folder for run in runs], chosen.results)
    table = compare(ours, published)
    write_text(chosen.results / "table.csv", table.write_csv())
    write_text(chosen.results / "table.md", markdown(table))


def prepare(file: Path, store: Path) -> Path:
    """Write the features as they were given to the published code.

    Pictures: PCA to 768 channels fitted on training rows; sounds: 128 channels, zeros up to 768. Both centred on the
    training mean and scaled. The published code was given each picture as 8 equal frames of one patch, over which
    attention cannot but be even; here the one frame stands for them, which gives the same network the same input.
    """
    if not (store / "card.json").exists():
        with np.load(file, allow_pickle=False) as arrays:
            train = arrays["split"] == 0
            pictures, sounds = arrays["visual"].astype(np.float32), arrays["audio"].astype(np.float32)
            labels = [str(arrays["class_names"][label]) for label in arrays["y"]]
            splits = np.array(["train", "val", "test"])[arrays["split"]].tolist()
        pictures = PCA(WIDTH, random_state=0).fit(pictures[train]).transform(pictures)
        sounds = scaled(sounds, train, RMS * math.sqrt(WIDTH / sounds.shape[1]) * 0.7)
        FeatureStore.write(
            store,
            labels=labels,
            splits=splits,
            audio=np.pad(sounds, ((0, 0), (0, WIDTH - sounds.shape[1]))).astype(np.float32),
            visual=scaled(pictures, train, RMS).astype(np.float32)[:, None, None],
        )
    return store


def scaled(features: Array, train: Array, rms: float) -> Array:
    """Return features centred on the training mean, with a training root mean square of ``rms``."""
    features = features - features[train].mean(axis=0)
    return features * (rms / np.sqrt((features[train] ** 2).mean()))


def experiments(store: Path, class_order: list[str], methods: Sequence[str]) -> list[Experiment]:
    """Return the runs, with the settings of the published code's."""
    return [
        Experiment(
            store=store,
            tasks=5,
            method=method,
            options=OPTIONS.get(method, {}),
            memory=180,
            modality="audio-visual",
            class_order=class_order,
            class_seed=None,
            missing="error",
            normalize="none",
            training=TrainingOptions(epochs=40, protocol="published"),
            label=method,
            seed=seed,
        )
        for method in methods
        for seed in SEEDS
    ]


def compare(ours: Sequence[Mapping[str, Any]], published: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Return a row for each method and figure: both means, their spreads, the difference and its standard error."""
    rows: list[dict[str, Any]] = []
    for method, runs in published.items():
        for figure in FIGURES:
            theirs = [run["step_accuracy"][-1] if figure == "last_accuracy" else run[figure] for run in runs.values()]
            if None in theirs:
                continue
            mine = [run[figure] for run in ours if run["method"] == method]
            here, there = mean_and_spread(mine), mean_and_spread(theirs)
            error = math.sqrt(here.deviation**2 / here.runs + there.deviation**2 / there.runs)
            rows.append(
                {
                    "method": method,
                    "figure": figure,
                    "seeds": here.runs,
                    "ours": round(here.mean, 4),
                    "ours_std": round(here.deviation, 4),
                    "published": round(there.mean, 4),
                    "published_std": round(there.deviation, 4),
                    "difference": round(here.mean - there.mean, 4),
                    "standard_error": round(error, 4),
                }
            )
    return pl.DataFrame(rows)


def markdown(table: pl.DataFrame) -> str:
    """Return the table of :func:`compare` for people."""
    lines = ["| Method | Figure | Ours | Published code | Difference ± standard error |", "|---|---|---:|---:|---:|"]
    for row in table.iter_rows(named=True):
        cells = (
            row["method"],
            FIGURES[row["figure"]],
            f"{row['ours']:.1f} ± {row['ours_std']:.1f}",
            f"{row['published']:.1f} ± {row['published_std']:.1f}",
            f"{row['difference']:+.1f} ± {row['standard_error']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
