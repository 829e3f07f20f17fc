"""Benchmarks of pictures with sounds and of pictures alone: class orders, and importers of data as it is released."""

from __future__ import annotations

import csv
import json
import os
import pickle
import struct
import wave
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from command import call, refusal
from mcil.data.benchmarks import BENCHMARKS, benchmark_of
from mcil.data.check import check_manifest
from mcil.data.importers.cifar_100 import import_cifar_100
from mcil.data.importers.imagenet_esc import import_imagenet_esc
from mcil.data.importers.imagenet_esc_release import import_imagenet_esc_release
from mcil.data.importers.imagenet_r import import_imagenet_r
from mcil.data.importers.miniaric import import_miniaric
from mcil.data.manifest import read_manifest
from mcil.data.store import FeatureStore
from mcil.data.trimodal import IMAGENET_ESC, imagenet_esc_classes
from mcil.errors import McilError
from mcil.types import ClipRecord

# By hand from the published numbers of sorted folders, a task a line.
ORDERS = {
    "imagenet19_3-6": (
        "chainsaw, chickadee, Otterhound, cock, vacuum cleaner, bullet train, pig",
        "computer mouse, Egyptian cat, big-horn sheep, digital clock, wall clock, cricket",
        "fly, hen, tree frog, computer keyboard, airliner, washing machine",
    ),
    "imagenet19_6-3": (
        "chainsaw, chickadee, Otterhound, cock",
        "vacuum cleaner, bullet train, pig",
        "computer mouse, Egyptian cat, big-horn sheep",
        "digital clock, wall clock, cricket",
        "fly, hen, tree frog",
        "computer keyboard, airliner, washing machine",
    ),
    "imagenet27_5-5": (
        "fly, chainsaw, big-horn sheep, computer mouse, wall clock, vacuum cleaner, water jug",
        "chickadee, washing machine, hen, church, bullet train",
        "tree frog, airliner, pig, toilet seat, Otterhound",
        "water bottle, Egyptian cat, can opener, cricket, washbasin",
        "fire screen, cock, digital clock, sandbar, computer keyboard",
    ),
    "imagenet27_8-3": (
        "fly, chainsaw, big-horn sheep, computer mouse, wall clock, vacuum cleaner",
        "water jug, chickadee, washing machine",
        "hen, church, bullet train",
        "tree frog, airliner, pig",
        "toilet seat, Otterhound, water bottle",
        "Egyptian cat, can opener, cricket",
        "washbasin, fire screen, cock",
        "digital clock, sandbar, computer keyboard",
    ),
    "classroom33_3-6": (
        "unknown, listening, reading, using_phone, using_pad, using_computers, scratching_head, writing, talking, "
        "standing, sleeping, teaching, yawning",
        "walking, relaxing, analyzing, taking_bottle, gathering_up_bag, drinking, taking_photos, listening_to_music, "
        "discussing, setting_equipment",
        "taking_bag, blackboard_writing, blackboard_wiping, taking_off, student_demonstrating, eating, reviewing, "
        "handsup, speaking, picking_up_computers",
    ),
    "classroom33_5-5": (
        "unknown, listening, reading, using_phone, using_pad, using_computers, scratching_head, writing, talking, "
        "standing, sleeping, teaching, yawning",
        "walking, relaxing, analyzing, taking_bottle, gathering_up_bag",
        "drinking, taking_photos, listening_to_music, discussing, setting_equipment",
        "taking_bag, blackboard_writing, blackboard_wiping, taking_off, student_demonstrating",
        "eating, reviewing, handsup, speaking, picking_up_computers",
    ),
}
FOLDS = range(1, 6)
WNIDS = [paired.wnid for paired in IMAGENET_ESC]


def write_picture(path: Path, number: int) -> None:
    """Write a picture that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_sound(path: Path, number: int) -> None:
    """Write a sound that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.random.default_rng(number).integers(-9999, 9999, 800, dtype=np.int16).tobytes())


