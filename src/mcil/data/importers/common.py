"""What the importers share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl

from mcil.data.manifest import describe, write_manifest
from mcil.data.progress import progress
from mcil.data.splitting import stratified_split
from mcil.data.workers import cores
from mcil.errors import McilError, MediaError
from mcil.files import write_text
from mcil.media import kind_of, probe
from mcil.types import ClipRecord

logger = logging.getLogger(__name__)


def with_own_sound(records: Sequence[ClipRecord], root: Path) -> list[ClipRecord]:
    """Name each video that has sound in ``audio`` too, where nothing stands there; say which have no sound.

    A file with sound but without picture is named in ``audio`` only. One that cannot be opened is named in both, so
    that checking and extraction report it.
    """
    videos = [record for record in records if record.video is not None and record.audio is None]
    found = {}
    with ThreadPoolExecutor(cores()) as pool, progress("looking for sound", len(videos)) as advance:
        for record, has in zip(videos, pool.map(lambda r: _may_have(root / str(r.video)), videos), strict=True):
            found[record.id] = has
            advance()
    for lacking, medium in ((0, "picture"), (1, "sound")):
        without = [str(record.video) for record in videos if not found[record.id][lacking]]
        if without:
            logger.warning("%d of %d videos have no %s (first: %s)", len(without), len(videos), medium, without[0])
    return [_heard(record, *found[record.id]) if record.id in found else record for record in records]


def with_splits(records: Sequence[ClipRecord], fractions: tuple[float, float, float], seed: int) -> list[ClipRecord]:
    """Divide the clips by :func:`mcil.data.splitting.stratified_split`; say which classes cannot be divided."""
    splits = stratified_split([r.label for r in records], [r.source for r in records], fractions, seed)
    divided = [replace(record, split=split) for record, split in zip(records, splits, strict=True)]
    tested = {record.label for record in divided if record.split == "test"}
    for name, count in sorted(Counter(record.label for record in divided).items()):
        if name not in tested:
            why = "has one clip only" if count == 1 else f"has {count} clips that cannot be divided"
            logger.warning("class '%s' %s: nothing of it is left for testing", name, why)
    return divided


def with_validation(records: Sequence[ClipRecord], fraction: float, seed: int) -> list[ClipRecord]:
    """Move ``fraction`` of the training clips of each class to val, drawn by ``seed``; sources stay whole.

    Raises:
        McilError: the fraction is below 0, or leaves nothing to train on.
    """
    if not 0 <= fraction < 1:
        raise McilError(f"validation is the share of the training clips that is moved: 0 to below 1, not {fraction}")
    train = [record for record in records if record.split == "train"]
    sources = [record.source for record in train]
    splits = stratified_split([record.label for record in train], sources, (1 - fraction, fraction, 0.0), seed)
    moved = iter(splits)
    return [replace(record, split=next(moved)) if record.split == "train" else record for record in records]


def list_missing(out: Path, listed: int, rows: Sequence[Mapping[str, str]], what: str) -> None:
    """List beside the manifest ``out``, in ``<its name>-missing.csv``, what is not there; say how many of ``listed``.

    The list of an earlier import is removed where nothing is missing.
    """
    beside = out.with_name(f"{out.stem}-missing.csv")
    beside.unlink(missing_ok=True)
    if rows:
        write_text(beside, pl.DataFrame(list(rows)).write_csv())
        logger.warning("%d of %d listed %s are not there; see %s", len(rows), listed, what, beside)


def files_of(folder: Path, kind: Literal["audio", "image"]) -> list[Path]:
    """Return the files of a kind right in ``folder``, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if kind_of(path) == kind and not path.name.startswith("."))


def folders_of(folder: Path) -> list[str]:
    """Return the names of the folders right in ``folder``, sorted, without hidden ones; none where it is not there."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(item.name for item in found if item.is_dir() and not item.name.startswith("."))


def tell_classes(root: Path, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Say which of the classes ``wanted`` are not among those ``found`` in ``root``, and how many others are there."""
    wanted, found = list(wanted), set(found)
    if lacking := [name for name in wanted if name not in found]:
        logger.warning("%s: %d of %d classes are not there (first: '%s')", root, len(lacking), len(wanted), lacking[0])
    if others := sorted(found - set(wanted)):
        logger.warning("%s: %d other classes were left out (such as '%s')", root, len(others), others[0])


def finish(out: Path, records: Sequence[ClipRecord]) -> Path:
    """Write the manifest and say what is in it."""
    write_manifest(out, records)
    logger.info("%s: %s", out, describe(records))
    return out


def path_from(folder: Path, file: Path) -> str:
    """Return how a manifest in ``folder`` names ``file``: relative where it is below, absolute otherwise."""
    file, folder = file.absolute(), folder.absolute()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def _may_have(path: Path) -> tuple[bool, bool]:
    """Whether the video at ``path`` has a picture, and whether it has sound."""
    try:
        info = probe(path)
    except MediaError:
        return True, True
    return info.video, info.audio


def _heard(record: ClipRecord, picture: bool, sound: bool) -> ClipRecord:
    return replace(record, video=record.video if picture else None, audio=record.video if sound else None)
