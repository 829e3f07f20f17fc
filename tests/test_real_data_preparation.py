"""The preparation of real data sets, on tiny made archives of the same layout."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from benchmarks import real_data, real_data_sets
from mcil.data.store import FeatureStore

COMMITTED = Path(__file__).parent.parent / "results" / "real-data"
NAMES = np.array(["pig", "dog", "cow", "hen"])
ORDER = np.array([[2, 0, 3, 1], [0, 1, 2, 3]])
ORDERED = ["cow", "pig", "hen", "dog"]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def paths(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Return the folders of the data, of the store and of everything else."""
    return folder, folder / "stores" / name, folder / "media" / name


def splits(store: FeatureStore) -> dict[str, int]:
    return {split: store.splits.count(split) for split in ("train", "val", "test")}


def every_pair(sounds: Any, pictures: Any, sound_classes: Any, picture_classes: Any) -> Any:
    """Return all pairs of a sound and a picture of the same class, as rows of both, shuffled."""
    pairs = [(s, p) for s in sounds for p in pictures if sound_classes[s] == picture_classes[p]]
    return np.random.default_rng(1).permutation(np.array(pairs, dtype=np.int32))


def test_features_become_a_store_with_the_splits_of_the_archive(tmp_path: Path, generator: np.random.Generator) -> None:
    audio = generator.normal(size=(24, 5)).astype(np.float16)
    np.savez(
        tmp_path / "yt8m_av30.npz",
        audio=audio,
        visual=generator.normal(size=(24, 7)).astype(np.float16),
        y=np.repeat(np.arange(4, dtype=np.int16), 6),
        split=np.tile(np.array([0, 0, 0, 1, 2, 2], dtype=np.uint8), 4),
        ids=np.array([f"v{n}" for n in range(24)]),
        class_names=NAMES,
        class_orders=ORDER,
    )
    prepared = real_data_sets.prepare_yt8m(*paths(tmp_path, "yt8m-av30"))
    store = FeatureStore(prepared.store)
    assert prepared.class_order == ORDERED
    assert store.shapes == {"audio": (5,), "visual": (1, 1, 7)}
    assert splits(store) == {"train": 12, "val": 4, "test": 8}
    assert store.labels[::6] == list(NAMES)
    np.testing.assert_array_equal(store.read("audio", np.arange(24)).numpy(), audio)


@pytest.fixture
def esc_tin24(tmp_path: Path, generator: np.random.Generator) -> Path:
    """Write 4 classes with 12 sounds each, of which some are parts of one recording, and 4 pictures each."""
    classes, picture_classes = np.repeat(np.arange(4), 12), np.repeat(np.arange(4), 4)
    fold = np.tile(np.array([1] * 9 + [5] * 3), 4)
    keys = [f"{fold[n]}-{100 + n // 2}-{'AB'[n % 2]}-{classes[n]}" for n in range(48)]
    is_test = np.tile(np.array([False, False, False, True]), 4)
    np.savez(
        tmp_path / "esc_tin24.npz",
        audio_key=np.array(keys),
        audio_y=classes,
        class_names=NAMES,
        class_orders=ORDER,
        pairs_train_f5=every_pair(np.flatnonzero(fold == 1), np.flatnonzero(~is_test), classes, picture_classes),
        pairs_test_f5=every_pair(np.flatnonzero(fold == 5), np.flatnonzero(is_test), classes, picture_classes),
    )
    np.savez(
        tmp_path / "esc_tin24_raw.npz",
        logmel=generator.integers(0, 256, (48, 128, 60), dtype=np.uint8),
        image=generator.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8),
    )
    return tmp_path


