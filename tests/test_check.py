import shutil
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mcil.data.check import CheckReport, check_manifest
from mcil.data.manifest import write_manifest
from mcil.errors import McilError
from mcil.types import ClipRecord, Split


def write_sound(path: Path, seed: int, seconds: float = 0.2) -> str:
    samples = np.random.default_rng(seed).integers(-9000, 9000, int(8000 * seconds))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(samples.astype(np.int16).tobytes())
    return path.name


def write_image(path: Path, seed: int) -> str:
    Image.new("RGB", (6, 6), (seed, 0, 0)).save(path)
    return path.name


def write_video(path: Path, sound: bool = True) -> str:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width = video.height = 32
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for n in range(20):
            picture = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if audio is not None:
                samples = rng.normal(size=(1, 800)).astype(np.float32) / 9
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), 800 * n
                container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return path.name


def good(folder: Path) -> list[ClipRecord]:
    """Two classes with a clip of sound and picture in each split."""
    clips: list[tuple[str, Split]] = [(label, split) for label in "ab" for split in ("train", "val", "test")]
    return [
        ClipRecord(
            f"{label}-{split}",
            label,
            split,
            audio=write_sound(folder / f"{n}.wav", n),
            image=write_image(folder / f"{n}.png", n),
        )
        for n, (label, split) in enumerate(clips)
    ]


def check(folder: Path, *more: ClipRecord) -> CheckReport:
    write_manifest(folder / "m.csv", [*good(folder), *more])
    return check_manifest(folder / "m.csv", jobs=1)


def said(report: CheckReport) -> list[tuple[str, str, int | None]]:
    return [(problem.level, problem.kind, problem.row) for problem in report.problems]


def test_nothing_wrong(tmp_path: Path) -> None:
    report = check(tmp_path)
    assert report.problems == report.errors == report.warnings == []
    assert report.summary.startswith("6 clips (2 train, 2 val, 2 test) of 2 classes")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4")
    mute = write_video(tmp_path / "mute.mp4", sound=False)
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "short.mp4").write_bytes((tmp_path / whole).read_bytes()[:-3000])
    (tmp_path / "empty.wav").write_bytes(b"")
    picture = write_image(tmp_path / "x.png", 99)
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:1500])
    report = check(
        tmp_path,
        ClipRecord("fine", "a", "train", video=whole, audio=whole),
        ClipRecord("text", "a", "train", video="text.mp4", audio="text.mp4"),
        ClipRecord("short", "a", "train", video="short.mp4", audio="short.mp4"),
        ClipRecord("mute", "a", "train", video=mute, audio=mute),
        ClipRecord("gone", "a", "train", video="gone.mp4", audio="gone.mp4"),
        ClipRecord("empty", "a", "train", image=picture, audio="empty.wav"),
        ClipRecord("half", "a", "train", image="half.png", audio=write_sound(tmp_path / "y.wav", 77)),
        ClipRecord("beyond", "a", "train", image=picture, audio="y.wav", start=8.0),
    )
    assert sorted({(problem.kind, problem.id) for problem in report.errors}) == [
        ("missing file", "gone"),
        *[("unreadable", name) for name in ("beyond", "empty", "half", "mute", "short", "text")],
    ]
    assert sum(problem.id == "text" for problem in report.errors) == 1
    assert report.warnings == []
    rows = [problem.row for problem in report.problems]
    assert rows == sorted(rows, key=lambda row: row or 0)
    for problem in report.errors:
        assert "\n" not in str(problem)
        assert str(tmp_path) not in problem.message
    assert str(report.errors[-1]).startswith("error: row 14 (beyond): y.wav")
    gone = [problem for problem in report.errors if problem.id == "gone"]
    assert [problem.message for problem in gone] == ["gone.mp4: no such file"]


def test_a_medium_that_some_lack(tmp_path: Path) -> None:
    report = check(
        tmp_path,
        ClipRecord("deaf", "a", "train", image=write_image(tmp_path / "x.png", 88)),
        ClipRecord("blind", "a", "train", audio=write_sound(tmp_path / "x.wav", 88)),
    )
    assert said(report) == [("warning", "missing medium", 7), ("warning", "missing medium", 8)]
    assert "has no sound" in report.problems[0].message
    assert "has no picture" in report.problems[1].message


def test_classes(tmp_path: Path) -> None:
    report = check(tmp_path, ClipRecord("c", "c", "train", image=write_image(tmp_path / "x.png", 88), audio="0.wav"))
    assert [str(problem) for problem in report.problems] == [
        "warning: class 'c' has one clip only",
        "error: class 'c' has no clip in test",
    ]
    records = [record for record in good(tmp_path) if record.label == "a"]
    write_manifest(tmp_path / "m.csv", records)
    assert [problem.message for problem in check_manifest(tmp_path / "m.csv", jobs=1).errors] == [
        "there is one class only, 'a'; at least 2 are needed"
    ]


def test_duplicates_and_leaks(tmp_path: Path) -> None:
    good(tmp_path)
    shutil.copy(tmp_path / "0.wav", tmp_path / "copy.wav")
    shutil.copy(tmp_path / "0.png", tmp_path / "copy.png")
    new = write_image(tmp_path / "new.png", 200)
    report = check(
        tmp_path,
        ClipRecord("twice", "a", "train", audio="copy.wav", image="copy.png"),
        ClipRecord("leak", "a", "test", audio="copy.wav", image=new),
        ClipRecord("other picture", "a", "train", audio="0.wav", image=write_image(tmp_path / "n.png", 201)),
    )
    assert said(report)[0] == ("warning", "duplicate", 7)
    assert "row 1" in report.warnings[0].message
    assert [(problem.kind, problem.row) for problem in report.errors] == [("leak", 8), ("leak", 9)]
    assert "which is in train" in report.errors[0].message


def test_stretches_of_one_file(tmp_path: Path) -> None:
    long = write_sound(tmp_path / "long.wav", 50, seconds=3.0)

    def clip(name: str, split: Split, start: float | None, end: float | None) -> ClipRecord:
        return ClipRecord(name, "a", split, audio=long, start=start, end=end)

    apart = check(tmp_path, clip("x", "train", None, 1.0), clip("y", "test", 1.0, 2.0), clip("z", "train", 2.0, None))
    assert apart.errors == []
    overlapping = check(tmp_path, clip("x", "train", 0.5, None), clip("y", "test", 0, 1.0))
    assert [(problem.kind, problem.row) for problem in overlapping.errors] == [("leak", 7)]


def test_a_source_in_two_splits(tmp_path: Path) -> None:
    def clip(n: int, split: Split, source: str) -> ClipRecord:
        return ClipRecord(
            f"x{n}",
            "a",
            split,
            audio=write_sound(tmp_path / f"x{n}.wav", 60 + n),
            image=write_image(tmp_path / f"x{n}.png", 60 + n),
            source=source,
        )

    report = check(tmp_path, clip(0, "train", "s"), clip(1, "test", "s"), clip(2, "train", "t"), clip(3, "train", "t"))
    assert [(problem.kind, problem.row) for problem in report.errors] == [("leak", 8)]
    assert report.errors[0].message == "source 's' is in test here and in train in row 7"


def test_processes_find_the_same(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    report = check(
        tmp_path, ClipRecord("text", "a", "train", audio="text.wav", image=write_image(tmp_path / "x.png", 9))
    )
    assert check_manifest(tmp_path / "m.csv", jobs=2) == report
    assert len(report.errors) == 1


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(McilError, match="no such file"):
        check_manifest(tmp_path / "m.csv")
