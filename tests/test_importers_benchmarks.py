"""Importers of the audio-visual benchmarks: raw videos to manifests, published features to stores."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks.avcil_files import (
    CLASSES,
    audio_of,
    flat,
    many_visuals,
    stream_dictionary,
    videos,
    visual_of,
    write_dictionary,
    write_features,
    write_lists,
)
from mcil.data import synthetic, unpickle, writer
from mcil.data.benchmarks import BENCHMARKS, benchmark_of
from mcil.data.check import check_manifest
from mcil.data.importers.avcil_features import AUDIO, LISTS, VISUAL, import_avcil_features
from mcil.data.importers.ave import import_ave
from mcil.data.importers.kinetics_sounds import import_kinetics_sounds
from mcil.data.importers.vggsound import import_vggsound
from mcil.data.manifest import read_manifest
from mcil.data.store import FeatureStore
from mcil.errors import McilError
from mcil.types import ClipRecord

COUNTS = {"train": 2, "val": 1, "test": 1}


def test_benchmarks() -> None:
    known = [benchmark for benchmark in BENCHMARKS.values() if benchmark.clips is not None]
    sizes = {b.name: (len(set(b.class_order)), b.task_sizes, b.memory, sum(b.clips or ())) for b in known}
    assert sizes == {
        "AVE-CI": (28, (7,) * 4, 340, 4079),
        "K-S-CI": (30, (6,) * 5, 500, 23125),
        "VS100-CI": (100, (10,) * 10, 1500, 61195),
    }
    for benchmark in known:
        assert benchmark_of(reversed(benchmark.class_order)) is benchmark
        assert benchmark_of(benchmark.class_order[1:]) is None
        assert not benchmark.has_classes([*benchmark.class_order, "another"])
    assert BENCHMARKS["AVE-CI"].class_order[2] == "Fixed-wing aircraft, airplane"


# Published features


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of three classes with four videos each; they are not to be changed."""
    root = tmp_path_factory.mktemp("published") / "AVE"
    listed = videos(COUNTS, classes=3)
    write_lists(root, listed)
    write_features(root, flat(listed))
    return root


@pytest.fixture
def root(published: Path, tmp_path: Path) -> Path:
    """The same files, of which each may be replaced but not changed in place."""
    return Path(shutil.copytree(published, tmp_path / "AVE", copy_function=lambda a, b: Path(b).symlink_to(a)))


def replace_dictionary(path: Path, content: Any, protocol: int | None = None) -> None:
    path.unlink(missing_ok=True)
    write_dictionary(path, content, protocol)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lists_of(root: Path) -> list[dict[Any, Any]]:
    return [unpickle.read_dictionary(root / name) for name in LISTS]


def refusal(root: Path) -> str:
    """Import what cannot be imported: one line, and no store."""
    out = root.parent / "refused"
    with pytest.raises(McilError) as error:
        import_avcil_features(root, out)
    assert "\n" not in str(error.value)
    assert not (out / "card.json").exists()
    assert not list(out.glob("shards/*"))
    return str(error.value)


def test_the_store_has_the_features_of_every_listed_clip(root: Path, tmp_path: Path) -> None:
    listed = videos(COUNTS, classes=3)
    store = FeatureStore(import_avcil_features(root, tmp_path / "store"))
    assert store.shapes == {"audio": (768,), "visual": (8, 196, 768)}
    assert store.ids == flat(listed)
    assert store.splits == ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    assert store.labels == [CLASSES[int(video.split("-")[1])] for video in store.ids]
    rows = np.arange(len(store))
    audio, visual = store.read("audio", rows).numpy(), store.read("visual", rows).numpy()
    assert (audio.dtype, visual.dtype) == (np.float32, np.float16)
    for row in rows:
        np.testing.assert_array_equal(audio[row], audio_of(row))
        np.testing.assert_array_equal(visual[row].reshape(1568, 768), visual_of(row).astype(np.float16))
    assert store.card["class_order"] == list(CLASSES[:3])
    assert store.card["encoders"]["visual"]["grid"] == [14, 14]
    assert "benchmark" not in store.card