def test_paired_sounds_and_pictures_are_encoded_by_the_rows_of_the_pairs(esc_tin24: Path) -> None:
    prepared = real_data_sets.prepare_esc_tin24(*paths(esc_tin24, "esc-tin24"))
    store = FeatureStore(prepared.store)
    assert prepared.class_order == ORDERED
    assert store.shapes == {"audio": (279,), "visual": (1, 16, 111)}
    sound, look = real_data_sets.builtin(frames=1, grid=4)
    assert store.card["encoders"] == {"audio": sound.card(), "visual": look.card()}
    with np.load(esc_tin24 / "esc_tin24.npz") as pairs, np.load(esc_tin24 / "esc_tin24_raw.npz") as raw:
        for row in (0, len(store) // 2, len(store) - 1):
            key, picture = store.ids[row].split("+")
            place = list(pairs["audio_key"]).index(key)
            assert store.labels[row] == NAMES[pairs["audio_y"][place]] == NAMES[int(picture) // 4]
            heard = sound.encode_logmel(real_data_sets.decibels(raw["logmel"][place]), 0.0202)
            seen = look.encode_pictures(raw["image"][int(picture)][None])
            np.testing.assert_allclose(store.read("audio", np.array([row]))[0], heard, atol=1e-6)
            np.testing.assert_allclose(store.read("visual", np.array([row]))[0], seen, atol=2e-2)


def test_no_recording_is_in_two_splits_and_each_class_is_validated(esc_tin24: Path) -> None:
    store = FeatureStore(real_data_sets.prepare_esc_tin24(*paths(esc_tin24, "esc-tin24")).store)
    recordings: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for name, split in zip(store.ids, store.splits, strict=True):
        recordings[split].add(name.split("-")[1] if split != "test" else name.split("+")[0])
    assert not recordings["train"] & recordings["val"]
    for split in recordings:
        assert {label for label, own in zip(store.labels, store.splits, strict=True) if own == split} == set(NAMES)


def test_what_is_prepared_is_not_made_again(esc_tin24: Path) -> None:
    first = real_data_sets.prepare_esc_tin24(*paths(esc_tin24, "esc-tin24"))
    (esc_tin24 / "esc_tin24_raw.npz").unlink()
    np.savez(esc_tin24 / "esc_tin24_raw.npz")
    assert real_data_sets.prepare_esc_tin24(*paths(esc_tin24, "esc-tin24")) == first


@pytest.fixture
def digits(tmp_path: Path, generator: np.random.Generator) -> Path:
    """Write 2 classes with 10 recordings of noise each, 3 of them to test on; each picture is in one pair."""
    classes, keys = np.repeat(np.arange(2), 10), [f"{n // 10}_ann_{n % 10}" for n in range(20)]
    pairs = np.array([(picture % 20, picture) for picture in range(60)], dtype=np.int32)
    is_test = pairs[:, 0] % 10 < 3
    np.savez(
        tmp_path / "av_mnist.npz",
        wav_noisy=generator.integers(-3000, 3000, (20, 4000), dtype=np.int16),
        image_hard=generator.integers(0, 256, (60, 28, 28), dtype=np.uint8),
        audio_y=classes.astype(np.int8),
        audio_key=np.array(keys),
        class_names=NAMES[:2],
        class_orders=np.array([[1, 0]]),
        pairs_train=pairs[~is_test],
        pairs_test=pairs[is_test],
    )
    return tmp_path


def test_digits_become_files_that_are_imported_checked_and_extracted(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, target, work = paths(digits, "av-mnist")
    prepared = real_data_sets.prepare_av_mnist(data, target, work, clips=(5, 2, 3))
    store = FeatureStore(prepared.store)
    assert "20 clips (10 train, 4 val, 6 test) of 2 classes" in capsys.readouterr().out
    assert prepared.class_order == ["dog", "pig"]
    assert store.shapes == {"audio": (279,), "visual": (1, 16, 111)}
    assert store.card["encoders"]["audio"]["options"]["rate"] == 8000
    assert (target / "failures.csv").read_text().count("\n") <= 1
    with np.load(digits / "av_mnist.npz") as arrays:
        for record in map(store.record, range(len(store))):
            key, picture = record.id.split("+")
            place = list(arrays["audio_key"]).index(key)
            assert record.label == NAMES[arrays["audio_y"][place]]
            with wave.open(str(work / str(record.audio))) as file:
                assert file.getparams()[:4] == (1, 2, 8000, 4000)
                written = np.frombuffer(file.readframes(4000), dtype="<i2")
            np.testing.assert_array_equal(written, arrays["wav_noisy"][place])
            np.testing.assert_array_equal(
                np.array(Image.open(work / str(record.image))), arrays["image_hard"][int(picture)]
            )


def test_sound_files_get_the_split_of_their_fold_and_their_recording(
    tmp_path: Path, generator: np.random.Generator
) -> None:
    for folder in ("002 - Rain", "001 - Dog bark"):
        (tmp_path / "esc10" / folder).mkdir(parents=True)
        for fold in range(1, 6):
            for part in "AB":
                # Only the name says .ogg: files are opened by their content.
                real_data_sets.write_wav(
                    tmp_path / "esc10" / folder / f"{fold}-{fold}{len(folder)}-{part}.ogg",
                    generator.integers(-3000, 3000, 8000, dtype=np.int16),
                    16000,
                )
    prepared = real_data_sets.prepare_esc10(*paths(tmp_path, "esc10"))
    store = FeatureStore(prepared.store)
    assert prepared.class_order == ["Dog bark", "Rain"]
    assert store.shapes == {"audio": (279,)}
    assert splits(store) == {"train": 12, "val": 4, "test": 4}
    for record in map(store.record, range(len(store))):
        fold, recording, _ = record.id.split("-")
        assert record.source == recording
        assert record.split == {"4": "val", "5": "test"}.get(fold, "train")


def test_holding_out_takes_whole_groups_of_every_class() -> None:
    groups, classes = np.arange(80) // 4, np.repeat([0, 1], 40)
    held = real_data_sets.hold_out(groups, classes, share=0.3, seed=0)
    assert set(groups[held]).isdisjoint(groups[~held])
    assert [len(set(groups[held & (classes == label)])) for label in (0, 1)] == [3, 3]
    np.testing.assert_array_equal(held, real_data_sets.hold_out(groups, classes, share=0.3, seed=0))
    assert not np.array_equal(held, real_data_sets.hold_out(groups, classes, share=0.3, seed=1))


@pytest.mark.parametrize(
    ("clips", "batch"), [(2000, 256), (1024, 256), (1023, 128), (570, 128), (48, 8), (4, 1), (1, 1)]
)
def test_the_smallest_task_has_four_steps_an_epoch_where_it_can(clips: int, batch: int) -> None:
    assert real_data.batch_size(clips) == batch


def test_new_and_old_classes_are_told_apart_right_after_each_task() -> None:
    # After task 1 (classes 1 and 2 are new): clips of class 0, 0, 1, 1, 2, 2.
    predictions = pl.DataFrame(
        {
            "after_task": [0, 0] + [1] * 6 + [1],
            "inputs": ["audio"] * 8 + ["visual"],
            "label": [0, 0, 0, 0, 1, 1, 2, 2, 2],
            "prediction": [0, 0, 0, 2, 1, 0, 1, 0, 2],
        }
    )
    shares = real_data.new_and_old(predictions, {"task_sizes": [1, 2], "modality": "audio"})
    assert shares == {"new": 25.0, "new_as_old": 50.0, "old": 50.0, "old_as_new": 50.0}


@pytest.fixture
def finished(tmp_path: Path, generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Run every method for an epoch on two classes."""
    store = FeatureStore.write(
        tmp_path / "stores" / "tiny",
        labels=[*"ab"] * 12,
        splits=["train"] * 16 + ["val"] * 4 + ["test"] * 4,
        audio=generator.normal(size=(24, 3)).astype(np.float32),
    )
    monkeypatch.setattr(real_data, "SEEDS", (0, 1))
    data = real_data_sets.RealData(real_data_sets.prepare_yt8m, tasks=2, memory=4, modalities=("audio",))
    experiments = real_data.experiments(real_data_sets.Prepared(store.path, ["b", "a"]), data, epochs=1)
    assert {experiment.training.batch_size for experiment in experiments} == {2}
    return [run.folder for run in real_data.run_all(experiments, tmp_path / "runs")]


def test_what_is_collected_names_no_path_of_the_machine(finished: list[Path], tmp_path: Path) -> None:
    results = tmp_path / "results"
    (results / "runs" / "of-other-settings").mkdir(parents=True)
    real_data.collect(finished, results)
    assert {path.name for path in (results / "runs").iterdir()} == {folder.name for folder in finished}
    for file in (path for path in results.rglob("*") if path.is_file()):
        assert str(tmp_path) not in file.read_text(), file
    for folder in finished:
        result = json.loads((results / "runs" / folder.name / "result.json").read_text())
        assert result["data"]["store"] == "tiny"
        assert result["mean_accuracy"] == json.loads((folder / "result.json").read_text())["mean_accuracy"]


def test_collected_tables_hold_mean_and_deviation_over_seeds(finished: list[Path], tmp_path: Path) -> None:
    results = tmp_path / "results"
    real_data.collect(finished, results)
    table = pl.read_csv(results / "results.csv")
    assert table["method"].to_list() == list(real_data.METHODS)
    assert table["seeds"].to_list() == [2, 2, 2]
    for method, mean in zip(table["method"], table["last_accuracy"], strict=True):
        runs = [json.loads((folder / "result.json").read_text()) for folder in finished]
        assert mean == pytest.approx(np.mean([run["last_accuracy"] for run in runs if run["method"] == method]))
    written = (results / "tables.md").read_text()
    assert written.count("| audio | av-cil |") == 2
    assert "±" in written


def test_every_row_of_the_page_is_one_of_a_collected_table() -> None:
    tables = {
        folder.name: (folder / "tables.md").read_text().splitlines()
        for folder in COMMITTED.iterdir()
        if folder.is_dir()
    }
    assert sorted(tables) == sorted(real_data_sets.REAL_DATA)
    page = (COMMITTED.parent.parent / "docs" / "real-data.md").read_text().splitlines()
    rows = [line for line in page if "±" in line and line.startswith("|")]
    assert len(rows) > 40
    for row in rows:
        name, _, rest = row.removeprefix("| ").partition(" | ")
        if name in tables:  # a table of several sets
            assert f"| {rest}" in tables[name], row
        else:
            assert any(row in lines for lines in tables.values()), row


def test_committed_results_are_complete_and_name_no_folder() -> None:
    for name, data in real_data_sets.REAL_DATA.items():
        results = sorted((COMMITTED / name / "runs").glob("*/result.json"))
        assert len(results) == len(data.modalities) * len(real_data.METHODS) * len(real_data.SEEDS)
        for file in results:
            assert json.loads(file.read_text())["data"]["store"] == name
            assert f"store: {name}\n" in (file.parent / "config.yaml").read_text()
