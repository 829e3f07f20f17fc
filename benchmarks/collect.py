"""What of finished runs is kept in the project: small, and without paths of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from mcil.files import read_json, write_json, write_text


def copy_runs(runs: Sequence[Path], results: Path, add: bool = False) -> list[dict[str, Any]]:
    """Copy result and settings of each run to ``results/runs/<run>``, and return the results.

    They take the place of all runs that are there; with ``add`` only of those of the same methods.
    """
    found = [read_json(folder / "result.json", "result of a run") for folder in runs]
    methods = {result["method"] for result in found}
    for kept in list((results / "runs").glob("*")):
        if not add or read_json(kept / "result.json", "result of a run")["method"] in methods:
            shutil.rmtree(kept)
    for folder, result in zip(runs, found, strict=True):
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        result["data"]["store"] = config["store"] = Path(config["store"]).name
        write_json(results / "runs" / folder.name / "result.json", result)
        write_text(results / "runs" / folder.name / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    return found


def accuracy_table(results: Path, sets: Sequence[str], suite: str, title: str | None = None) -> str:
    """Return mean and last accuracy of a suite's rows on every set, from ``results/<set>/<suite>/table.csv``.

    It is a Markdown table; ``title`` heads the rows, by default the suite.
    """
    tables = [pl.read_csv(results / name / suite / "table.csv") for name in sets]
    lines = [
        f"| {title or suite} | {' | '.join(f'{name}: mean | last' for name in sets)} |",
        f"|---|{'---:|' * 2 * len(sets)}",
    ]
    for label in tables[0]["label"]:
        rows = [table.row(by_predicate=pl.col("label") == label, named=True) for table in tables]
        cells = [
            f"{row[figure]:.1f} ± {row[f'{figure}_std']:.1f}"
            for row in rows
            for figure in ("mean_accuracy", "last_accuracy")
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