def touch(path: Path, _: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def write_esc50(root: Path, sounds: int, write: Callable[[Path, int], None], categories: Sequence[Any]) -> None:
    """Write ESC-50 with so many sounds a fold and category; the list is not in the order of the names."""
    rows = [
        (f"{fold}-{number}-A-{paired.esc50_id}.wav", fold, paired.esc50_id, paired.esc50)
        for paired in categories
        for fold in FOLDS
        for number in range(sounds)
    ]
    rows = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    for number, row in enumerate(rows):
        write(root / "audio" / row[0], number)
    rows.append(("1-9-A-10.wav", 1, 10, "rain"))  # of no class, and not there
    (root / "meta").mkdir()
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "fold", "target", "category"), *rows])


def listed_sounds(esc50: Path) -> dict[tuple[str, int], list[str]]:
    """Return the file names by category and fold, in the order of the list."""
    found = defaultdict(list)
    for row in csv.DictReader((esc50 / "meta" / "esc50.csv").open()):
        found[row["category"], int(row["fold"])].append(row["filename"])
    return found


def files_in(records: Sequence[ClipRecord], medium: str, split: str) -> set[str]:
    return {str(getattr(record, medium)) for record in records if record.split == split}


def refused(importer: Callable[..., Path], *arguments: Any, **options: Any) -> str:
    """Call an importer that cannot do it: one line, and nothing is written."""
    with pytest.raises(McilError) as error:
        importer(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Class orders


@pytest.mark.parametrize("name", ORDERS)
def test_classes_arrive_as_published(name: str) -> None:
    tasks = [line.split(", ") for line in ORDERS[name]]
    benchmark = BENCHMARKS[name]
    assert list(benchmark.class_order) == [label for task in tasks for label in task]
    assert benchmark.task_sizes == tuple(map(len, tasks))
    assert len(set(benchmark.class_order)) == sum(benchmark.task_sizes) == int(name.partition("_")[0][-2:])
    assert (benchmark.memory, benchmark.clips) == (0, None)
    # Another benchmark has the same classes.
    assert benchmark_of(benchmark.class_order) is None


def test_the_pairs_of_imagenet_and_esc50() -> None:
    assert sorted(WNIDS) == WNIDS
    assert len(set(WNIDS)) == len({paired.esc50_id for paired in IMAGENET_ESC}) == 27
    assert len(imagenet_esc_classes(19)) == 19
    loose = {paired.name: paired.esc50 for paired in IMAGENET_ESC if not paired.of_19}
    assert loose == {
        "can opener": "can_opening",
        "church": "church_bells",
        "fire screen": "crackling_fire",
        "toilet seat": "toilet_flush",
        "washbasin": "water_drops",
        "water bottle": "drinking_sipping",
        "water jug": "pouring_water",
        "sandbar": "sea_waves",
    }
    cat = IMAGENET_ESC[5]
    assert (cat.wnid, cat.name, cat.adaptation_name) == ("n02124075", "Egyptian cat", "Egyptian Mau")
    assert (cat.imagenet_id, cat.esc50, cat.esc50_id) == (285, "cat", 5)
    assert "classes must be one of 19, 27" in refused(imagenet_esc_classes, 20)  # type: ignore[arg-type]


def test_a_comparison_takes_the_tasks_of_the_class_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = [paired.name for paired in imagenet_esc_classes(19) for _ in range(3)]
    audio = np.random.default_rng(0).normal(size=(len(labels), 4)).astype(np.float32)
    FeatureStore.write(tmp_path / "store", labels=labels, splits=["train", "val", "test"] * 19, audio=audio)
    line = "bench table1 --class-order imagenet19_3-6 --methods ncm --seeds 0 --modality audio"
    assert call(line).code == 0
    (result,) = (json.loads(path.read_text()) for path in Path("bench/runs").glob("*/result.json"))
    assert result["task_sizes"] == [7, 6, 6]
    assert result["class_names"] == ", ".join(ORDERS["imagenet19_3-6"]).split(", ")
    shown = Path("bench/table1/report.html").read_text()
    assert "These are the classes and tasks of imagenet19_3-6." in shown
    assert "not ours" not in shown
    assert "Did you mean 'imagenet19_3-6'" in refusal("bench table1 --class-order imagenet19_3-7")


# ImageNet-ESC from its two sources


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty files of all 27 classes: 8 sounds in each fold; 10 pictures in one folder; 12 to train and 5 in val."""
    root = tmp_path_factory.mktemp("sources")
    write_esc50(root / "esc50", 8, touch, IMAGENET_ESC)
    for wnid in WNIDS:
        for number in range(12):
            if number < 10:
                touch(root / "flat" / wnid / f"{wnid}_{number}.JPEG")
            if number < 5:
                touch(root / "divided" / "val" / wnid / f"ILSVRC2012_val_{number}.JPEG")
            touch(root / "divided" / "train" / wnid / f"{wnid}_{number}.JPEG")
        (root / "flat" / wnid / "list.txt").touch()
        (root / "flat" / wnid / ".hidden.JPEG").touch()
    return root


@settings(max_examples=40)
@given(
    divided=st.booleans(),
    classes=st.sampled_from([19, 27]),
    fold=st.sampled_from(FOLDS),
    shots=st.sampled_from([None, 1, 2, 4]),
    images=st.none() | st.integers(1, 4),
    seed=st.integers(0, 3),
)
def test_train_val_and_test_share_no_sound_and_no_picture(
    sources: Path, divided: bool, classes: Any, fold: int, shots: Any, images: int | None, seed: int
) -> None:
    imagenet, out = sources / ("divided" if divided else "flat"), sources / "m.csv"
    import_imagenet_esc(imagenet, sources / "esc50", out, classes, fold, shots, images, seed)
    records, listed = read_manifest(out), listed_sounds(sources / "esc50")
    of = {paired.name: paired for paired in imagenet_esc_classes(classes)}
    assert {record.label for record in records} == set(of)
    for medium in ("image", "audio", "source"):
        held = [files_in(records, medium, split) for split in ("train", "val", "test")]
        assert sum(map(len, held)) == len(set().union(*held))
    for record in records:
        paired = of[record.label]
        image, sound = Path(str(record.image)), Path(str(record.audio))
        assert image.parent.name == paired.wnid
        assert (sources / image).is_file()
        assert (sources / sound).is_file()
        assert sound.name == record.source
        assert sound.stem.endswith(f"-{paired.esc50_id}")
        if divided:
            assert image.parts[1] == ("val" if record.split == "test" else "train")
        held_by = int(sound.name[0])
        if shots is None:
            assert record.split == {fold: "test", 1 + fold % 5: "val"}.get(held_by, "train")
        else:
            place = listed[paired.esc50, held_by].index(sound.name)
            assert record.split == ("test" if held_by != fold else "train" if place < shots else "val")
            assert held_by != fold or place < 2 * shots
    rest = 5 if divided else 2 if shots is None else 10 - 2 * shots
    if shots is None:
        expected = {"train": 9, "val": 3, "test": rest} if divided else {"train": 6, "val": 2, "test": rest}
    else:
        expected = {"train": shots, "val": shots, "test": rest}
    expected = {split: min(count, images or count) for split, count in expected.items()}
    assert Counter((record.label, record.split) for record in records) == {
        (name, split): count for name in of for split, count in expected.items() if count
    }
    for name in of:
        # Pictures are all different; sounds are used equally often, nearly.
        own = [record for record in records if record.label == name]
        assert len({record.image for record in own}) == len(own)
        for split in expected:
            used = Counter(record.audio for record in own if record.split == split)
            assert not used or max(used.values()) - min(used.values()) <= 1


def test_the_seed_decides_and_the_other_classes_do_not(sources: Path, tmp_path: Path) -> None:
    def made(**options: Any) -> list[ClipRecord]:
        return read_manifest(import_imagenet_esc(sources / "flat", sources / "esc50", tmp_path / "m.csv", **options))

    assert made() == made()
    assert made() != made(seed=1)
    names = {paired.name for paired in imagenet_esc_classes(19)}
    assert made(classes=19) == [record for record in made() if record.label in names]
    few = {seed: {r.image for r in made(shots=1, seed=seed) if r.split == "train"} for seed in (0, 1)}
    assert few[0] != few[1]


def test_made_pairs_pass_the_check_and_what_is_not_there_is_said(tmp_path: Path, caplog: Any) -> None:
    for place, wnid in enumerate(WNIDS[:3]):
        for number in range(6):
            write_picture(tmp_path / "imagenet" / wnid / f"{number}.JPEG", 10 * place + number)
    write_esc50(tmp_path / "esc50", 1, write_sound, IMAGENET_ESC[:2])
    (tmp_path / "esc50" / "audio" / "4-0-A-6.wav").unlink()
    manifest = import_imagenet_esc(tmp_path / "imagenet", tmp_path / "esc50", tmp_path / "m.csv", fold=5)
    report = check_manifest(manifest, jobs=1)
    assert report.errors == []
    assert Counter((record.label, record.split) for record in read_manifest(manifest)) == {
        (name, split): count for name in ("cock", "hen") for split, count in (("train", 4), ("val", 1), ("test", 1))
    }
    assert "25 of 27 classes are not there (first: 'chickadee')" in caplog.text
    assert "6 pictures are in no clip: there is no sound of their class" in caplog.text
    assert "1 of 10 listed sounds are not there; see" in caplog.text
    assert (tmp_path / "m-missing.csv").read_text().splitlines()[1:] == ["4-0-A-6.wav,4,hen"]
    write_sound(tmp_path / "esc50" / "audio" / "4-0-A-6.wav", 99)
    import_imagenet_esc(tmp_path / "imagenet", tmp_path / "esc50", manifest, fold=5)
    assert not (tmp_path / "m-missing.csv").exists()


def test_imagenet_esc_that_cannot_be_made(sources: Path, tmp_path: Path) -> None:
    out, flat, esc50 = tmp_path / "m.csv", sources / "flat", sources / "esc50"

    def said(*places: Path, **options: Any) -> str:
        return refused(import_imagenet_esc, *places, out, **options)

    assert "no fold 6" in said(flat, esc50, fold=6)
    assert "images must be 1 or more" in said(flat, esc50, images=0)
    assert "shots 1, 2 or 4" in said(flat, esc50, shots=3)
    assert "must be one of 19, 27" in said(flat, esc50, classes=20)
    assert "no such folder" in said(tmp_path / "nothing", esc50)
    assert "esc50.csv: no such file" in said(flat, flat)
    assert "not one of the 27 classes, such as n01514668" in said(sources, esc50)
    other = tmp_path / "esc50"
    (other / "meta").mkdir(parents=True)
    for text, message in (
        ("filename,fold,classes\n", "column 'category' is missing"),
        ("", "column 'filename' is missing"),
        ("filename,fold,category\na.wav,6,dog\n", "row 1: there is no fold '6'"),
        ("filename,fold,category\na.wav,1\n", "row 1 has 2 cells, but 3 are needed"),
        ("filename,fold,category\na.wav,1,dog\n", "not one of the 1 sounds"),
    ):
        (other / "meta" / "esc50.csv").write_text(text)
        assert message in said(flat, other)
    assert not list(tmp_path.glob("*.csv"))


def test_imagenet_esc_on_the_command_line(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = f"data import imagenet-esc {sources / 'flat'} {sources / 'esc50'}"
    said = call(f"{line} --classes 19 --fold 3 --shots 2 --images 2")
    assert said.code == 0, said
    assert "114 clips (38 train, 38 val, 38 test) of 19 classes; 114 with images, 114 with sound" in said.err
    assert "classes: it must be one of 19, 27, not 20" in refusal(f"{line} --classes 20 --out n.csv")


# ImageNet-ESC as released


def write_release(root: Path, wnids: Sequence[str], write: bool = False) -> None:
    """Write 20 pictures and 10 sounds of each class to train, and half of that to test."""
    number = 0
    for split, count in (("train", 10), ("test", 5)):
        for wnid in wnids:
            for place in range(count):
                number += 1
                (write_sound if write else touch)(root / "audio" / split / wnid / f"{place:02d}.wav", number)
                for picture in (2 * place, 2 * place + 1):
                    file = root / "image" / split / wnid / f"{picture:02d}.jpg"
                    (write_picture if write else touch)(file, 100 * number + picture)


@pytest.mark.parametrize("classes", [19, 27])
def test_the_released_layout(tmp_path: Path, classes: Any, caplog: Any) -> None:
    folder = tmp_path / "data" / f"imagenet{classes}"
    write_release(folder, [paired.wnid for paired in imagenet_esc_classes(classes)])
    records = read_manifest(import_imagenet_esc_release(folder.parent, tmp_path / "m.csv"))
    assert Counter((r.label, r.split) for r in records) == {
        (paired.name, split): count
        for paired in imagenet_esc_classes(classes)
        for split, count in (("train", 18), ("val", 2), ("test", 10))
    }
    first = next(r for r in records if r.label == "hen" and r.split == "test")
    base = f"data/imagenet{classes}"
    assert (first.id, first.source) == ("test/n01514859/00.jpg", "test/n01514859/00.wav")
    assert (first.image, first.audio) == (f"{base}/image/test/n01514859/00.jpg", f"{base}/audio/test/n01514859/00.wav")
    by_source = defaultdict(set)
    for record in records:
        by_source[record.source].add(record.split)
    assert all(len(splits) == 1 for splits in by_source.values())
    assert not caplog.records
    assert read_manifest(import_imagenet_esc_release(folder, tmp_path / "m.csv")) == records
    assert read_manifest(import_imagenet_esc_release(folder, tmp_path / "m.csv", seed=1)) != records


def test_the_older_layout_is_taken_and_its_leak_is_said(tmp_path: Path, caplog: Any) -> None:
    for place, wnid in enumerate(WNIDS[:2]):
        write_sound(tmp_path / "audio" / f"{wnid}.wav", place)
        for number in range(10):
            write_picture(tmp_path / "image" / "train" / wnid / f"{number}.png", 20 * place + number)
        write_picture(tmp_path / "image" / "test" / wnid / "x.png", 100 + place)
    manifest = import_imagenet_esc_release(tmp_path, tmp_path / "m.csv")
    records = read_manifest(manifest)
    assert Counter(r.split for r in records) == {"train": 18, "val": 2, "test": 2}
    assert {(r.label, r.source) for r in records} == {("cock", "n01514668.wav"), ("hen", "n01514859.wav")}
    assert "it gives the class away" in caplog.text
    assert "17 of 19 classes are not there" in caplog.text
    assert {problem.kind for problem in check_manifest(manifest, jobs=1).errors} == {"leak"}


def test_a_release_of_another_layout(tmp_path: Path, caplog: Any) -> None:
    out = tmp_path / "m.csv"
    assert "no folder 'image' here" in refused(import_imagenet_esc_release, tmp_path, out)
    for name in ("imagenet19", "imagenet27"):
        write_release(tmp_path / name, [WNIDS[0], "n00000001"])
    assert "it has both imagenet19 and imagenet27" in refused(import_imagenet_esc_release, tmp_path, out)
    folder = tmp_path / "imagenet19"
    assert "validation is the share" in refused(import_imagenet_esc_release, folder, out, validation=1.0)
    assert "validation is the share" in refused(import_imagenet_esc_release, folder, out, validation=-0.1)
    assert not out.exists()
    import_imagenet_esc_release(folder, out, validation=0)
    assert {r.split for r in read_manifest(out)} == {"train", "test"}
    assert "1 other classes were left out (such as 'n00000001')" in caplog.text
    (folder / "audio").rename(tmp_path / "away")
    assert "no class has pictures in 'image' and sounds in 'audio'" in refused(import_imagenet_esc_release, folder, out)


# miniARIC


def write_classroom(root: Path, write: bool = False) -> None:
    """Write two classes: three pictures of each sound, 12 sounds to train and 4 to test."""
    for place, label in enumerate(("taking_off", "yawning")):
        for sound in range(16):
            split = "train" if sound < 12 else "test"
            (write_sound if write else touch)(root / "audio" / f"wav_{label}_{sound}.wav", 100 * place + sound)
            for number in range(3):
                file = root / "image" / split / label / f"{number}_x_{label}_{sound}.jpg"
                (write_picture if write else touch)(file, 1000 * place + 10 * sound + number)


@pytest.mark.parametrize("inside", [True, False])
def test_classroom_pictures_have_the_sound_of_their_name(tmp_path: Path, inside: bool, caplog: Any) -> None:
    root = tmp_path / "classroom_data"
    write_classroom(root, write=True)
    (root / "audio" / "wav_yawning_3.wav").unlink()
    touch(root / "image" / "test" / "yawning" / "short.jpg")
    touch(root / "image" / "test" / "dancing" / "0_x_dancing_1.jpg")
    manifest = import_miniaric(root if inside else tmp_path, tmp_path / "m.csv")
    records = {record.id: record for record in read_manifest(manifest)}
    assert Counter(r.label for r in records.values()) == {"taking_off": 48, "yawning": 45}
    one = records["test/taking_off/2_x_taking_off_13.jpg"]
    assert one.audio == "classroom_data/audio/wav_taking_off_13.wav"
    assert one.image == "classroom_data/image/test/taking_off/2_x_taking_off_13.jpg"
    assert Counter(r.split for r in records.values() if r.label == "taking_off") == {"train": 33, "val": 3, "test": 12}
    lines = (tmp_path / "m-missing.csv").read_text().splitlines()
    assert lines[0] == "id,label,split,audio"
    assert lines[-1] == "test/yawning/short.jpg,yawning,test,wav_.wav"
    assert len(lines) == 5
    assert "4 of 97 listed sounds of pictures are not there; see" in caplog.text
    assert "31 of 33 classes are not there (first: 'analyzing')" in caplog.text
    assert "1 other classes were left out (such as 'dancing')" in caplog.text
    assert check_manifest(manifest, jobs=1).errors == []


def test_a_classroom_of_another_layout(tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    assert "no folder 'image' here" in refused(import_miniaric, tmp_path / "nothing", out)
    touch(tmp_path / "image" / "train" / "yawning" / "a_b_c_d.jpg")
    assert "no folder 'audio' here" in refused(import_miniaric, tmp_path, out)
    touch(tmp_path / "audio" / "c_d.wav")
    assert "no picture of the 33 classes has its sound" in refused(import_miniaric, tmp_path, out)
    touch(tmp_path / "audio" / "wav_c_d.wav")
    assert [r.audio for r in read_manifest(import_miniaric(tmp_path, out))] == ["audio/wav_c_d.wav"]


# CIFAR-100

NAMES = ["apple", "aquarium_fish"]


def cifar_split(count: int, seed: int) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Return a split as the files have it, and the pictures as Pillow reads them."""
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    data = np.stack([picture.transpose(2, 0, 1).ravel() for picture in pictures])
    return {"batch_label": "made", "fine_labels": [n % 2 for n in range(count)], "data": data}, pictures


def write_cifar(root: Path, protocol: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    root.mkdir(parents=True)
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES}, protocol))
    pictures = {}
    for seed, (split, count) in enumerate((("train", 40), ("test", 6))):
        content, pictures[split] = cifar_split(count, seed)
        (root / split).write_bytes(pickle.dumps(content, protocol))
    return pictures


