"""What is wrong with a manifest and the files that it names, row by row."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mcil.data.manifest import describe, read_manifest
from mcil.data.progress import progress
from mcil.data.records import MEDIA
from mcil.data.workers import check_jobs, map_in_order
from mcil.errors import MediaError
from mcil.files import sha256
from mcil.media import Clip
from mcil.types import SPLITS, ClipRecord

Level = Literal["error", "warning"]
Kind = Literal["missing file", "unreadable", "missing medium", "class", "duplicate", "leak"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong (an error) or strange (a warning).

    ``row`` counts from 1; ``row`` and ``id`` are None for what concerns no single clip.
    """

    level: Level
    kind: Kind
    message: str
    row: int | None = None
    id: str | None = None

    def __str__(self) -> str:
        where = "" if self.row is None else f"row {self.row} ({self.id}): "
        return f"{self.level}: {where}{self.message}"


@dataclass(frozen=True)
class CheckReport:
    """All problems of a manifest: those of single clips by row, then those of the whole."""

    manifest: Path
    summary: str
    problems: list[Problem]

    @property
    def errors(self) -> list[Problem]:
        """The problems that are to be mended."""
        return [problem for problem in self.problems if problem.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """The problems that can be lived with."""
        return [problem for problem in self.problems if problem.level == "warning"]


def check_manifest(path: Path, jobs: int | None = None) -> CheckReport:
    """Check a manifest: every file is decoded (of videos the sound and a few frames).

    Errors are files that are missing or cannot be read, classes without clips to train or test on, a single class,
    and leaks: one file, overlapping stretches of it, or one source in several splits. Warnings are clips that lack a
    medium which others have, classes of one clip, and clips that are there twice.

    Args:
        path: the manifest, ``.csv`` or ``.parquet``.
        jobs: processes that decode; all cores by default.

    Raises:
        McilError: the manifest itself cannot be read.
    """
    check_jobs(jobs)
    path = Path(path)
    records = read_manifest(path)
    root = path.parent
    found: list[Problem] = []
    with (
        closing(map_in_order(_Decode(root), records, jobs)) as results,
        progress("checking", len(records)) as advance,
    ):
        for row, (record, problems) in enumerate(zip(records, results, strict=True), start=1):
            found += [Problem("error", kind, message, row, record.id) for kind, message in problems]
            advance()
    found += _lacking_media(records)
    found += _shared_content(records, _contents(records, root))
    found += _shared_sources(records)
    found.sort(key=lambda problem: problem.row or 0)
    return CheckReport(path, describe(records), [*found, *_classes(records)])


@dataclass(frozen=True)
class _Decode:
    """What the worker processes do with a clip: kind and message of what is wrong with its files."""

    root: Path

    def __call__(self, record: ClipRecord) -> list[tuple[Kind, str]]:
        named = {name: getattr(record, name) for name in MEDIA if getattr(record, name) is not None}
        gone = sorted({file for file in named.values() if not (self.root / file).is_file()})
        if gone:
            return [("missing file", f"{file}: no such file") for file in gone]
        # Each medium alone, so that one broken file does not hide another; a broken video with sound is one problem.
        return list(dict.fromkeys(problem for name in named for problem in self._read(record, name)))

    def _read(self, record: ClipRecord, name: str) -> Iterator[tuple[Kind, str]]:
        only = ClipRecord(record.id, record.label, record.split, start=record.start, end=record.end)
        clip = Clip(_with(only, name, getattr(record, name)), self.root)
        try:
            if name == "audio":
                clip.waveform()
            else:
                clip.frames(np.linspace(0.0, clip.visual_duration, 3))
        except MediaError as error:
            yield "unreadable", str(error).removeprefix(f"{self.root}/")


def _with(record: ClipRecord, name: str, file: str) -> ClipRecord:
    return ClipRecord(**{**vars(record), name: file})


def _lacking_media(records: Sequence[ClipRecord]) -> Iterator[Problem]:
    for medium, names in (("sound", ("audio",)), ("picture", ("video", "image"))):
        without = [
            (row, record)
            for row, record in enumerate(records, start=1)
            if all(getattr(record, name) is None for name in names)
        ]
        if len(without) < len(records):
            for row, record in without:
                yield Problem("warning", "missing medium", f"has no {medium}, as other clips do", row, record.id)


def _contents(records: Sequence[ClipRecord], root: Path) -> dict[str, str]:
    """Return for every file that is there what identifies its content: files of a size of their own are not read."""
    names = {getattr(record, name) for record in records for name in MEDIA} - {None}
    sizes = {name: (root / name).stat().st_size for name in sorted(names) if (root / name).is_file()}
    count = Counter(sizes.values())
    return {name: name if count[size] == 1 else sha256(root / name) for name, size in sizes.items()}


def _shared_content(records: Sequence[ClipRecord], contents: dict[str, str]) -> Iterator[Problem]:
    """Yield clips that are there twice, and clips that share a stretch of a file with a clip of another split."""
    seen: dict[object, int] = {}
    users: dict[str, set[int]] = defaultdict(set)
    for row, record in enumerate(records, start=1):
        files = [contents.get(getattr(record, name)) for name in MEDIA]
        for content in files:
            if content is not None:
                users[content].add(row)
        first = seen.setdefault((*files, record.start, record.end), row)
        if first != row and any(files) and records[first - 1].split == record.split:
            yield Problem("warning", "duplicate", f"is the same clip as row {first}", row, record.id)
    said = set()
    for content in sorted(users):
        # By time; ``furthest`` holds for each split the clip so far that ends last.
        furthest: dict[str, tuple[float, int]] = {}
        for row in sorted(users[content], key=lambda row: (records[row - 1].start or 0.0, row)):
            record = records[row - 1]
            end = float("inf") if record.end is None else record.end
            for split, (other_end, other) in furthest.items():
                if split != record.split and other_end > (record.start or 0.0) and (row, other) not in said:
                    said.add((row, other))
                    message = f"{record.split} clip shares a file with row {other}, which is in {split}"
                    yield Problem("error", "leak", message, row, record.id)
            furthest[record.split] = max((end, row), furthest.get(record.split, (0.0, 0)))


def _shared_sources(records: Sequence[ClipRecord]) -> Iterator[Problem]:
    first: dict[str, dict[str, int]] = defaultdict(dict)
    for row, record in enumerate(records, start=1):
        if record.source is not None:
            first[record.source].setdefault(record.split, row)
    for source, rows in first.items():
        (split, row), *others = rows.items()
        for other, other_row in others:
            message = f"source '{source}' is in {other} here and in {split} in row {row}"
            yield Problem("error", "leak", message, other_row, records[other_row - 1].id)


def _classes(records: Sequence[ClipRecord]) -> Iterator[Problem]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[record.label][record.split] += 1
    if len(counts) == 1:
        yield Problem("error", "class", f"there is one class only, '{next(iter(counts))}'; at least 2 are needed")
    for name, splits in sorted(counts.items()):
        if splits.total() == 1:
            yield Problem("warning", "class", f"class '{name}' has one clip only")
        for split in SPLITS:
            if splits[split] == 0 and split != "val":
                yield Problem("error", "class", f"class '{name}' has no clip in {split}")
