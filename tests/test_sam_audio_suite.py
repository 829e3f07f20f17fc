"""The suites ``sam-audio`` and ``sam-audio-parts``: rows, the table of pairs, the figure, and what is collected."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import tiny
from benchmarks import sam_audio as script
from command import call
from mcil.experiment import Experiment
from mcil.suites import SUITES, Settings
from mcil.suites.base import suite

FUSIONS = ("audio", "visual", "naive", "guided")
DISTILLED = ("none", "feature", "logit", "both")
SHORT = "--tasks 3 --memory 12 --training.epochs 1 --training.batch_size 6 --training.exemplar_batch_size 4"
NARROW = "--per_method '{sam-audio-cil: {options: {width: 16, heads: 2}}}'"


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "store": Path("store"),
        "tasks": 3,
        "memory": 12,
        "memory_sizes": [12],
        "modality": "audio-visual",
        "class_order": None,
        "class_seed": None,
        "missing": "error",
        "normalize": "first-task",
        "training": tiny.TRAINING,
        "methods": ["sam-audio-cil"],
        "per_method": {},
    }
    return Settings(**values | changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.make_store(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def options(name: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """All options of each row of a suite, defaults included."""
    return {row.label: row.config()["options"] for row in SUITES[name].experiments(settings(**changes))}


def test_the_ablation_is_every_fusion_with_every_distillation(folder: Path) -> None:
    rows = options("sam-audio")
    assert list(rows) == [", ".join(pair) for pair in itertools.product(FUSIONS, DISTILLED)]
    whole = options("sam-audio-parts")["whole"]
    for label, found in rows.items():
        fusion, distilled = label.split(", ")
        feature = whole["feature_weight"] if distilled in ("feature", "both") else 0
        logit = whole["logit_weight"] if distilled in ("logit", "both") else 0
        assert found == whole | {"fusion": fusion, "feature_weight": feature, "logit_weight": logit}
    assert whole["feature_weight"] > 0
    assert whole["logit_weight"] > 0


def test_each_part_differs_from_the_whole_in_one_option(folder: Path) -> None:
    rows = options("sam-audio-parts")
    whole = rows.pop("whole")
    assert options("sam-audio")["guided, both"] == whole
    changed = [{name for name in whole if own[name] != whole[name]} for own in rows.values()]
    assert [len(names) for names in changed] == [1] * len(rows)
    assert len({json.dumps(own) for own in rows.values()}) == len(rows)


@pytest.mark.parametrize("name", ["sam-audio", "sam-audio-parts"])
def test_every_row_learns_from_both_and_takes_settings_of_the_method(name: str, folder: Path) -> None:
    own = {"sam-audio-cil": {"epochs": 7, "options": {"width": 16, "heads": 2, "logit_weight": 0.5}}}
    for row in SUITES[name].experiments(settings(modality="audio", per_method=own)):
        found = row.config()["options"]
        assert row.modality == "audio-visual"
        assert (row.training.epochs, found["width"]) == (7, 16)
        assert found["logit_weight"] == (0 if row.label.endswith((", none", ", feature")) else 0.5)


def test_the_suite_writes_the_table_of_pairs_and_the_figure_of_the_four_systems(folder: Path) -> None:
    said = call(f"bench sam-audio {SHORT} {NARROW} --seeds 0..1")
    assert said.code == 0, said
    out = folder / "bench" / "sam-audio"
    table = pl.read_csv(out / "table.csv")
    assert set(table["seeds"]) == {2}
    markdown = (out / "table.md").read_text().replace("**", "")
    assert "| Method | None | Feature | Logit | Both |" in markdown
    reached: dict[str, list[float]] = {}
    for path in (folder / "bench").glob("runs/*/config.yaml"):
        result = json.loads((path.parent / "result.json").read_text())
        own = result_options(path)
        distilled = DISTILLED[(own["feature_weight"] > 0) + 2 * (own["logit_weight"] > 0)]
        reached.setdefault(f"{own['fusion']}, {distilled}", []).append(result["mean_accuracy"])
    texts = {label: f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" for label, values in reached.items()}
    for fusion in FUSIONS:
        cells = [texts[f"{fusion}, {distilled}"] for distilled in DISTILLED]
        assert f"| {fusion} | {' | '.join(cells)} |" in markdown
    shown = {"visual only": "visual", "audio only": "audio", "naive fusion": "naive", "guided attention": "guided"}
    bars = ", ".join(f"{name} {texts[f'{fusion}, both']} %" for name, fusion in shown.items())
    page = (out / "report.html").read_text()
    assert f"Mean accuracy: {bars}." in page
    last = {row["label"]: row["last_accuracy"] for row in table.iter_rows(named=True)}
    steps = ", ".join(f"{name} {last[f'{fusion}, both']:.1f} %" for name, fusion in shown.items())
    assert f"Accuracy after the last task: {steps}." in page
    for file in ("featured-mean-accuracy.svg", "featured-accuracy-by-step.svg"):
        ElementTree.parse(out / "figures" / file)

    before = {path: path.stat().st_mtime_ns for path in (folder / "bench").glob("runs/*/result.json")}
    said = call(f"bench sam-audio-parts {SHORT} {NARROW} --seeds 0..1")
    assert said.code == 0, said
    after = {path: path.stat().st_mtime_ns for path in (folder / "bench").glob("runs/*/result.json")}
    parts = pl.read_csv(folder / "bench" / "sam-audio-parts" / "table.csv")
    assert {path: after[path] for path in before} == before
    assert len(after) - len(before) == 2 * (len(parts) - 1)  # the whole is what the other suite has run
    assert not list((folder / "bench" / "sam-audio-parts" / "figures").glob("featured-*"))

    collected = folder / "results"
    script.collect(folder / "bench", ("sam-audio", "sam-audio-parts"), collected / "yt8m-av30")
    summary = script.summary(collected)
    row = table.row(by_predicate=pl.col("label") == "guided, both", named=True)
    cells = [f"{row[f]:.1f} ± {row[f'{f}_std']:.1f}" for f in ("mean_accuracy", "last_accuracy")]
    assert f"| guided, both | {' | '.join(cells)} |" in summary
    assert summary.count("\n| ") == 16 + len(parts) + 1  # one heading begins the text
    kept = [path for path in collected.rglob("*") if path.is_file()]
    assert not any(str(folder) in path.read_text() for path in kept)
    assert {path.suffix for path in kept} == {".json", ".yaml", ".md", ".tex", ".csv", ".svg"}


def result_options(config: Path) -> dict[str, Any]:
    """The options in a run's settings."""
    found: dict[str, Any] = yaml.safe_load(config.read_text())["options"]
    return found


