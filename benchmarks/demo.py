"""The demo, with what the README says of it collected.

``python -m benchmarks.demo --out OUT --results results/demo`` runs ``mcil demo`` and keeps results, settings, the table
and how far a linear probe gets with each modality.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.collect import copy_runs
from mcil.data.store import FeatureStore
from mcil.data.synthetic import probe
from mcil.demo import demo
from mcil.files import write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the demo")
    parser.add_argument("--results", type=Path, required=True, help="folder to collect the small results in")
    chosen = parser.parse_args()
    began = time.monotonic()
    files = demo(chosen.out)
    seconds = round(time.monotonic() - began, 1)
    copy_runs(sorted((chosen.out / "runs").iterdir()), chosen.results)
    (table,) = (path for path in files.tables if path.name == "results.csv")
    write_text(chosen.results / "results.csv", table.read_text(encoding="utf-8"))
    accuracy = probe(FeatureStore(chosen.out / "made-clips"))
    write_json(chosen.results / "probe.json", {"linear_probe_test_accuracy": accuracy, "demo_seconds": seconds})


if __name__ == "__main__":
    main()