def python_2_pickle(data: np.ndarray[Any, Any], labels: Sequence[int]) -> bytes:
    """Return what Python 2 made of ``{"data": data, "fine_labels": labels}`` with protocol 2: text is bytes there."""

    def short(text: str) -> bytes:
        return b"U" + bytes([len(text)]) + text.encode()

    dtype = b"cnumpy\ndtype\n" + short("u1") + b"K\x00K\x01\x87R" + b"(K\x03" + short("|") + b"NNN"
    dtype += 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\n" + b"K\x00\x85" + short("b") + b"\x87R"
    shape = b"".join(b"M" + struct.pack("<H", size) for size in data.shape) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", data.nbytes) + data.tobytes() + b"tb"
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x00(" + short("data") + array + short("fine_labels") + listed + b"u."


@pytest.mark.parametrize("protocol", [2, 5])
def test_cifar_becomes_pictures(tmp_path: Path, protocol: int) -> None:
    pictures = write_cifar(tmp_path / "cifar-100-python", protocol)
    out = tmp_path / "made" / "m.csv"
    manifest = import_cifar_100(tmp_path, out)
    records = read_manifest(manifest)
    assert [r.label for r in records[:3]] == ["apple", "aquarium fish", "apple"]
    assert Counter((r.label, r.split) for r in records) == {
        (label, split): count
        for label in ("apple", "aquarium fish")
        for split, count in (("train", 18), ("val", 2), ("test", 3))
    }
    shown = [np.asarray(Image.open(out.parent / str(r.image))) for r in records]
    np.testing.assert_array_equal(np.stack(shown), np.concatenate([pictures["train"], pictures["test"]]))
    assert records[1].image == "images/aquarium_fish/train-00001.png"
    assert check_manifest(manifest, jobs=1).errors == []


def test_cifar_as_python_2_pickled_it(tmp_path: Path) -> None:
    pictures = write_cifar(tmp_path / "data")
    for seed, (split, count) in enumerate((("train", 40), ("test", 6))):
        content, _ = cifar_split(count, seed)
        (tmp_path / "data" / split).write_bytes(python_2_pickle(content["data"], content["fine_labels"]))
    records = read_manifest(import_cifar_100(tmp_path / "data", tmp_path / "m.csv"))
    last = np.asarray(Image.open(tmp_path / str(records[-1].image)))
    np.testing.assert_array_equal(last, pictures["test"][-1])


def test_pictures_are_written_once_and_whole(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data")
    manifest = import_cifar_100(tmp_path / "data", tmp_path / "m.csv")
    content = manifest.read_bytes()
    files = sorted((tmp_path / "images").rglob("*"))
    kept, lost = [file for file in files if file.is_file()][:2]
    picture = lost.read_bytes()
    lost.unlink()
    os.utime(kept, (1, 1))
    assert import_cifar_100(tmp_path / "data", tmp_path / "m.csv").read_bytes() == content
    assert kept.stat().st_mtime == 1
    assert lost.read_bytes() == picture
    assert sorted((tmp_path / "images").rglob("*")) == files
    assert import_cifar_100(tmp_path / "data", tmp_path / "m.csv", seed=1).read_bytes() != content


class Malicious:
    """What a pickle may hold that must not be run."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("made by a pickle",)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta", Malicious(), "only NumPy arrays and builtin containers are admitted"),
        ("train", {"data": Malicious()}, "only NumPy arrays and builtin containers are admitted"),
        ("meta", ["apple"], "it holds something else than a dictionary"),
        ("meta", {}, "no list 'fine_label_names'"),
        ("meta", {"fine_label_names": ["apple", "../../x"]}, "no list 'fine_label_names' of class names"),
        ("meta", {"fine_label_names": ["apple", 3]}, "no list 'fine_label_names' of class names"),
        ("test", {"data": 3, "fine_labels": []}, "no bytes 'data'"),
        ("test", {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0]}, "do not fit 1 labels"),
        ("test", {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [2]}, "no number from 0 to 1"),
        ("test", {"data": np.zeros((1, 3072), np.float32), "fine_labels": [0]}, "no bytes 'data'"),
    ],
)
def test_cifar_that_is_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(Path("data"))
    Path("data", file).write_bytes(pickle.dumps(content, 2))
    assert message in refused(import_cifar_100, Path("data"), Path("m.csv"))
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_cifar_that_is_not_there_or_cut_short(tmp_path: Path) -> None:
    assert "no such file" in refused(import_cifar_100, tmp_path, tmp_path / "m.csv")
    write_cifar(tmp_path / "data")
    file = tmp_path / "data" / "train"
    file.write_bytes(file.read_bytes()[:-30_000])
    assert "cannot be read as a pickled dictionary" in refused(import_cifar_100, tmp_path / "data", tmp_path / "m.csv")
    assert not (tmp_path / "images").exists()


# ImageNet-R


@pytest.fixture
def renditions(tmp_path: Path) -> Path:
    """Ten pictures of each of three classes, of which two have one name."""
    root = tmp_path / "imagenet-r"
    for wnid in ("n00000001", "n00000002", "n00000003"):
        for number in range(10):
            touch(root / wnid / f"art_{number}.jpg")
    touch(root / "other" / "x.jpg")
    (root / "README.txt").write_text("ImageNet-R\n\nn00000001 great_white_shark\nn00000002 crane\nn00000003 crane\n")
    return root


def test_renditions_are_divided_as_listed(renditions: Path, tmp_path: Path, caplog: Any) -> None:
    split = tmp_path / "split.txt"
    train = [f"n0000000{n}/art_{number}.jpg" for n in (1, 2, 3) for number in range(1, 10)]
    split.write_text("\n".join(["train", *train[::-1], "n00000001/gone.jpg", "", "test", "n00000003/art_0.jpg"]) + "\n")
    records = read_manifest(import_imagenet_r(renditions, tmp_path / "m.csv", split=split, validation=1 / 3))
    assert {r.id for r in records if r.split == "test"} == {"n00000003/art_0.jpg"}
    assert [r.id for r in records if r.split != "test"] == train[::-1]
    assert Counter((r.label, r.split) for r in records) == {
        **{(name, "train"): 6 for name in ("great white shark", "crane (n00000002)", "crane (n00000003)")},
        **{(name, "val"): 3 for name in ("great white shark", "crane (n00000002)", "crane (n00000003)")},
        ("crane (n00000003)", "test"): 1,
    }
    assert records[0].image == "imagenet-r/n00000003/art_9.jpg"
    assert records[0].audio is None
    assert "2 pictures are in no split" in caplog.text
    assert "1 of 29 listed pictures are not there" in caplog.text
    assert (tmp_path / "m-missing.csv").read_text() == "id,label,split\nn00000001/gone.jpg,great white shark,train\n"


def test_renditions_without_a_list_are_divided_by_the_seed(renditions: Path, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "names.txt").write_text("n00000001 shark\nn00000002 heron\n")
    names = tmp_path / "names.txt"
    records = read_manifest(import_imagenet_r(renditions, tmp_path / "m.csv", names=names, validation=0.25))
    assert Counter((r.label, r.split) for r in records) == {
        (label, split): count
        for label in ("shark", "heron", "n00000003")
        for split, count in (("train", 6), ("val", 2), ("test", 2))
    }
    assert "1 of 3 classes have no name (first: n00000003)" in caplog.text
    assert read_manifest(import_imagenet_r(renditions, tmp_path / "m.csv", names=names, validation=0.25)) == records
    other = read_manifest(import_imagenet_r(renditions, tmp_path / "m.csv", names=names, validation=0.25, seed=1))
    assert other != records


def test_renditions_that_do_not_fit(renditions: Path, tmp_path: Path) -> None:
    out, split = tmp_path / "m.csv", tmp_path / "split.txt"
    assert "no such folder" in refused(import_imagenet_r, tmp_path / "nothing", out)
    assert "no pictures in class folders" in refused(import_imagenet_r, tmp_path, out)
    assert "no such file" in refused(import_imagenet_r, renditions, out, split=split)
    assert "no such file" in refused(import_imagenet_r, renditions, out, names=tmp_path / "names.txt")
    for text, message in (
        ("n00000001/art_1.jpg\n", "line 1: 'n00000001/art_1.jpg' stands before a line 'train' or 'test'"),
        ("train\ncat/art_1.jpg\n", "line 2: 'cat/art_1.jpg' is no picture <wnid>/<file>"),
        ("train\nn00000001/../art_1.jpg\n", "is no picture <wnid>/<file>"),
        ("train\nn00000001/art_1.jpg\ntest\nn00000001/art_1.jpg\n", "line 4: 'n00000001/art_1.jpg' is in train and in"),
        ("train\ntest\n", "it lists no pictures"),
        ("train\nn00000009/a.jpg\n", "not one of the 1 pictures"),
    ):
        split.write_text(text)
        assert message in refused(import_imagenet_r, renditions, out, split=split)
    assert not out.exists()


# From data to a store in one command


def test_from_the_released_folder_to_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_classroom(Path("classroom_data"), write=True)
    line = "extract . --importer miniaric --out made/s --encoders '{builtin: {frames: 1, grid: 2}}' --jobs 1"
    said = call(line)
    assert said.code == 0, said
    assert "made/s: 96 clips" in said.out
    store = FeatureStore(Path("made/s"))
    assert set(store.shapes) == {"audio", "visual"}
    assert store.ids == [record.id for record in read_manifest(Path("made/s-manifest.csv"))]
    assert call(line).out == said.out
    assert store.media(0) is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extract x --importer imagenet-esc", "needs imagenet and esc50; call 'mcil data import imagenet-esc' first"),
        ("extract x --importer kinetics-sounds", "needs videos and annotations"),
        ("extract x --importer arrays", "importer 'arrays' makes a store itself"),
        ("extract x --importer avcil-features", "importer 'avcil-features' makes a store itself"),
        ("extract x --importer miniarick", "there is no importer 'miniarick'. Did you mean 'miniaric'?"),
        ("extract x --importer miniaric", "there is no folder 'image' here"),
        ("extract x --importer miniaric --encoders none", "there is no encoder 'none'"),
    ],
)
def test_extraction_from_what_is_no_such_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(line)