@pytest.mark.parametrize(("hdf5", "protocol"), [(True, None), (False, 2), (False, 3)])
def test_other_kinds_of_files_give_the_same_features(root: Path, tmp_path: Path, hdf5: bool, protocol: int) -> None:
    other = tmp_path / "other"
    listed = videos(COUNTS, classes=3)
    write_lists(other, listed)
    write_features(other, flat(listed), hdf5, protocol)
    import_avcil_features(root, tmp_path / "a", dtype="float32")
    import_avcil_features(other, tmp_path / "b", dtype="float32")
    a, b = FeatureStore(tmp_path / "a"), FeatureStore(tmp_path / "b")
    assert a.index.equals(b.index)
    for name in ("audio", "visual"):
        assert (a.read(name, np.arange(12)) == b.read(name, np.arange(12))).all()


def test_videos_without_features_are_left_out_and_listed(root: Path, tmp_path: Path, caplog: Any) -> None:
    names = flat(videos(COUNTS, classes=3))
    replace_dictionary(root / AUDIO, {name: audio_of(n) for n, name in enumerate(names) if n not in (0, 7)})
    replace_dictionary(root / VISUAL[0], {name: visual_of(n) for n, name in enumerate(names) if n not in (7, 11)})
    store = FeatureStore(import_avcil_features(root, tmp_path / "store"))
    assert store.ids == [name for n, name in enumerate(names) if n not in (0, 7, 11)]
    assert store.card["failures"] == 3
    assert (tmp_path / "store" / "failures.csv").read_text().splitlines()[1:] == [
        f"1,{names[0]},no audio features",
        f"8,{names[7]},no audio and visual features",
        f"12,{names[11]},no visual features",
    ]
    assert "3 videos have no features and were left out" in caplog.text
    np.testing.assert_array_equal(store.read("audio", np.array([8]))[0].numpy(), audio_of(10))


def test_the_classes_of_a_benchmark_are_recognised(tmp_path: Path, caplog: Any) -> None:
    root = tmp_path / "AVE"
    write_lists(root, videos({"train": 1, "val": 0, "test": 1}))
    write_features(root, ["train-0-0", "test-27-0"])
    store = FeatureStore(import_avcil_features(root, tmp_path / "store"))
    assert store.card["benchmark"] == "AVE-CI"
    assert store.labels == [CLASSES[0], CLASSES[27]]
    assert store.card["failures"] == 54
    assert "AVE-CI has (3294, 391, 394) clips (train, val, test); (28, 0, 28) are listed" in caplog.text


