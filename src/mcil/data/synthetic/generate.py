"""Make clips: real files, the same for the same seed, on all cores, picked up where a killed run stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mcil.data.manifest import write_manifest
from mcil.data.synthetic.picture import render
from mcil.data.synthetic.sound import RATE, synthesise
from mcil.data.synthetic.table import MadeClass, class_table
from mcil.data.workers import check_jobs, map_in_order
from mcil.errors import McilError
from mcil.files import atomic_path, explain_write_errors, read_json, write_json
from mcil.types import ClipRecord, Split

FPS = 12
_AAC_FRAME = 1024
_SETTINGS = "made.json"


@dataclass(frozen=True)
class _Settings:
    """What decides every byte of the clips."""

    classes: int
    clips: int
    seed: int
    seconds: float
    size: int
    generator: int = 1


def make(
    out: Path,
    classes: int = 12,
    clips: int = 40,
    seed: int = 0,
    seconds: float = 2.0,
    size: int = 96,
    jobs: int | None = None,
) -> Path:
    """Make ``clips`` clips of each of ``classes`` classes and a manifest with 60/15/25 % train/val/test.

    Each clip is ``out/clips/<class>/<class>_<nnn>.mp4``: H.264 of ``size`` x ``size`` pixels at 12 frames a second and
    mono AAC at 16 kHz, ``seconds`` long. The same settings give the same files. Finished files of an earlier run
    with the same settings are kept.

    Args:
        out: the folder to write into; it must be new, empty or left by an earlier run.
        classes: 3 to 36, of which some share their sound and some their look.
        clips: clips of each class, at least 4.
        seed: two seeds give two different sets of clips.
        seconds: length of each clip, at least 0.5.
        size: width and height in pixels; even, 32 to 512.
        jobs: processes to work in; all cores if None.

    Returns:
        The path of the manifest, ``out/manifest.csv``.

    Raises:
        McilError: a setting is out of range, or ``out`` holds something else or cannot be written to.
    """
    settings = _Settings(classes, clips, seed, float(seconds), size)
    table = class_table(classes)
    _check(settings, jobs)
    _claim(out, settings)
    todo = []
    records = []
    for number, made in enumerate(table):
        splits = _splits(np.random.default_rng([seed, number]), clips)
        for clip in range(clips):
            name = f"{made.name}_{clip:03d}"
            file = f"clips/{made.name}/{name}.mp4"
            records.append(ClipRecord(name, made.name, splits[clip], video=file, audio=file))
            if not (out / file).exists():
                todo.append((out / file, made, [seed, number, clip], settings))
    with _progress(len(records), len(records) - len(todo)) as advance:
        for _ in map_in_order(_make_clip, todo, jobs):
            advance()
    manifest = out / "manifest.csv"
    write_manifest(manifest, records)
    return manifest


def _check(settings: _Settings, jobs: int | None) -> None:
    """Refuse settings that no clip can be made with."""
    check_jobs(jobs)
    if settings.clips < 4:
        raise McilError(f"cannot make {settings.clips} clips a class; choose at least 4, to fill three splits")
    if settings.seed < 0:
        raise McilError(f"the seed cannot be {settings.seed}; choose 0 or more")
    if not 0.5 <= settings.seconds <= 60.0:
        raise McilError(f"cannot make clips of {settings.seconds:g} s; choose 0.5 to 60 seconds")
    if settings.size % 2 or not 32 <= settings.size <= 512:
        raise McilError(f"cannot make videos of size {settings.size}; choose an even size from 32 to 512")


def _claim(out: Path, settings: _Settings) -> None:
    """Note the settings in ``out``, or see that an earlier run noted the same, and sweep up what it left half-done."""
    noted = out / _SETTINGS
    if noted.exists():
        if read_json(noted, "note of how clips were made") != asdict(settings):
            raise McilError(f"{out}: holds clips made with other settings; choose another folder")
        for left in out.glob("clips/*/.*.part"):
            left.unlink(missing_ok=True)
        return
    with explain_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise McilError(f"{out}: holds other files; choose a new or an empty folder")
    write_json(noted, asdict(settings))


def _splits(rng: np.random.Generator, clips: int) -> list[Split]:
    """A split for each clip of a class: 15 % validation and 25 % test, in random places."""
    splits: list[Split] = ["train"] * clips
    validation, test = max(1, round(0.15 * clips)), max(1, round(0.25 * clips))
    order = rng.permutation(clips)
    for place in order[:validation]:
        splits[place] = "val"
    for place in order[validation : validation + test]:
        splits[place] = "test"
    return splits


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a bar of ``total`` clips, ``done`` of them there already; yield what moves it on by one."""
    columns = (TextColumn("making clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda: bar.advance(task)


_Job = tuple[Path, MadeClass, list[int], _Settings]


def _make_clip(job: _Job) -> None:
    """Make one clip and write its file."""
    path, made, seed, settings = job
    rng = np.random.default_rng([*seed, settings.generator])
    count = min(int(rng.integers(2, 4)), len(made.distractors))
    silent = rng.choice(made.distractors, count, replace=False)
    frames = round(settings.seconds * FPS)
    picture = render(rng, [made.look, *map(str, silent)], frames, FPS, settings.size)
    with atomic_path(path) as temporary:
        _write_mp4(temporary, picture, synthesise(rng, made.sound, settings.seconds))


def _write_mp4(path: Path, picture: npt.NDArray[np.uint8], sound: npt.NDArray[np.float32]) -> None:
    """Write (frames,H,W,3) and (n,) samples as H.264 and AAC, on one thread so that the bytes are always the same."""
    height, width = picture.shape[1:3]
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "superfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 48000
        for index, pixels in enumerate(picture):
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for start in range(0, len(sound), _AAC_FRAME):
            samples = av.AudioFrame.from_ndarray(sound[None, start : start + _AAC_FRAME], "fltp", "mono")
            samples.sample_rate, samples.pts, samples.time_base = RATE, start, Fraction(1, RATE)
            container.mux(audio.encode(samples))
        container.mux(audio.encode())
