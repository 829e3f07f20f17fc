import logging
import wave
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcil.data.importers import IMPORTERS
from mcil.data.importers.folder import import_folder
from mcil.data.importers.table import import_table
from mcil.data.manifest import read_manifest
from mcil.data.splitting import stratified_split
from mcil.errors import McilError
from mcil.types import SPLITS, ClipRecord


def write_sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros(800, np.int16).tobytes())


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def write_video(path: Path, sound: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.time_base, samples.pts = 8000, Fraction(1, 8000), 0
            container.mux(audio.encode(samples))
            container.mux(audio.encode(None))


def by_id(manifest: Path) -> dict[str, ClipRecord]:
    return {record.id: record for record in read_manifest(manifest)}


def test_importers_are_registered() -> None:
    assert {"arrays", "folder", "table"} <= set(IMPORTERS.names())
    assert IMPORTERS["folder"] is import_folder


def test_folder_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "clips"
    for n in range(10):
        write_sound(root / "rain" / f"{n}.wav")
        write_image(root / "sun" / "deep" / f"{n}.png")
    write_sound(root / "sun" / "deep" / "3.wav")
    (root / "sun" / ".hidden.png").write_text("")
    (root / ".git").mkdir()
    (root / ".git" / "x.png").write_text("")
    (root / "sun" / "notes.txt").write_text("")
    write_image(root / "cover.png")
    manifest = import_folder(root, tmp_path / "m.csv")
    clips = by_id(manifest)
    assert len(clips) == 20
    assert clips["sun/deep/3"].image == "clips/sun/deep/3.png"
    assert clips["sun/deep/3"].audio == "clips/sun/deep/3.wav"
    assert clips["sun/deep/4"].audio is None
    for label in ("rain", "sun"):
        splits = Counter(clip.split for clip in clips.values() if clip.label == label)
        assert splits == {"train": 7, "val": 1, "test": 2}
    assert "1 .txt, 1 outside class folders" in caplog.text
    content = manifest.read_bytes()
    assert import_folder(root, tmp_path / "m.csv").read_bytes() == content
    assert import_folder(root, tmp_path / "m.csv", seed=1).read_bytes() != content


def test_the_sound_of_videos(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    write_video(root / "a" / "loud.mp4", sound=True)
    write_video(root / "a" / "mute.mp4", sound=False)
    write_video(root / "a" / "dubbed.mp4", sound=True)
    write_sound(root / "a" / "dubbed.wav")
    (root / "a" / "broken.mp4").write_text("no video")
    clips = by_id(import_folder(root, tmp_path / "m.parquet"))
    assert clips["a/loud"].audio == clips["a/loud"].video == "clips/a/loud.mp4"
    assert clips["a/mute"].audio is None
    assert clips["a/dubbed"].audio == "clips/a/dubbed.wav"
    assert clips["a/broken"].audio == clips["a/broken"].video == "clips/a/broken.mp4"


def test_folder_of_splits(tmp_path: Path) -> None:
    for split in ("Train", "validation", "test"):
        for name in ("a", "b"):
            write_sound(tmp_path / "data" / split / name / "1.wav")
    clips = by_id(import_folder(tmp_path / "data", tmp_path / "elsewhere" / "m.csv"))
    assert {(clip.id, clip.label, clip.split) for clip in clips.values()} == {
        (f"{folder}/{name}/1", name, split)
        for folder, split in (("Train", "train"), ("validation", "val"), ("test", "test"))
        for name in ("a", "b")
    }
    assert Path(str(clips["test/a/1"].audio)) == tmp_path / "data/test/a/1.wav"


def test_files_of_one_name_and_kind_are_clips_of_their_own(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "a" / "1.jpg")
    assert sorted(by_id(import_folder(tmp_path, tmp_path / "m.csv"))) == ["a/1.jpg", "a/1.png"]


def test_sources_stay_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for tape in range(8):
        for n in range(4):
            write_sound(tmp_path / "ab"[tape % 2] / f"tape{tape}-{n}.wav")
    write_sound(tmp_path / "a" / "odd.wav")
    clips = by_id(import_folder(tmp_path, tmp_path / "m.csv", source=r"^(tape\d+)-"))
    assert clips["a/tape0-3"].source == "tape0"
    assert clips["a/odd"].source is None
    assert "1 file names do not match" in caplog.text
    for tape in range(8):
        assert len({clip.split for clip in clips.values() if clip.source == f"tape{tape}"}) == 1
    for label in "ab":
        assert {"train", "test"} <= {clip.split for clip in clips.values() if clip.label == label}


def test_a_class_of_one_clip_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_sound(tmp_path / "a" / "1.wav")
    write_sound(tmp_path / "b" / "1.wav")
    write_sound(tmp_path / "b" / "2.wav")
    with caplog.at_level(logging.INFO):
        clips = by_id(import_folder(tmp_path, tmp_path / "m.csv"))
    assert clips["a/1"].split == "train"
    assert sorted(clips[f"b/{n}"].split for n in (1, 2)) == ["test", "train"]
    assert "class 'a' has one clip only" in caplog.text
    assert "3 clips (2 train, 0 val, 1 test) of 2 classes" in caplog.text


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    with pytest.raises(McilError, match="no such folder"):
        import_folder(tmp_path / "nothing", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(McilError, match="no video, audio or image files in class folders"):
        import_folder(tmp_path / "empty", out)
    write_sound(tmp_path / "flat" / "1.wav")
    with pytest.raises(McilError, match="ROOT/<class>/<file>"):
        import_folder(tmp_path / "flat", out)
    write_sound(tmp_path / "data" / "train" / "1.wav")
    with pytest.raises(McilError, match="ROOT/<split>/<class>/<file>"):
        import_folder(tmp_path / "data", out)
    write_sound(tmp_path / "good" / "a" / "1.wav")
    with pytest.raises(McilError, match="no regular expression"):
        import_folder(tmp_path / "good", out, source="(")
    with pytest.raises(McilError, match="needs a group"):
        import_folder(tmp_path / "good", out, source="tape")
    with pytest.raises(McilError, match="must add up to 1"):
        import_folder(tmp_path / "good", out, fractions=(0.5, 0.1, 0.1))
    with pytest.raises(McilError, match="choose another name"):
        import_folder(tmp_path / "good", tmp_path / "m.txt")
    assert not out.exists()


def test_table(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "v.mp4", sound=True)
    table = tmp_path / "in" / "t.csv"
    table.write_text("label,video\nx,v.mp4\ny,gone.mp4\n")
    clips = by_id(import_table(table, tmp_path / "m.csv"))
    assert clips["000001"].audio == clips["000001"].video == "in/v.mp4"
    assert clips["000002"].video == "in/gone.mp4"

    table.write_text("id,label,split,video,audio\na,x,test,v.mp4,\n")
    clips = by_id(import_table(table, tmp_path / "in" / "m.csv"))
    assert clips == {"a": ClipRecord("a", "x", "test", video="v.mp4")}

    rows = [f"{n % 2},{n}.wav,s{n // 4}" for n in range(40)]
    table.write_text("\n".join(["label,audio,source", *rows]))
    first = read_manifest(import_table(table, tmp_path / "m.csv"))
    for number in range(10):
        assert len({clip.split for clip in first if clip.source == f"s{number}"}) == 1
    assert Counter(clip.split for clip in first) == {"train": 28, "val": 4, "test": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labl,audio\nx,a.wav", "unknown column 'labl'. Did you mean 'label'"),
        ("id,audio\nx,a.wav", "column 'label' is missing"),
        ("label,audio\nx,a.wav\n,b.wav", "row 2, column 'label' is empty"),
        ("label,audio,split\nx,a.wav,dev", "row 1, column 'split': unknown split 'dev'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(McilError, match=message):
        import_table(tmp_path / "t.csv", tmp_path / "m.csv")
    assert not (tmp_path / "m.csv").exists()


@settings(deadline=None)
@given(
    clips=st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 12).map(str)), min_size=1),
    seed=st.integers(0, 5),
)
def test_splits_keep_sources_together_and_every_class_trainable(clips: list[tuple[str, str | None]], seed: int) -> None:
    labels, sources = [label for label, _ in clips], [source for _, source in clips]
    splits = stratified_split(labels, sources, seed=seed)
    assert splits == stratified_split(labels, sources, seed=seed)
    assert set(splits) <= set(SPLITS)
    for source in set(sources) - {None}:
        assert len({split for split, other in zip(splits, sources, strict=True) if other == source}) == 1
    if len(set(sources)) == len(sources) or set(sources) == {None}:
        for label, count in Counter(labels).items():
            have = Counter(split for split, other in zip(splits, labels, strict=True) if other == label)
            assert have["train"] >= 1
            assert count == 1 or have["test"] >= 1
            for split, fraction in zip(SPLITS, (0.7, 0.1, 0.2), strict=True):
                assert abs(have[split] - fraction * count) <= 1


def test_a_class_folder_without_media_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a/1.wav", "a/2.wav", "b/deep/3.wav", "notes/readme.txt", ".hidden/x"):
        file = tmp_path / "clips" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "clips" / "empty").mkdir()
    import_folder(tmp_path / "clips", tmp_path / "m.csv")
    said = [record.getMessage() for record in caplog.records if "no media files in class folder" in record.getMessage()]
    assert [line.split("'")[1] for line in said] == ["empty", "notes"]
