"""What the importers of annotated video collections share: lists that name videos, and a folder with some of them."""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcil.data.importers.common import finish, list_missing, path_from, with_own_sound
from mcil.errors import McilError
from mcil.media import kind_of
from mcil.types import ClipRecord, Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedClip:
    """A clip as an annotation lists it.

    ``video`` is the id of the recording; ``files`` are the names that its file may have, without suffix, the likeliest
    first.
    """

    id: str
    label: str
    split: Split
    video: str
    files: tuple[str, ...]


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        McilError: the file is missing or is no text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise McilError(f"{file}: no such file; check the path") from None
    except (OSError, UnicodeError) as error:
        raise McilError(f"{file}: cannot be read as text ({error}); get the file again") from error
    return [line for line in lines if line.strip()]


def read_rows(file: Path, columns: int, delimiter: str = ",") -> list[list[str]]:
    """Return the rows of a text table that are not empty, with at least ``columns`` cells each, outer spaces removed.

    Raises:
        McilError: the file is missing, is no text, or has a shorter row.
    """
    try:
        table = csv.reader(read_lines(file), delimiter=delimiter)
        rows = [[cell.strip() for cell in row] for row in table]
    except csv.Error as error:
        raise McilError(f"{file}: cannot be read as a table ({error}); get the file again") from error
    for number, row in enumerate(rows, start=1):
        if len(row) < columns:
            raise McilError(f"{file}: row {number} has {len(row)} cells, but {columns} are needed; check the file")
    return rows


def seconds(file: Path, row: int, cell: str) -> int:
    """Return whole seconds; McilError that names file and row where ``cell`` is no number."""
    try:
        return int(float(cell))
    except (ValueError, OverflowError):
        raise McilError(f"{file}: row {row}: '{cell}' is no number of seconds; check the file") from None


def in_classes(listed: Sequence[ListedClip], classes: Sequence[str]) -> list[ListedClip]:
    """Return the clips of ``classes``; say how many others there are, and which classes have none."""
    kept = [clip for clip in listed if clip.label in set(classes)]
    if others := {clip.label for clip in listed} - set(classes):
        count, example = len(listed) - len(kept), min(others)
        logger.warning("%d clips of %d other classes were left out (such as '%s')", count, len(others), example)
    if without := sorted(set(classes) - {clip.label for clip in kept}):
        logger.warning(
            "%d of %d classes have no clip in the lists (first: '%s')", len(without), len(classes), without[0]
        )
    return kept


def write_found(out: Path, listed: Sequence[ListedClip], folder: Path) -> Path:
    """Write the manifest of the clips whose video is somewhere below ``folder``.

    The others are counted, and listed beside the manifest, in ``<name of the manifest>-missing.csv``.

    Raises:
        McilError: nothing is listed, there is no such folder, or none of the videos is there.
    """
    if not listed:
        raise McilError("the lists of videos have no clip of these classes; check the files and the classes")
    if not folder.is_dir():
        raise McilError(f"{folder}: no such folder; check the path")
    files = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if kind_of(path) == "video":
            files[path.stem].append(path)
    records, missing = [], []
    for clip in listed:
        found = [path for name in clip.files for path in files.get(name, ())]
        if not found:
            missing.append(clip)
        else:
            video = path_from(out.parent, _likeliest(clip, found))
            records.append(ClipRecord(clip.id, clip.label, clip.split, video=video, source=clip.video))
    if not records:
        example = f"{listed[0].files[0]}.mp4"
        raise McilError(f"{folder}: not one of the {len(listed)} listed videos, such as {example}, is there; check it")
    finish(out, with_own_sound(records, out.parent))
    columns = ("id", "label", "split", "video")
    list_missing(out, len(listed), [{name: getattr(clip, name) for name in columns} for clip in missing], "videos")
    return out


def _likeliest(clip: ListedClip, paths: Sequence[Path]) -> Path:
    """Return the path in a folder of the clip's class, or else the first one."""
    label = plain(clip.label)
    return next((path for path in paths if plain(path.parent.name) == label), paths[0])


def plain(name: str) -> str:
    """Return a class name as folders and lists may differ in it: lower case, spaces for underscores."""
    return name.replace("_", " ").strip().lower()
