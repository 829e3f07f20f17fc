"""The comparison of all methods and that with the published code's runs, on tiny made archives."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import tiny
from benchmarks import comparison, published_runs, real_data_sets
from benchmarks.real_data_sets import Prepared, RealData
from mcil.data.store import FeatureStore
from mcil.errors import McilError

NAMES = np.array(["pig", "dog", "cow", "hen"])
ORDER = np.array([[2, 0, 3, 1]])
ORDERED = ["cow", "pig", "hen", "dog"]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def paths(folder: Path) -> tuple[Path, Path, Path]:
    """Return the folders of the data, of the store and of everything else."""
    return folder, folder / "store", folder / "media"


def pairs(classes: Any, keep: Any) -> Any:
    """Return pairs of the chosen sounds with two pictures each; picture 2 n and 2 n + 1 are of sound n's class."""
    sounds = np.flatnonzero(keep)
    return np.stack([np.repeat(sounds, 2), np.stack([2 * sounds, 2 * sounds + 1], 1).ravel()], 1).astype(np.int32)


def test_pretrained_features_are_read_by_the_rows_of_the_pairs(tmp_path: Path, generator: np.random.Generator) -> None:
    classes, fold = np.repeat(np.arange(4), 12), np.tile(np.array([1] * 9 + [5] * 3), 4)
    audio = generator.normal(size=(48, 5)).astype(np.float16)
    visual = generator.normal(size=(96, 3)).astype(np.float16)
    np.savez(
        tmp_path / "esc_tin24.npz",
        audio=audio,
        visual=visual,
        audio_key=np.array([f"{fold[n]}-{n // 2}-A-{classes[n]}" for n in range(48)]),
        audio_y=classes,
        class_names=NAMES,
        class_orders=ORDER,
        pairs_train_f5=pairs(classes, fold == 1),
        pairs_test_f5=pairs(classes, fold == 5),
    )
    prepared = real_data_sets.prepare_esc_tin24_pretrained(*paths(tmp_path))
    assert prepared.class_order == ORDERED
    store = FeatureStore(prepared.store)
    assert store.shapes == {"audio": (5,), "visual": (1, 1, 3)}
    assert store.splits.count("test") == 24
    recordings: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for row, name in enumerate(store.ids):
        recordings[store.splits[row]].add(name.split("-")[1])
        picture = int(name.split("+")[1])
        assert store.labels[row] == NAMES[classes[picture // 2]]
        np.testing.assert_array_equal(store.read("audio", np.array([row]))[0], audio[picture // 2])
        np.testing.assert_array_equal(store.read("visual", np.array([row]))[0, 0, 0], visual[picture])
    assert recordings["train"]
    assert recordings["val"]
    assert not recordings["train"] & recordings["val"]


def test_a_scene_is_a_grid_of_its_pictures_patches(tmp_path: Path, generator: np.random.Generator) -> None:
    """A patch's number says picture and place in it, so that each place of the grid can be told."""
    pictures, scenes = 10, 8
    tokens = np.arange(pictures * 4, dtype=np.float16).reshape(pictures, 4, 1).repeat(2, axis=2)
    images = generator.integers(0, pictures, (scenes, 4, 4)).astype(np.int16)
    np.savez(
        tmp_path / "esc_tin24_scenes.npz",
        audio=generator.normal(size=(6, 3)).astype(np.float16),
        tokens=tokens,
        scene_audio=generator.integers(0, 6, scenes).astype(np.int16),
        scene_images=images,
        scene_label=np.tile(np.arange(4), 2).astype(np.int16),
        scene_split=np.array([0, 0, 0, 0, 1, 1, 2, 2], dtype=np.uint8),
        class_names=NAMES,
        class_orders=ORDER,
    )
    store = FeatureStore(real_data_sets.prepare_scenes(*paths(tmp_path)).store)
    assert store.shapes == {"audio": (3,), "visual": (4, 16, 2)}
    grid = store.read("visual", np.arange(scenes)).numpy()[..., 0].reshape(scenes, 4, 4, 4)
    for scene, frame, row, column in np.ndindex(scenes, 4, 4, 4):
        quadrant, patch = 2 * (row // 2) + column // 2, 2 * (row % 2) + column % 2
        assert grid[scene, frame, row, column] == 4 * images[scene, frame, quadrant] + patch
    assert store.labels[:4] == list(NAMES)


def made_store(folder: Path, generator: np.random.Generator) -> FeatureStore:
    """Write 3 classes that a line between their sounds tells apart; the pictures are noise."""
    labels = np.repeat(np.arange(3), 20)
    return FeatureStore.write(
        folder,
        labels=[f"class {label}" for label in labels],
        splits=[("train", "train", "val", "test")[n % 4] for n in range(60)],
        audio=(4 * np.eye(3)[labels] + generator.normal(scale=0.3, size=(60, 3))).astype(np.float32),
        visual=generator.normal(size=(60, 1, 2, 2)).astype(np.float32),
    )


def test_joint_regression_learns_all_classes_at_once(tmp_path: Path, generator: np.random.Generator) -> None:
    reached = comparison.joint_regression(made_store(tmp_path / "store", generator))
    assert reached["strength"] in comparison.STRENGTHS
    assert reached["validation_accuracy"] > 95
    assert reached["test_accuracy"] > 95


def test_one_table_sums_up_all_sets(tmp_path: Path) -> None:
    for name, accuracy in (("made-clips", 70.0), ("esc10", 80.04)):
        (tmp_path / name).mkdir()
        figures = {
            "mean_accuracy": accuracy,
            "mean_accuracy_std": 1.26,
            "last_accuracy": 60.0,
            "last_accuracy_std": 2.0,
        }
        pl.DataFrame([{"label": label, **figures} for label in ("ncm", "oracle", "er")]).write_csv(
            tmp_path / name / "table.csv"
        )
        (tmp_path / name / "joint.json").write_text(json.dumps({"test_accuracy": 91.44}))
    assert comparison.summary(tmp_path).splitlines() == [
        "| Mean accuracy | learns by | exemplars | made-clips | esc10 |",
        "|---|---|---|---:|---:|",
        "| er | gradient | yes | 70.0 ± 1.3 | 80.0 ± 1.3 |",
        "| ncm | sums | no | 70.0 ± 1.3 | 80.0 ± 1.3 |",
        "| oracle | gradient | all clips | 70.0 ± 1.3 | 80.0 ± 1.3 |",
        "",
        "| Last accuracy | learns by | exemplars | made-clips | esc10 |",
        "|---|---|---|---:|---:|",
        "| er | gradient | yes | 60.0 ± 2.0 | 60.0 ± 2.0 |",
        "| ncm | sums | no | 60.0 ± 2.0 | 60.0 ± 2.0 |",
        "| oracle | gradient | all clips | 60.0 ± 2.0 | 60.0 ± 2.0 |",
        "| joint logistic regression | gradient | all clips | 91.4 | 91.4 |",
    ]


def test_a_method_that_was_not_run_on_a_set_has_no_figure_there(tmp_path: Path) -> None:
    figures = ("mean_accuracy", "mean_accuracy_std", "last_accuracy", "last_accuracy_std")
    for name, labels in (("made-clips", ["er"]), ("esc10", ["er", "ncm"])):
        (tmp_path / name).mkdir()
        rows = [{"label": label} | dict.fromkeys(figures, 5.0) for label in labels]
        pl.DataFrame(rows).write_csv(tmp_path / name / "table.csv")
        (tmp_path / name / "joint.json").write_text(json.dumps({"test_accuracy": 91.44}))
    assert comparison.summary(tmp_path).count("| ncm | sums | no | - | 5.0 ± 5.0 |") == 2


def test_the_summary_says_how_each_method_learns(tmp_path: Path) -> None:
    (tmp_path / "esc10").mkdir()
    figures = ("mean_accuracy", "mean_accuracy_std", "last_accuracy", "last_accuracy_std")
    rows = [
        {"label": label} | dict.fromkeys(figures, 5.0) for label in ("mil-lda", "sam-audio-analytic", "sam-audio-cil")
    ]
    pl.DataFrame(rows).write_csv(tmp_path / "esc10" / "table.csv")
    (tmp_path / "esc10" / "joint.json").write_text(json.dumps({"test_accuracy": 91.44}))
    assert comparison.summary(tmp_path).splitlines()[2:5] == [
        "| sam-audio-analytic | gradient, then sums | no | 5.0 ± 5.0 |",
        "| sam-audio-cil | gradient | yes | 5.0 ± 5.0 |",
        "| mil-lda | sums | no | 5.0 ± 5.0 |",
    ]


# Methods that are added later.


@dataclass(frozen=True)
class Kept:
    """What one set's folder of results holds."""

    rows: dict[str, str]
    shares: dict[str, str]
    runs: dict[str, float]
    tests: str
    joint: str


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Kept]:
    """Run the comparison of some methods on tiny features, in a folder of its own, and collect them in one."""
    store = tmp_path / "tiny"
    tiny.make_store(store)
    monkeypatch.setattr(comparison, "EPOCHS", 1)
    monkeypatch.setattr(comparison, "SEEDS", "0,1")

    def run(methods: str, out: str, read: Path = store) -> Kept:
        order = list("fedcba")
        made = RealData(lambda data, folder, work: Prepared(read, order), tasks=3, memory=12)
        monkeypatch.setattr(comparison, "SETS", {"made-clips": made})
        arguments = ["DATA", "--out", str(tmp_path / out), "--methods", methods, "--jobs", "1"]
        monkeypatch.setattr("sys.argv", ["comparison", *arguments, "--results", str(tmp_path / "results")])
        comparison.main()
        return kept(tmp_path / "results" / "made-clips")

    return run


def kept(results: Path) -> Kept:
    rows, shares = (
        {line.split(",")[column]: line for line in (results / file).read_text().splitlines()[1:]}
        for file, column in (("table.csv", 0), ("new-and-old.csv", 1))
    )
    runs = {path.parent.name: json.loads(path.read_text())["mean_accuracy"] for path in results.glob("runs/*/*.json")}
    assert {folder.name for folder in (results / "runs").iterdir()} == set(runs)
    tests, joint = ((results / file).read_text() for file in ("table.md", "joint.json"))
    return Kept(rows, shares, runs, tests, joint)


def test_methods_are_added_to_those_that_are_kept(add: Callable[..., Kept], tmp_path: Path) -> None:
    first = add("ncm,fine-tuning,oracle", "first")
    more = add("slda,er", "more")
    assert list(first.rows) == ["fine-tuning", "ncm", "oracle"]
    assert list(more.rows) == list(more.shares) == ["er", "fine-tuning", "ncm", "slda", "oracle"]
    for before, after in ((first.rows, more.rows), (first.shares, more.shares)):
        assert {method: after[method] for method in before} == before
    assert more.runs.items() >= first.runs.items()
    assert len(more.runs) == 10
    for method in more.rows:
        found = [mean for name, mean in more.runs.items() if name.startswith(f"{method}-audio-visual")]
        assert float(more.rows[method].split(",")[7]) == pytest.approx(sum(found) / 2, abs=1e-3)
    # Tests need predictions, and those of the first three are not kept.
    assert (more.tests, more.joint) == (first.tests, first.joint)
    assert "slda" not in more.tests
    summary = (tmp_path / "results" / "summary.md").read_text()
    assert [line.split(" | ")[0] for line in summary.splitlines()[2:7]] == [
        f"| {name}" for name in ("fine-tuning", "er", "ncm", "slda", "oracle")
    ]


def test_what_is_run_again_takes_the_place_of_what_is_kept_of_it(
    add: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add("ncm,fine-tuning", "first")
    monkeypatch.setattr(comparison, "EPOCHS", 8)
    again = add("fine-tuning", "again")
    assert again.rows["ncm"] == first.rows["ncm"]
    assert again.rows["fine-tuning"] != first.rows["fine-tuning"]
    assert len(again.runs) == 4
    changed = {name.partition("-audio")[0] for name in again.runs if name not in first.runs}
    assert changed == {"fine-tuning"}
    assert again.tests == first.tests
    # All that are kept, and one more, from the same folder: then the tests are of all of them.
    whole = add("slda,ncm,fine-tuning", "again")
    assert whole.rows.items() >= again.rows.items()
    assert "slda" in whole.tests


def test_methods_are_not_added_to_those_of_other_features(add: Callable[..., Kept], tmp_path: Path) -> None:
    first = add("ncm", "first")
    other = tmp_path / "other"
    tiny.make_store(other, seed=1)
    with pytest.raises(McilError, match="was computed from other features than those of") as error:
        add("slda", "more", other)
    assert "\n" not in str(error.value)
    assert kept(tmp_path / "results" / "made-clips") == first
    assert not (tmp_path / "more").exists()


def test_the_published_preparation_is_centred_and_scaled_on_training_rows(
    tmp_path: Path, generator: np.random.Generator
) -> None:
    count = 900
    np.savez(
        tmp_path / "yt8m_av30.npz",
        audio=generator.normal(1, 2, (count, 128)).astype(np.float16),
        visual=generator.normal(3, 5, (count, 800)).astype(np.float16),
        y=(np.arange(count) % 4).astype(np.int16),
        split=np.array([0] * 800 + [1] * 50 + [2] * 50, dtype=np.uint8),
        class_names=NAMES,
        class_orders=ORDER,
    )
    store = FeatureStore(published_runs.prepare(tmp_path / "yt8m_av30.npz", tmp_path / "store"))
    assert store.shapes == {"audio": (768,), "visual": (1, 1, 768)}
    train = np.arange(800)
    audio, visual = store.read("audio", train).numpy()[:, :128], store.read("visual", train).numpy()
    assert not store.read("audio", train)[:, 128:].any()
    for features, rms in ((audio, 0.8573), (visual, 0.5)):
        np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
        assert math.sqrt((features**2).mean()) == pytest.approx(rms, abs=1e-3)


def test_runs_are_compared_by_their_means_and_spreads() -> None:
    ours = [
        {"method": "er", "mean_accuracy": mean, "average_forgetting": 2.0, "last_accuracy": 50.0}
        for mean in (70.0, 72.0, 74.0)
    ]
    published = {
        "er": {
            str(seed): {"step_accuracy": [90.0, last], "mean_accuracy": mean, "average_forgetting": None}
            for seed, (mean, last) in enumerate([(75.0, 49.0), (76.0, 50.0), (77.0, 51.0)])
        }
    }
    table = {row["figure"]: row for row in published_runs.compare(ours, published).iter_rows(named=True)}
    assert set(table) == {"mean_accuracy", "last_accuracy"}  # the published code gave no forgetting
    mean = table["mean_accuracy"]
    assert (mean["ours"], mean["published"], mean["difference"], mean["seeds"]) == (72, 76, -4, 3)
    assert mean["standard_error"] == pytest.approx(math.sqrt((4 + 1) / 3), abs=1e-4)
    assert "| er | Mean accuracy | 72.0 ± 2.0 | 76.0 ± 1.0 | -4.0 ± 1.3 |" in published_runs.markdown(
        published_runs.compare(ours, published)
    )
