"""The study of scenes, on a tiny made archive of the same layout."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import scenes
from benchmarks.real_data_sets import prepare_scenes
from mcil import Learner, Scenario
from mcil.learner import Attention

COMMITTED = Path(__file__).parent.parent / "results" / "scenes"
CLASSES, OBJECTS, WIDTH = 10, 8, 6
SPLITS = np.repeat(np.arange(3), (60, 20, 20))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 100 scenes of eight pictures of eight of ten classes, 4 pictures and 4 sounds a class and split."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    names = np.array([f"class {n}" for n in range(CLASSES)])
    of = np.tile(np.repeat(np.arange(CLASSES), 4), 3)  # the class of a picture, and of a sound
    looks, voices = (3 * generator.normal(size=(CLASSES, WIDTH)) for _ in range(2))
    tokens = looks[of][:, None] + generator.normal(size=(len(of), 4, WIDTH))
    audio = voices[of] / 3 + generator.normal(size=(len(of), WIDTH))
    images = np.zeros((len(SPLITS), 4, 4), dtype=np.int16)
    target = np.full((len(SPLITS), 4), -1, dtype=np.int8)
    labels = np.arange(len(SPLITS)) % CLASSES
    sounds = np.zeros(len(SPLITS), dtype=np.int16)

    def row(label: int, split: int) -> int:
        return (split * CLASSES + label) * 4 + int(generator.integers(4))

    for scene, (label, split) in enumerate(zip(labels, SPLITS, strict=True)):
        others = generator.permutation(np.delete(np.arange(CLASSES), label))[: OBJECTS - 1]
        pictures = generator.permutation([row(int(own), int(split)) for own in (label, *others)])
        for frame in range(4):
            images[scene, frame] = generator.permutation(pictures[:4] if frame < 2 else pictures[4:])
            own = np.flatnonzero(of[images[scene, frame]] == label)
            target[scene, frame] = own[0] if len(own) else -1
        sounds[scene] = row(int(label), int(split))
    np.savez(
        folder / "esc_tin24_scenes.npz",
        audio=audio.astype(np.float16),
        tokens=tokens.astype(np.float16),
        scene_audio=sounds,
        scene_images=images,
        scene_label=labels.astype(np.int16),
        scene_split=SPLITS.astype(np.uint8),
        scene_target=target,
        class_names=names,
        class_orders=generator.permutation(CLASSES)[None],
    )
    np.savez(folder / "esc_tin24.npz", visual_y=of)
    return folder


@pytest.fixture(scope="module")
def studied(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> scenes.Scenes:
    work = tmp_path_factory.mktemp("store")
    return scenes.read_scenes(archive, prepare_scenes(archive, work / "store", work))


def small(study: scenes.Study, *names: str) -> scenes.Study:
    """Return a study with the rows of these names, of few tasks and one epoch."""
    rows = tuple(row for row in study.rows if row.name in names)
    assert len(rows) == len(names)
    return replace(study, tasks=min(study.tasks, 2), epochs=1, rows=rows)


def test_the_sounding_cells_are_the_quadrant_of_the_object(studied: scenes.Scenes, archive: Path) -> None:
    with np.load(archive / "esc_tin24_scenes.npz") as arrays:
        target, images, sounds = arrays["scene_target"], arrays["scene_images"], arrays["scene_audio"]
        tokens = arrays["tokens"].astype(np.float32)
    assert studied.sounding.sum(dim=(1, 2)).tolist() == [8] * len(SPLITS)
    grids = studied.store.read("visual", np.arange(len(SPLITS)))
    for scene in range(len(SPLITS)):
        for frame in range(4):
            cells = studied.sounding[scene, frame].nonzero()[:, 0].tolist()
            quadrant = int(target[scene, frame])
            top, left = 2 * (quadrant // 2), 2 * (quadrant % 2)
            expected = [4 * (top + i) + left + j for i in range(2) for j in range(2)] if quadrant >= 0 else []
            assert cells == expected
            if cells:
                shown = tokens[images[scene, frame, quadrant]]
                np.testing.assert_array_equal(grids[scene, frame, cells].float().numpy(), shown)
    np.testing.assert_array_equal(studied.sounds, sounds)


def test_all_attention_on_the_object_is_a_share_of_one_and_even_attention_an_eighth(studied: scenes.Scenes) -> None:
    count, frames, cells = studied.sounding.shape
    even = Attention(torch.full((count, frames, cells), 1 / cells), torch.full((count, frames), 1 / frames))
    assert scenes.share(even, studied.sounding) == pytest.approx(scenes.EVEN)
    inside = studied.sounding.sum(dim=2)
    on = Attention(studied.sounding / inside.clamp_min(1)[..., None], inside / inside.sum(dim=1, keepdim=True))
    assert scenes.share(on, studied.sounding) == pytest.approx(1)
    assert scenes.share(on, ~studied.sounding) == pytest.approx(0)


def test_what_a_learner_reaches_is_what_it_says_of_the_scenes(studied: scenes.Scenes) -> None:
    learner = Learner("mil-lda", {"rounds": 5})
    reached = scenes.learn(learner, studied, tasks=2)
    scenario = Scenario(studied.store, 2, studied.order)
    rows = np.flatnonzero(np.array(studied.store.splits) == "test")
    clips = scenario.clips(rows)
    right = learner.predict(clips.audio, clips.visual).labels == clips.labels
    assert reached["right"] == right.int().tolist()
    assert reached["test"][1] == pytest.approx(100 * np.mean(reached["right"]))
    assert len(reached["test"]) == len(reached["validation"]) == len(reached["share"]) == 2
    assert scenes.EVEN < reached["share"][1] <= 1


def test_attention_is_measured_only_where_there_is_some(studied: scenes.Scenes, tmp_path: Path) -> None:
    rows = (
        scenes.Row("slda", "slda"),
        scenes.Row("sound alone", "mil-lda", modality="audio"),
        scenes.guided("guided", width=16),
        scenes.guided("frames averaged", width=16, temporal="mean"),
    )
    study = scenes.Study("joint", tasks=1, epochs=1, rows=rows)
    slda, sound, *attending = (scenes.run(studied, study, row, 0, tmp_path)["share"] for row in rows)
    assert slda == sound == [None]
    assert all(0 < share < 1 for (share,) in attending)


def test_a_row_is_not_run_again_unless_its_settings_change(
    studied: scenes.Scenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small(scenes.INCREMENTAL, "mil-lda")
    first = scenes.run(studied, study, study.rows[0], 0, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    assert json.loads(file.read_text()) == first

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("it ran")

    monkeypatch.setattr(scenes, "learn", refuse)
    assert scenes.run(studied, study, study.rows[0], 0, tmp_path) == first
    for changed in (replace(study, tasks=1), replace(study, epochs=2)):
        with pytest.raises(AssertionError, match="it ran"):
            scenes.run(studied, changed, study.rows[0], 0, tmp_path)


def test_what_is_told_more_is_right_more_often(archive: Path) -> None:
    found = scenes.bounds(archive)
    for model in ("LDA", "logistic regression"):
        alone, told = found[f"sound alone: {model}"], found[f"told the eight classes of the scene: {model}"]
        # Whoever is right among ten is right among the eight that hold the right one.
        assert all(after >= before for before, after in zip(alone["right"], told["right"], strict=True))
        assert told["validation"] >= alone["validation"]
        assert alone["test"] == pytest.approx(100 * np.mean(alone["right"]))
    assert found["sound, and that picture: LDA"]["test"] > found["sound alone: LDA"]["test"]


def test_bounds_are_chosen_without_a_look_at_test_scenes(archive: Path, tmp_path: Path) -> None:
    with np.load(archive / "esc_tin24_scenes.npz") as arrays:
        changed = dict(arrays)
    test = changed["scene_split"] == 2
    changed["scene_label"][test] = (changed["scene_label"][test] + 1) % CLASSES
    np.savez(tmp_path / "esc_tin24_scenes.npz", **changed)
    (tmp_path / "esc_tin24.npz").write_bytes((archive / "esc_tin24.npz").read_bytes())
    before, after = scenes.bounds(archive), scenes.bounds(tmp_path)
    assert {name: found["validation"] for name, found in before.items()} == {
        name: found["validation"] for name, found in after.items()
    }


def test_a_gain_counts_sounds_and_not_scenes() -> None:
    generator = np.random.default_rng(0)
    right, reference = generator.integers(0, 2, 40).astype(float), generator.integers(0, 2, 40).astype(float)
    gained, low, high = scenes.gain(right, reference, np.arange(40))
    assert gained == pytest.approx(100 * np.mean(right - reference))
    assert low < gained < high
    again, wider, higher = scenes.gain(*(np.repeat(array, 5) for array in (right, reference, np.arange(40))))
    assert (again, wider, higher) == pytest.approx((gained, low, high))
    assert scenes.gain(right, right, np.arange(40)) == [0, 0, 0]


def test_the_whole_study_goes_on_and_writes_tables_without_predictions(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = (
        small(scenes.JOINT, "sam-audio-cil, naive", "mil-lda", "mil-lda, sound alone"),
        small(scenes.INCREMENTAL, "av-cil", "mil-lda"),
    )
    monkeypatch.setattr(scenes, "STUDIES", studies)
    monkeypatch.setattr(scenes, "SEEDS", (0, 1))
    out, results = tmp_path / "out", tmp_path / "results"
    monkeypatch.setattr(sys, "argv", ["scenes", str(archive), "--out", str(out), "--results", str(results)])
    scenes.main()
    said = capsys.readouterr().out
    written = {file: file.read_bytes() for file in results.iterdir()}
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.json")}
    assert len(list((out / "rows").rglob("*.json"))) == 10 == len(said.splitlines())
    scenes.main()
    assert {file: file.read_bytes() for file in results.iterdir()} == written
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.json")} == times
    table = json.loads((results / "results.json").read_text())
    assert [row["name"] for row in table["joint"]] == [row.name for row in studies[0].rows]
    assert all("right" not in row for rows in table.values() for row in rows)
    assert str(tmp_path) not in "".join(file.read_text() for file in written)
    summary = (results / "summary.md").read_text()
    for row in table["incremental"]:
        lasts = [run[-1] for run in row["test"]]
        assert f"| {row['name']} | " in summary
        assert f" | {np.mean(lasts):.1f} ± {np.std(lasts, ddof=1):.1f} | " in summary
        assert row["seeds"] == [0, 1]
    assert "| mil-lda, sound alone | " in summary
    assert (results / "scenes.svg").read_text().startswith("<?xml")


def test_the_kept_tables_are_those_of_the_kept_figures() -> None:
    table = json.loads((COMMITTED / "results.json").read_text())
    assert (COMMITTED / "summary.md").read_text() == scenes.summary(table)
    for study in scenes.STUDIES:
        assert [row["name"] for row in table[study.name]] == [row.name for row in study.rows]
        for row in table[study.name]:
            assert {len(runs) for runs in (row["seeds"], row["test"], row["share"])} == {len(row["seeds"])}
            assert row["settings"]["training"]["epochs"] == study.epochs
            assert all(len(run) == study.tasks for run in row["test"])


def test_no_prediction_and_no_picture_of_the_data_is_kept() -> None:
    assert {file.name for file in COMMITTED.iterdir()} == {"README.md", "results.json", "summary.md", "scenes.svg"}
    assert "<image" not in (COMMITTED / "scenes.svg").read_text()
    assert '"right"' not in (COMMITTED / "results.json").read_text()
