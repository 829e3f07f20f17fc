"""What the importers share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mcil.data.manifest import describe, write_manifest
from mcil.data.progress import progress
from mcil.data.splitting import stratified_split
from mcil.data.workers import cores
from mcil.errors import MediaError
from mcil.media import probe
from mcil.types import ClipRecord

logger = logging.getLogger(__name__)


def with_own_sound(records: Sequence[ClipRecord], root: Path) -> list[ClipRecord]:
    """Name each video that has sound in ``audio`` too, where nothing stands there.

    A video that cannot be opened is named there as well, so that checking and extraction report it.
    """
    videos = [record for record in records if record.video is not None and record.audio is None]
    sound = {}
    with ThreadPoolExecutor(cores()) as pool, progress("looking for sound", len(videos)) as advance:
        for record, has in zip(videos, pool.map(lambda r: _may_have_sound(root / str(r.video)), videos), strict=True):
            sound[record.id] = has
            advance()
    return [replace(record, audio=record.video) if sound.get(record.id) else record for record in records]


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


def finish(out: Path, records: Sequence[ClipRecord]) -> Path:
    """Write the manifest and say what is in it."""
    write_manifest(out, records)
    logger.info("%s: %s", out, describe(records))
    return out


def path_from(folder: Path, file: Path) -> str:
    """Return how a manifest in ``folder`` names ``file``: relative where it is below, absolute otherwise."""
    file, folder = file.absolute(), folder.absolute()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def _may_have_sound(path: Path) -> bool:
    try:
        return probe(path).audio
    except MediaError:
        return True