@pytest.fixture
def corners() -> Iterator[None]:
    """A suite of pairs with an empty place, a row that cannot be run, and a figure of both kinds of row."""

    @suite(
        "corners", "Corners", "pair", (), featured=(("b, left", "second"), ("a, right", "gone"), ("a, left", "first"))
    )
    def corners(settings: Settings) -> list[Experiment]:
        """Three of four places."""
        rows = [settings.experiment("ncm", label) for label in ("a, left", "a, right")]
        rows.append(settings.experiment("fine-tuning", "b, left"))
        return [replace(row, tasks=[9]) if row.label == "a, right" else row for row in rows]

    yield
    del SUITES._items["corners"]


def test_a_place_without_a_row_is_a_dash_and_a_row_without_runs_is_in_no_figure(folder: Path, corners: None) -> None:
    said = call(f"bench corners {SHORT} --seeds 0")
    assert said.code == 1, said
    out = folder / "bench" / "corners"
    rows = [line.replace("**", "") for line in (out / "table.md").read_text().splitlines() if line.startswith("| ")]
    accuracy = {row["label"]: row["mean_accuracy"] for row in pl.read_csv(out / "table.csv").iter_rows(named=True)}
    assert rows == [
        "| Method | Left | Right |",
        f"| a | {accuracy['a, left']:.1f} | failed |",
        f"| b | {accuracy['b, left']:.1f} | - |",
    ]
    (alt,) = set(re.findall(r"Mean accuracy: [^\"<]*?%\.", (out / "report.html").read_text()))
    assert alt == f"Mean accuracy: second {accuracy['b, left']:.1f} %, first {accuracy['a, left']:.1f} %."
