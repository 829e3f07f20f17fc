"""A folder of media files in class folders becomes a manifest."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from pathlib import Path

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import finish, path_from, with_own_sound, with_splits
from mcil.errors import McilError
from mcil.media import kind_of
from mcil.types import ClipRecord, Split

logger = logging.getLogger(__name__)

_SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@IMPORTERS.register("folder")
def import_folder(
    root: Path,
    out: Path = Path("manifest.csv"),
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    source: str | None = None,
) -> Path:
    """Write a manifest of the video, audio and image files below ``root``.

    ``ROOT/<class>/...`` is divided into splits; ``ROOT/<split>/<class>/...`` is divided already, and is taken so
    when all folders in ``root`` are called train, val, valid, validation or test. Files of one name but of different
    kinds in a folder (``dog/7.png`` and ``dog/7.wav``) are one clip. Hidden files are left out.

    Args:
        root: the folder.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        seed: decides which clips go to which split.
        fractions: of train, val and test.
        source: a regular expression with a group; what the group matches in a file's name is the recording that
            the clip is from, and clips of one recording stay in one split. None: every clip is its own.

    Returns:
        ``out``.

    Raises:
        McilError: there is no such folder, or no media file in class folders.
    """
    root, out = Path(root), Path(out)
    pattern = _compile(source)
    if not root.is_dir():
        raise McilError(f"{root}: no such folder; check the path")
    folders = [item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith(".")]
    divided = bool(folders) and all(name.lower() in _SPLIT_FOLDERS for name in folders)
    depth = 3 if divided else 2
    clips: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    skipped: Counter[str] = Counter()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if kind_of(path) is None:
            skipped[path.suffix.lower() or "without suffix"] += 1
        elif len(parts) < depth:
            skipped["outside class folders"] += 1
        else:
            clips[path.parent, path.stem].append(path)
    if skipped:
        said = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
        logger.warning("%s: files left out: %s", root, said)
    if not clips:
        layout = "ROOT/<split>/<class>/<file>" if divided else "ROOT/<class>/<file>"
        raise McilError(f"{root}: no video, audio or image files in class folders ({layout})")

    for empty in sorted(
        _class_folders(root, depth) - {parent for folder, _ in clips for parent in (folder, *folder.parents)}
    ):
        logger.warning("%s: no media files in class folder '%s'; there is no such class", root, empty.relative_to(root))

    records = []
    for (folder, stem), files in clips.items():
        place = folder.relative_to(root)
        kinds = [kind_of(file) for file in files]
        together = len(set(kinds)) == len(kinds)
        for group in [files] if together else [[file] for file in files]:
            name = stem if together else group[0].name
            media = {kind_of(file): path_from(out.parent, file) for file in group}
            records.append(
                ClipRecord(
                    id=str(place / name),
                    label=place.parts[depth - 2],
                    split=_SPLIT_FOLDERS[place.parts[0].lower()] if divided else "train",
                    video=media.get("video"),
                    audio=media.get("audio"),
                    image=media.get("image"),
                    source=_source_of(pattern, group),
                )
            )
    if pattern is not None and (alone := sum(record.source is None for record in records)):
        logger.warning("%s: %d file names do not match '%s'; each is its own source", root, alone, source)
    records = with_own_sound(records, out.parent)
    return finish(out, records if divided else with_splits(records, fractions, seed))


def _class_folders(root: Path, depth: int) -> set[Path]:
    """Return the folders that name a class, hidden ones left out."""
    found = root.glob("/".join("*" * (depth - 1)))
    return {
        path for path in found if path.is_dir() and not any(p.startswith(".") for p in path.relative_to(root).parts)
    }


def _compile(source: str | None) -> re.Pattern[str] | None:
    if source is None:
        return None
    try:
        pattern = re.compile(source)
    except re.error as error:
        raise McilError(f"source '{source}' is no regular expression: {error}") from error
    if pattern.groups == 0:
        raise McilError(f"source '{source}' needs a group in parentheses that matches the recording's name")
    return pattern


def _source_of(pattern: re.Pattern[str] | None, files: list[Path]) -> str | None:
    match = pattern.search(files[0].name) if pattern is not None else None
    return match.group(1) if match is not None else None
