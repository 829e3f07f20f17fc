"""MCIL-AudioCLIP on real sounds and pictures with real text: ``mcil bench trimodal`` and ``mcil bench trimodal-parts``.

``python -m benchmarks.trimodal DATA --out OUT`` does it all, and goes on where it was stopped. The text of the classes
comes from the encoder ``minilm``. ``--results FOLDER`` also collects what is small and holds no data.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.collect import accuracy_table, copy_runs
from benchmarks.comparison import compare
from benchmarks.real_data_sets import COMPARED
from mcil.data.class_text import describe_store
from mcil.data.store import FeatureStore
from mcil.encoders import TextEncoder, create_encoders
from mcil.files import read_json, write_text
from mcil.methods import create_method

# The parts are compared where a run takes a quarter of a minute; elsewhere it takes up to two.
SUITES = {
    "yt8m-av30": ("trimodal", "trimodal-parts"),
    "esc-tin24-pretrained": ("trimodal",),
    "esc-tin24-scenes": ("trimodal",),
}
PROMPTS = "general"
METHOD = "mcil-audioclip"
INSIGHT: dict[str, Callable[[dict[str, Any]], float]] = {
    "accuracy lost when sounds are shuffled, points": lambda run: run["shuffle_drop"]["audio"]["last"],
    "accuracy lost when pictures are shuffled, points": lambda run: run["shuffle_drop"]["visual"]["last"],
    "accuracy with the sound alone, %": lambda run: run["input_accuracy"]["audio"][-1],
    "accuracy with the picture alone, %": lambda run: run["input_accuracy"]["visual"][-1],
    "weight of the sound in the fusion (1: not masked), %": lambda run: 100 * run["unmasked"][-1],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trimodal", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores, runs and reports")
    parser.add_argument("--sets", nargs="+", choices=list(SUITES), default=list(SUITES))
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
        for suite in SUITES[name]:
            compare(suite, prepared, data, chosen.out / name, chosen.jobs)
        if chosen.results is not None:
            collect(chosen.out / name, SUITES[name], chosen.results / name)
    if chosen.results is not None:
        write_text(chosen.results / "summary.md", summary(chosen.results))


def collect(out: Path, suites: Sequence[str], results: Path) -> None:
    """Copy results, settings and tables, without paths of this machine."""
    copy_runs(sorted(path.parent for path in (out / "runs").glob("*/result.json")), results)
    for suite in suites:
        for file in ("table.md", "table.tex", "table.csv"):
            (results / suite).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / suite / file, results / suite / file)


def summary(results: Path) -> str:
    """Return what was collected as three Markdown tables: both suites on every set, and how the whole method works."""
    parts = []
    for suite in ("trimodal", "trimodal-parts"):
        sets = [name for name in SUITES if (results / name / suite / "table.csv").exists()]
        parts.append(accuracy_table(results, sets, suite))
    return "\n".join([*parts, _insight(results)])


def _insight(results: Path) -> str:
    """Return what runs of ``mcil-audioclip`` with its defaults tell besides accuracy, mean over the seeds."""
    sets = [name for name in SUITES if (results / name / "trimodal").exists()]
    lines = [f"| mcil-audioclip, after the last task | {' | '.join(sets)} |", f"|---|{'---:|' * len(sets)}"]
    told: dict[str, list[str]] = {title: [] for title in INSIGHT}
    for name in sets:
        runs = [
            (read_json(path, "result of a run"), yaml.safe_load((path.parent / "config.yaml").read_text()))
            for path in sorted((results / name / "runs").glob(f"{METHOD}-audio-visual-*/result.json"))
        ]
        own = [run for run, settings in runs if settings["options"] == asdict(create_method(METHOD))]
        for title, figure in INSIGHT.items():
            told[title].append(f"{sum(map(figure, own)) / len(own):.1f}")
    lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in told.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