def test_a_stopped_import_goes_on_and_ends_with_the_same_bytes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_SHARD_BYTES", 2**23)  # three clips
    import_avcil_features(root, tmp_path / "whole")
    load, left = unpickle.StoredArray.load, 15

    def stopping(array: unpickle.StoredArray) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return load(array)

    monkeypatch.setattr(unpickle.StoredArray, "load", stopping)
    with pytest.raises(KeyboardInterrupt):
        import_avcil_features(root, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped" / "shards").iterdir())) == 2
    assert not (tmp_path / "stopped" / "card.json").exists()
    left = 12
    import_avcil_features(root, tmp_path / "stopped")
    assert left == 0
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")


def test_a_video_in_two_splits_is_a_clip_in_both(root: Path, tmp_path: Path, caplog: Any) -> None:
    by_class, by_video, _ = lists_of(root)
    by_class["test"][1].append("train-0-0")
    by_video["test"]["train-0-0"] = CLASSES[1]
    replace_dictionary(root / LISTS[0], by_class)
    replace_dictionary(root / LISTS[1], by_video)
    store = FeatureStore(import_avcil_features(root, tmp_path / "store"))
    rows = [store.ids.index(name) for name in ("train-0-0", "train-0-0 (test)")]
    assert [store.labels[row] for row in rows] == [CLASSES[0], CLASSES[1]]
    first, second = store.read("visual", np.array(rows))
    assert (first == second).all()
    assert "1 videos are in several splits, as published (first: train-0-0)" in caplog.text


def test_a_video_listed_under_two_classes_of_a_split_is_one_clip(root: Path, tmp_path: Path, caplog: Any) -> None:
    by_class, _, _ = lists_of(root)
    by_class["train"][2].append("train-0-0")
    replace_dictionary(root / LISTS[0], by_class)
    store = FeatureStore(import_avcil_features(root, tmp_path / "store"))
    assert store.ids.count("train-0-0") == 1
    assert store.labels[store.ids.index("train-0-0")] == CLASSES[0]
    assert "1 videos of train are listed more than once" in caplog.text


def test_lists_that_contradict_each_other(root: Path) -> None:
    by_class, by_video, numbers = lists_of(root)
    replace_dictionary(root / LISTS[1], by_video | {"train": by_video["train"] | {"train-0-1": CLASSES[2]}})
    assert f"'train-0-1' of 'train' is listed as '{CLASSES[0]}' (0), but {LISTS[1]} says '{CLASSES[2]}'" in refusal(
        root
    )
    replace_dictionary(root / LISTS[1], {split: {} for split in by_video})
    assert "says 'None'" in refusal(root)
    replace_dictionary(root / LISTS[1], {"train": by_video["train"], "test": by_video["test"]})
    assert "it has no split 'val'" in refusal(root)
    replace_dictionary(root / LISTS[1], by_video)
    for wrong in ({"train": {7: ["a"]}}, {"train": {0: "a"}}, {"train": {"0": ["a"]}}):
        replace_dictionary(root / LISTS[0], by_class | wrong)
        assert "is no list of videos of a known class" in refusal(root)
    replace_dictionary(root / LISTS[0], {"train": by_class["train"], "val": [], "test": {}})
    assert f"{LISTS[0]}: it has no split 'val'" in refusal(root)
    for wrong_numbers in ({}, numbers | {CLASSES[0]: 3}, numbers | {CLASSES[0]: 1}, numbers | {CLASSES[0]: "x"}):
        replace_dictionary(root / LISTS[2], wrong_numbers)
        assert "classes are not 0, 1, 2 ..." in refusal(root)


def test_features_that_are_wrong(root: Path) -> None:
    names = flat(videos(COUNTS, classes=3))
    good = {name: audio_of(n) for n, name in enumerate(names)}
    bad = audio_of(0).copy()
    bad[5] = np.nan
    for value, message in (
        (bad, f"the features of '{names[0]}' are not finite"),
        (bad[:700], "has shape (700,); (768,) is needed"),
        (np.arange(768), "is of type int64; floating-point numbers are needed"),
        ([1.0, 2.0], f"under '{names[0]}' is no array but a list"),
    ):
        replace_dictionary(root / AUDIO, good | {names[0]: value})
        assert message in refusal(root)
    replace_dictionary(root / AUDIO, {"another": audio_of(0)})
    assert "not one of the 12 listed videos has features" in refusal(root)
    replace_dictionary(root / AUDIO, good)
    large = visual_of(0).copy()
    large[3, 3] = 1e5
    replace_dictionary(root / VISUAL[0], dict.fromkeys(names, large))
    assert f"the features of '{names[0]}' do not fit into float16; choose float32" in refusal(root)
    import_avcil_features(root, root.parent / "store", dtype="float32")


def test_files_that_are_missing_or_malicious(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    for name in (*LISTS, AUDIO):
        place = (root / name).readlink()
        (root / name).unlink()
        assert f"{name} is not there" in refusal(root)
        (root / name).symlink_to(place)
    replace_dictionary(root / VISUAL[0], {"train-0-0": Evil()})
    assert "it wants posix.system" in refusal(root) or "it wants os.system" in refusal(root)
    assert not Path("ran").exists()
    (root / VISUAL[0]).unlink()
    assert "neither visual_pretrained_feature" in refusal(root)


class Evil:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch ran",)


def test_hdf5_files_that_are_wrong(root: Path) -> None:
    path = root / VISUAL[1]
    (root / VISUAL[0]).unlink()
    path.write_bytes(b"no HDF5")
    assert "cannot be read as HDF5" in refusal(root)
    with h5py.File(root.parent / "outside.h5", "w") as file:
        file["train-0-0"] = visual_of(0)
    with h5py.File(path, "w") as file:
        file["train-0-0"] = h5py.ExternalLink(str(root.parent / "outside.h5"), "train-0-0")
    assert "'train-0-0' is no array in this file" in refusal(root)
    with h5py.File(path, "w") as file:
        file.create_group("train-0-0")
    assert "'train-0-0' is no array in this file" in refusal(root)
    with h5py.File(path, "w") as file:
        file["train-0-0"] = visual_of(0)[:100]
    assert "has shape (100, 768); (1568, 768) is needed" in refusal(root)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    listed = videos({"train": 50, "val": 10, "test": 10}, classes=2)
    names = flat(listed)
    write_lists(tmp_path / "AVE", listed)
    write_dictionary(tmp_path / "AVE" / AUDIO, {name: audio_of(n) for n, name in enumerate(names)})
    large = tmp_path / "AVE" / VISUAL[0]
    stream_dictionary(large, zip(names, many_visuals(len(names)), strict=True))
    assert large.stat().st_size > 650e6
    command = [sys.executable, "-m", "benchmarks.conversion", "--convert", tmp_path / "AVE", tmp_path / "store"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    # A shard of 64 MiB, as tensors and as the bytes that are written, and little else.
    assert measured["peak_memory_bytes"] - measured["memory_before_bytes"] < 300e6
    store = FeatureStore(tmp_path / "store", verify=False)
    assert len(store) == 140
    *_, last = many_visuals(140)
    assert (store.read("visual", np.array([139]))[0].numpy().reshape(1568, 768) == last.astype(np.float16)).all()
    shutil.rmtree(tmp_path / "AVE")


def test_the_page_says_what_was_measured() -> None:
    root = Path(__file__).parent.parent
    kept = json.loads((root / "results" / "conversion" / "conversion.json").read_text())
    said = " ".join((root / "docs" / "data.md").read_text().split())
    size, speed = kept["file_bytes"] / 1e9, kept["megabytes_per_second"]
    assert f"{size:.1f} GB, took {kept['seconds']:.0f} s ({speed} MB/s)" in said
    assert f"at most {kept['peak_memory_megabytes']} MB of memory" in said


# Raw videos


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve different videos with sound."""
    folder = tmp_path_factory.mktemp("made")
    synthetic.make(folder / "clips", classes=3, clips=4, seconds=0.5, size=32, jobs=1)
    return sorted((folder / "clips").rglob("*.mp4"))


def put(made: list[Path], names: list[str], folder: Path) -> None:
    """Put a different video under each of the names."""
    for source, name in zip(made, names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)


def by_id(manifest: Path) -> dict[str, ClipRecord]:
    return {record.id: record for record in read_manifest(manifest)}


def write_ave(root: Path, lines: dict[str, list[str]]) -> None:
    root.mkdir(exist_ok=True)
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).write_text("".join(f"{line}\n" for line in lines.get(name, [])))


AVE = {
    "trainSet.txt": [
        "Church bell&-ring_1&good&0&10",
        "Church bell&ring2&good&3&8",
        "Fixed-wing aircraft, airplane&fly1&good&0&10",
        "Cat&gone&good&0&10",
        "Submarine&deep&good&0&10",
    ],
    "valSet.txt": ["Church bell&ring3&good&0&10"],
    "testSet.txt": ["Church bell&ring4&good&0&4", "Fixed-wing aircraft, airplane&fly2&good&0&10"],
}


def test_ave(tmp_path: Path, made: list[Path], caplog: Any) -> None:
    root = tmp_path / "AVE_Dataset"
    write_ave(root, AVE)
    lines = [
        "Category&VideoID&Quality&StartTime&EndTime",
        *(line for part in AVE.values() for line in part),
        "Cat&unlisted&good&0&10",
    ]
    (root / "Annotations.txt").write_text("\n".join(lines))
    put(made, [f"{name}.mp4" for name in ("-ring_1", "ring2", "fly1", "ring3", "ring4", "fly2", "other")], root / "AVE")
    clips = by_id(import_ave(root, tmp_path / "m.csv"))
    assert {(clip.id, clip.label, clip.split) for clip in clips.values()} == {
        ("-ring_1", "Church bell", "train"),
        ("ring2", "Church bell", "train"),
        ("fly1", "Fixed-wing aircraft, airplane", "train"),
        ("ring3", "Church bell", "val"),
        ("ring4", "Church bell", "test"),
        ("fly2", "Fixed-wing aircraft, airplane", "test"),
    }
    assert clips["ring2"].video == clips["ring2"].audio == "AVE_Dataset/AVE/ring2.mp4"
    assert clips["ring2"].start is None
    assert (tmp_path / "m-missing.csv").read_text() == "id,label,split,video\ngone,Cat,train,gone\n"
    assert "1 clips of 1 other classes were left out (such as 'Submarine')" in caplog.text
    assert "1 of 7 listed videos are not there" in caplog.text
    assert "1 clips of Annotations.txt are in no split (first: unlisted)" in caplog.text
    assert not check_manifest(tmp_path / "m.csv", jobs=1).errors
    with pytest.raises(McilError, match=r"not one of the 7 listed videos, such as -ring_1.mp4, is there"):
        import_ave(root, tmp_path / "n.csv", videos=made[0].parent)
    assert not (tmp_path / "n.csv").exists()


def test_a_video_of_two_categories_is_two_clips(tmp_path: Path, made: list[Path]) -> None:
    write_ave(tmp_path / "a", {**AVE, "valSet.txt": ["Bus&ring2&good&0&10", "Bus&ring2&good&0&10"]})
    put(made, ["ring2.mp4", "ring4.mp4"], tmp_path / "a")
    clips = by_id(import_ave(tmp_path / "a", tmp_path / "m.csv"))
    assert {(clip.id, clip.label, clip.split, clip.video) for clip in clips.values()} == {
        ("ring2 (Church bell)", "Church bell", "train", "a/ring2.mp4"),
        ("ring2 (Bus)", "Bus", "val", "a/ring2.mp4"),
        ("ring4", "Church bell", "test", "a/ring4.mp4"),
    }
    assert any(problem.kind == "leak" for problem in check_manifest(tmp_path / "m.csv", jobs=1).errors)


def test_a_complete_import_removes_the_list_of_missing_videos(tmp_path: Path, made: list[Path]) -> None:
    write_ave(tmp_path / "a", {"trainSet.txt": ["Cat&c1&good&0&10", "Cat&c2&good&0&10"]})
    put(made, ["c1.mp4"], tmp_path / "a")
    import_ave(tmp_path / "a", tmp_path / "m.csv")
    assert (tmp_path / "m-missing.csv").exists()
    put(made, ["c1.mp4", "c2.mp4"], tmp_path / "a")
    import_ave(tmp_path / "a", tmp_path / "m.csv")
    assert not (tmp_path / "m-missing.csv").exists()


def test_ave_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(McilError, match=r"trainSet.txt: no such file"):
        import_ave(tmp_path, tmp_path / "m.csv")
    write_ave(tmp_path / "a", {"valSet.txt": ["Cat&x&good&0&10", "Cat&x"]})
    with pytest.raises(McilError, match=r"valSet.txt: row 2 has 2 cells, but 5 are needed"):
        import_ave(tmp_path / "a", tmp_path / "m.csv")
    (tmp_path / "a" / "valSet.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(McilError, match=r"valSet.txt: cannot be read as text"):
        import_ave(tmp_path / "a", tmp_path / "m.csv")
    write_ave(tmp_path / "a", {})
    with pytest.raises(McilError, match="have no clip of these classes"):
        import_ave(tmp_path / "a", tmp_path / "m.csv")
    write_ave(tmp_path / "a", AVE)
    with pytest.raises(McilError, match="no such folder"):
        import_ave(tmp_path / "a", tmp_path / "m.csv", videos=tmp_path / "nowhere")


KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
"playing drums",-drum_1,12,22,train,0
playing drums,drum2,0,10,validate,0
playing drums,drum3,5,15,test,0
tapping_guitar,tap1,7,17,train,0
tapping guitar,tap2,120,130,test,0
tapping guitar,gone,1,11,train,0
air drumming,air,1,11,train,0
"""


def test_kinetics_sounds(tmp_path: Path, made: list[Path], caplog: Any) -> None:
    (tmp_path / "k400").mkdir()
    (tmp_path / "k400" / "all.csv").write_text(KINETICS)
    names = [
        "train/playing_drums/-drum_1_000012_000022.mp4",
        "drum2.mp4",
        "playing drums/drum3_000005_000015.mkv",
        "tap1.mp4",
        "test/tap2_000120_000130.mp4",
        "air.mp4",
    ]
    put(made, names, tmp_path / "videos")
    put(made[6:], ["train/abseiling/tap1.mp4", "train/tapping_guitar/tap1.mp4"], tmp_path / "videos")
    clips = by_id(import_kinetics_sounds(tmp_path / "videos", tmp_path / "k400", tmp_path / "m.csv"))
    assert {(clip.id, clip.label, clip.split, clip.video) for clip in clips.values()} == {
        ("-drum_1_000012_000022", "playing drums", "train", f"videos/{names[0]}"),
        ("drum2_000000_000010", "playing drums", "val", "videos/drum2.mp4"),
        ("drum3_000005_000015", "playing drums", "test", f"videos/{names[2]}"),
        ("tap1_000007_000017", "tapping guitar", "train", "videos/train/tapping_guitar/tap1.mp4"),
        ("tap2_000120_000130", "tapping guitar", "test", "videos/test/tap2_000120_000130.mp4"),
    }
    assert "gone_000001_000011,tapping guitar,train,gone" in (tmp_path / "m-missing.csv").read_text()
    assert "1 clips of 1 other classes were left out (such as 'air drumming')" in caplog.text
    assert "28 of 30 classes have no clip in the lists" in caplog.text
    assert not check_manifest(tmp_path / "m.csv", jobs=1).errors

    (tmp_path / "classes.txt").write_text("air drumming\n\nplaying drums\n")
    some = by_id(
        import_kinetics_sounds(
            tmp_path / "videos", tmp_path / "k400" / "all.csv", tmp_path / "some.csv", tmp_path / "classes.txt"
        )
    )
    assert {clip.label for clip in some.values()} == {"air drumming", "playing drums"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 'label' is missing"),
        ("label,youtube_id,time_begin,time_end,split\n", "column 'time_start' is missing. Did you mean 'time_"),
        (KINETICS.replace("validate", "dev"), "row 2: unknown split 'dev'"),
        (KINETICS.replace("12,22", "x,22"), "row 1: 'x' is no number of seconds"),
        (KINETICS + "singing,s\n", "row 8 has 2 cells, but 6 are needed"),
        (KINETICS, "not one of the 6 listed videos, such as -drum_1_000012_000022.mp4, is there"),
    ],
)
def test_kinetics_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "k.csv").write_text(text)
    with pytest.raises(McilError, match=message):
        import_kinetics_sounds(tmp_path, tmp_path / "k.csv", tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


def test_a_folder_without_kinetics_files(tmp_path: Path) -> None:
    with pytest.raises(McilError, match=r"no \.csv files in this folder"):
        import_kinetics_sounds(tmp_path, tmp_path, tmp_path / "m.csv")


def write_vggsound(file: Path, counts: dict[str, tuple[int, int]]) -> list[tuple[str, int]]:
    """Write a list with so many clips of each class to train and to test on; return ids and starts."""
    rows = [
        (f"-{label[:3]}_{n}", n, label, "train" if n < train else "test")
        for label, (train, test) in counts.items()
        for n in range(train + test)
    ]
    file.write_text("".join(f'{name},{start},"{label}",{split}\n' for name, start, label, split in rows))
    return [(name, start) for name, start, _, _ in rows]


def test_vggsound(tmp_path: Path, made: list[Path], caplog: Any) -> None:
    file = tmp_path / "vggsound.csv"
    listed = write_vggsound(
        file, {"donkey, ass braying": (4, 2), "playing theremin": (3, 2), "people marching": (2, 1)}
    )
    variants = ["{0}_{1:06d}.mp4", "{0}_{1}.mp4", "{0}.mp4", "deep/{0}_{1:06d}.webm", "{0}_{1:06d}_{2:06d}.mp4"]
    names = [variants[n % 5].format(name, start, start + 10) for n, (name, start) in enumerate(listed)]
    put(made, names, tmp_path / "videos")
    clips = by_id(import_vggsound(tmp_path / "videos", file, tmp_path / "m.csv"))
    counts = Counter((clip.label, clip.split) for clip in clips.values())
    assert counts == {
        ("donkey, ass braying", "train"): 2,
        ("donkey, ass braying", "val"): 2,
        ("donkey, ass braying", "test"): 2,
        ("playing theremin", "train"): 2,
        ("playing theremin", "val"): 1,
        ("playing theremin", "test"): 2,
    }
    assert clips["-don_3_000003"].video == "videos/deep/-don_3_000003.webm"
    assert "3 clips of 1 other classes were left out (such as 'people marching')" in caplog.text
    assert not check_manifest(tmp_path / "m.csv", jobs=1).errors
    everything = by_id(import_vggsound(tmp_path / "videos", file, tmp_path / "all.csv", classes="all", val=0))
    assert {clip.label for clip in everything.values()} > {"people marching"}
    assert {clip.split for clip in everything.values()} == {"train", "test"}


def test_the_validation_clips_of_vggsound_depend_on_the_seed_only(tmp_path: Path, made: list[Path]) -> None:
    file = tmp_path / "vggsound.csv"
    listed = write_vggsound(file, {"playing theremin": (300, 50)})
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, start in listed:
        (folder / f"{name}_{start:06d}.mp4").symlink_to(made[0])
    whole = by_id(import_vggsound(folder, file, tmp_path / "m.csv"))
    assert Counter(clip.split for clip in whole.values()) == {"train": 250, "val": 50, "test": 50}
    assert by_id(import_vggsound(folder, file, tmp_path / "other.csv", seed=1)) != whole
    for path in sorted(folder.iterdir())[:100]:
        path.unlink()
    part = by_id(import_vggsound(folder, file, tmp_path / "m.csv"))
    assert len(part) == 250
    assert part.items() <= whole.items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1,playing theremin\n", "row 1 has 3 cells, but 4 are needed"),
        ("a,1,playing theremin,val\n", "row 1: unknown split 'val'"),
        ("a,one,playing theremin,train\n", "row 1: 'one' is no number of seconds"),
        ("a,1,playing theremin,train\n", "not one of the 1 listed videos"),
    ],
)
def test_vggsound_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(McilError, match=message):
        import_vggsound(tmp_path, tmp_path / "v.csv", tmp_path / "m.csv")
    with pytest.raises(McilError, match="val must be 0 or more"):
        import_vggsound(tmp_path, tmp_path / "v.csv", tmp_path / "m.csv", val=-1)
    assert not (tmp_path / "m.csv").exists()
