"""``sam-audio-cil`` on real and made clips: the suites ``sam-audio``, ``-parts`` and ``-analytic``.

``python -m benchmarks.sam_audio DATA --out OUT`` does it all, and goes on where it was stopped. ``--results FOLDER``
also collects what is small and holds no data: results, settings, tables and the figure of each set.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.collect import accuracy_table, copy_runs
from benchmarks.comparison import SETS, compare
from mcil.files import write_text

# esc10 has sounds alone, so that there is nothing to fuse. Parts and closed-form heads are compared where a run takes
# little time.
SUITES = {
    "made-clips": ("sam-audio", "sam-audio-analytic"),
    "yt8m-av30": ("sam-audio", "sam-audio-parts", "sam-audio-analytic"),
    "esc-tin24-pretrained": ("sam-audio",),
    "esc-tin24-scenes": ("sam-audio",),
    "av-mnist": ("sam-audio",),
}
TITLES = {
    "sam-audio": "fusion, distillation",
    "sam-audio-parts": "parts",
    "sam-audio-analytic": "closed-form heads",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sam_audio", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for stores, runs and reports")
    parser.add_argument("--sets", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="folder to collect the small results in")
    chosen = parser.parse_args()
    for name in chosen.sets:
        data = SETS[name]
        prepared = data.prepare(chosen.data, chosen.out / "stores" / name, chosen.out / "media" / name)
        for suite in SUITES[name]:
            compare(suite, prepared, data, chosen.out / name, chosen.jobs)
        if chosen.results is not None:
            collect(chosen.out / name, SUITES[name], chosen.results / name)
    if chosen.results is not None:
        write_text(chosen.results / "summary.md", summary(chosen.results))


def collect(out: Path, suites: Sequence[str], results: Path) -> None:
    """Copy results, settings, tables and the figures of the suites, without paths of this machine."""
    copy_runs(sorted(path.parent for path in (out / "runs").glob("*/result.json")), results)
    for suite in suites:
        (results / suite).mkdir(parents=True, exist_ok=True)
        files = [out / suite / file for file in ("table.md", "table.tex", "table.csv")]
        for file in [*files, *sorted((out / suite / "figures").glob("featured-*.svg"))]:
            shutil.copyfile(file, results / suite / file.name)


def summary(results: Path) -> str:
    """Return mean and last accuracy of what was collected as Markdown: a table a suite, two columns a set."""
    parts = []
    for suite, title in TITLES.items():
        sets = [name for name in SUITES if (results / name / suite / "table.csv").exists()]
        if sets:
            parts.append(accuracy_table(results, sets, suite, title))
    return "\n".join(parts)


if __name__ == "__main__":
    main()
