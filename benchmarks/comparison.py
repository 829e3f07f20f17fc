"""Every method on real data sets and on made clips: ``mcil bench table1`` on each, and joint training to compare with.

``python -m benchmarks.comparison DATA --out OUT`` does it all, and goes on where it was stopped. ``--results FOLDER``
also collects what is small and holds no data: results, settings and tables. With ``--methods`` those methods are added
to what is kept there, in the place of what is kept of them.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.collect import copy_runs
from benchmarks.real_data import NEW_AND_OLD, batch_size, new_and_old, spreads
from benchmarks.real_data_sets import COMPARED, Prepared, RealData
from mcil.data import synthetic
from mcil.data.extraction import extract
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.encoders import create_encoders
from mcil.errors import McilError
from mcil.files import read_json, write_json, write_text
from mcil.methods import METHODS, GradientMethod
from mcil.report import ComparisonFiles
from mcil.suites import bench
from mcil.training import TrainingOptions

SEEDS = "0..2"
EPOCHS = 20
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def prepare_made_clips(data: Path, store: Path, work: Path) -> Prepared:
    """Make the clips of the demo and encode them as it does."""
    made = extract(synthetic.make(work), store, create_encoders({"builtin": {"frames": 4}}))
    return Prepared(store, sorted(set(made.labels)))


SETS = {"made-clips": RealData(prepare_made_clips, tasks=4, memory=60), **COMPARED}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores, runs and reports")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", help="names with commas between them; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="folder to collect the small results in")
    chosen = parser.parse_args()
    for name in chosen.sets:
        data = SETS[name]
        prepared = data.prepare(chosen.data, chosen.out / "stores" / name, chosen.out / "media" / name)
        if chosen.results is not None:
            require_same_data(prepared, chosen.results / name)
        files = compare("table1", prepared, data, chosen.out / name, chosen.jobs, chosen.methods)
        if chosen.results is not None:
            collect(prepared, files, chosen.results / name)
    if chosen.results is not None:
        write_text(chosen.results / "summary.md", summary(chosen.results))


def compare(
    suite: str, prepared: Prepared, data: RealData, out: Path, jobs: int, methods: str | None = None
) -> ComparisonFiles:
    """Run a suite on one data set, all rows with the same settings; all methods that it is about, or some."""
    modality = data.modalities[-1]
    scenario = Scenario(FeatureStore(prepared.store), data.tasks, prepared.class_order, modality=modality)
    batch = batch_size(min(len(task.train) for task in scenario.tasks))
    return bench(
        suite,
        data=prepared.store,
        tasks=data.tasks,
        methods=methods,
        seeds=SEEDS,
        out=out,
        memory=data.memory,
        modality=modality,
        class_order=prepared.class_order,
        training=TrainingOptions(epochs=EPOCHS, batch_size=batch, exemplar_batch_size=max(1, batch // 2)),
        jobs=jobs,
    )


def require_same_data(prepared: Prepared, results: Path) -> None:
    """Refuse to add methods to what was computed from other features.

    Raises:
        McilError: a run that is kept in ``results`` read a store of another checksum.
    """
    checksum = FeatureStore(prepared.store).checksum
    for kept in sorted((results / "runs").glob("*/config.yaml")):
        if yaml.safe_load(kept.read_text(encoding="utf-8"))["data_checksum"] != checksum:
            raise McilError(
                f"{kept.parent} was computed from other features than those of {prepared.store}: "
                f"collect in another folder, or delete {results} and run every method"
            )


def collect(prepared: Prepared, files: ComparisonFiles, results: Path) -> None:
    """Copy results, settings and tables, without paths of this machine; add joint training and :func:`new_and_old`.

    Runs and rows of other methods that are kept in ``results`` stay. While there are any, so do ``table.md`` and
    ``table.tex``: their tests between methods need the predictions of all, which are not kept.
    """
    runs = sorted(run.folder for entry in files.comparison.entries for run in entry.runs)
    shares = [
        result | new_and_old(pl.read_parquet(folder / "predictions.parquet"), result)
        for folder, result in zip(runs, copy_runs(runs, results, add=True), strict=True)
    ]
    others = _add_rows(results / "table.csv", files.csv.read_text(encoding="utf-8"), "label")
    _add_rows(results / "new-and-old.csv", spreads(shares, tuple(NEW_AND_OLD)).write_csv(), "method")
    if not others:
        for file in (files.markdown, files.latex):
            shutil.copyfile(file, results / file.name)
        write_json(results / "joint.json", joint_regression(FeatureStore(prepared.store)))


def _add_rows(file: Path, table: str, key: str) -> bool:
    """Put the rows of a CSV table into ``file``, in the place of those of the same methods; return if others stay.

    The column ``key`` names the method. Upper bounds come last, as the suite has them.
    """
    rows = pl.read_csv(table.encode(), infer_schema=False)
    others = rows.clear()
    if file.exists():
        others = pl.read_csv(file, infer_schema=False).filter(~pl.col(key).is_in(rows[key].to_list()))
    cumulative = pl.col(key).map_elements(lambda name: METHODS[name].cumulative, return_dtype=pl.Boolean)
    write_text(file, pl.concat([others, rows], how="diagonal").sort(cumulative, key).write_csv())
    return not others.is_empty()


def summary(results: Path) -> str:
    """Return the mean accuracy and the last accuracy of every method on every set that was collected, as Markdown.

    A method that was not run on a set has a "-" there.
    """
    sets = [name for name in SETS if (results / name / "table.csv").exists()]
    tables = [pl.read_csv(results / name / "table.csv") for name in sets]
    parts = []
    for figure, title in (("mean_accuracy", "Mean accuracy"), ("last_accuracy", "Last accuracy")):
        lines = [f"| {title} | learns by | exemplars | {' | '.join(sets)} |", "|---|---|---|" + "---:|" * len(sets)]
        for name in sorted({label for table in tables for label in table["label"]}, key=_place):
            found = [table.filter(pl.col("label") == name).to_dicts() for table in tables]
            cells = [f"{row[0][figure]:.1f} ± {row[0][f'{figure}_std']:.1f}" if row else "-" for row in found]
            method = METHODS[name]
            keeps = "all clips" if method.cumulative else "yes" if method.uses_memory else "no"
            once = issubclass(method, GradientMethod) and method.trains_once
            learns = "sums" if method.closed_form else "gradient, then sums" if once else "gradient"
            lines.append(f"| {name} | {learns} | {keeps} | {' | '.join(cells)} |")
        if figure == "last_accuracy":
            joint = [read_json(results / name / "joint.json", "joint regression") for name in sets]
            cells = [f"{reached['test_accuracy']:.1f}" for reached in joint]
            lines.append(f"| joint logistic regression | gradient | all clips | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _place(name: str) -> tuple[bool, bool, bool, str]:
    """Upper bounds last, closed form before them, and gradient methods with exemplars after those without."""
    method = METHODS[name]
    return method.cumulative, method.closed_form, method.uses_memory, name


def joint_regression(store: FeatureStore) -> dict[str, Any]:
    """Train logistic regression on all classes at once, which is not class-incremental; accuracy on test, percent.

    It reads the standardised features of both modalities, tokens averaged; its strength is that of the best accuracy
    on the validation clips.
    """
    splits, labels = np.array(store.splits), np.array(store.labels)
    rows = np.arange(len(store))
    parts = [store.read("audio", rows).float().numpy()] if "audio" in store.shapes else []
    if "visual" in store.shapes:
        parts.append(store.read("visual", rows).float().mean(dim=(1, 2)).numpy())
    features = np.concatenate(parts, axis=1)
    features = StandardScaler().fit(features[splits == "train"]).transform(features)

    def accuracy(model: LogisticRegression, split: str) -> float:
        own: npt.NDArray[np.bool_] = splits == split
        return 100 * float(model.score(features[own], labels[own]))

    train = splits == "train"
    models = [LogisticRegression(C=c, max_iter=300).fit(features[train], labels[train]) for c in STRENGTHS]
    best = max(models, key=lambda model: accuracy(model, "val"))
    return {"strength": best.C, "validation_accuracy": accuracy(best, "val"), "test_accuracy": accuracy(best, "test")}


if __name__ == "__main__":
    main()
