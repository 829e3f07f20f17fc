"""MCIL-AudioCLIP on real sounds and pictures with real text: ``mcil bench trimodal`` and ``mcil bench trimodal-parts``.

``python -m benchmarks.trimodal DATA --out OUT`` does it all, and goes on where it was stopped. The text of the classes
comes from the encoder ``minilm``. ``--results FOLDER`` also collects what is small and holds no data.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.collect import copy_runs
from benchmarks.real_data import batch_size
from benchmarks.real_data_sets import COMPARED, Prepared, RealData
from mcil.data.class_text import describe_store
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.encoders import TextEncoder, create_encoders
from mcil.suites import bench
from mcil.training import TrainingOptions

SETS = ("yt8m-av30", "esc-tin24-pretrained", "esc-tin24-scenes")
SUITES = ("trimodal", "trimodal-parts")
PROMPTS = "general"
SEEDS = "0..2"
EPOCHS = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trimodal", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores, runs and reports")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES)
    parser.add_argument("--text", default="minilm", help="text encoder, as for `mcil text --encoder`")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="folder to collect the small results in")
    chosen = parser.parse_args()
    (encoder,) = create_encoders(chosen.text)
    assert isinstance(encoder, TextEncoder)
    for name in chosen.sets:
        data = COMPARED[name]
        prepared = data.prepare(chosen.data, chosen.out / "stores" / name, chosen.out / "media" / name)
        describe_store(FeatureStore(prepared.store), encoder, PROMPTS)
        for suite in chosen.suites:
            compare(suite, prepared, data, chosen.out / name, chosen.jobs)
        if chosen.results is not None:
            collect(chosen.out / name, chosen.suites, chosen.results / name)


def compare(suite: str, prepared: Prepared, data: RealData, out: Path, jobs: int) -> None:
    """Run a suite on one data set, all rows with the same settings."""
    scenario = Scenario(FeatureStore(prepared.store), data.tasks, prepared.class_order)
    batch = batch_size(min(len(task.train) for task in scenario.tasks))
    bench(
        suite,
        data=prepared.store,
        tasks=data.tasks,
        seeds=SEEDS,
        out=out,
        memory=data.memory,
        class_order=prepared.class_order,
        training=TrainingOptions(epochs=EPOCHS, batch_size=batch, exemplar_batch_size=max(1, batch // 2)),
        jobs=jobs,
    )


def collect(out: Path, suites: list[str], results: Path) -> None:
    """Copy results, settings and tables, without paths of this machine."""
    copy_runs(sorted(path.parent for path in (out / "runs").glob("*/result.json")), results)
    for suite in suites:
        for file in ("table.md", "table.tex", "table.csv"):
            (results / suite).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / suite / file, results / suite / file)


if __name__ == "__main__":
    main()
