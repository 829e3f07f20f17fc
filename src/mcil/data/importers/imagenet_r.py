"""ImageNet-R (Hendrycks et al., "The Many Faces of Robustness", ICCV 2021): drawings, toys and such of 200 classes."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import (
    files_of,
    finish,
    folders_of,
    list_missing,
    path_from,
    with_splits,
    with_validation,
)
from mcil.data.importers.videos import read_lines
from mcil.errors import McilError
from mcil.types import ClipRecord, Split

logger = logging.getLogger(__name__)

_WNID = re.compile(r"n\d{8}")
_NAMED = re.compile(r"(n\d{8})\s+(\S.*)")
_SECTIONS: dict[str, Split] = {"train": "train", "test": "test"}
_README = "README.txt"


@IMPORTERS.register("imagenet-r")
def import_imagenet_r(
    root: Path,
    out: Path = Path("manifest.csv"),
    split: Path | None = None,
    names: Path | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> Path:
    """Write a manifest of the pictures ``<wnid>/*``.

    Args:
        root: the folder of the data set.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        split: a text file with the line ``train``, lines ``<wnid>/<file>``, the line ``test`` and such lines again;
            pictures that are not there are left out and listed beside the manifest. By default 80 % of each class are
            train and 20 % test.
        names: a text file with lines ``<wnid> <class name>``; others are passed over. By default ``README.txt``, if
            ``root`` has it. Classes without a name are called by their WordNet id, and those of one name by both.
        validation: share of the training pictures that is moved to val.
        seed: decides which pictures go where.

    Returns:
        ``out``.

    Raises:
        McilError: a file is missing or damaged, or none of the pictures is there.
    """
    root, out = Path(root), Path(out)
    if not root.is_dir():
        raise McilError(f"{root}: no such folder; check the path")
    there = {f"{name}/{path.name}" for name in _classes(root) for path in files_of(root / name, "image")}
    if not there:
        raise McilError(f"{root}: no pictures in class folders (ROOT/<wnid>/<file>); check the path")
    splits = dict.fromkeys(sorted(there), _SECTIONS["train"]) if split is None else _read_split(Path(split))
    labels = _labels(root, names, sorted({name.partition("/")[0] for name in splits}))
    records, missing = [], []
    for name, part in splits.items():
        label = labels[name.partition("/")[0]]
        if name in there:
            records.append(ClipRecord(name, label, part, image=path_from(out.parent, root / name)))
        else:
            missing.append({"id": name, "label": label, "split": part})
    if not records:
        raise McilError(f"{root}: not one of the {len(splits)} pictures that {split} lists is there; check both")
    if unlisted := len(there) - len(records):
        logger.warning("%d pictures are in no split of %s and were left out", unlisted, split)
    if split is None:
        records = with_splits(records, (0.8, 0.0, 0.2), seed)
    finish(out, with_validation(records, validation, seed))
    list_missing(out, len(splits), missing, "pictures")
    return out


def _classes(root: Path) -> list[str]:
    return [name for name in folders_of(root) if _WNID.fullmatch(name)]


def _read_split(file: Path) -> dict[str, Split]:
    """Return the split of each picture that the file lists."""
    splits: dict[str, Split] = {}
    part: Split | None = None
    for number, line in enumerate(map(str.strip, read_lines(file)), start=1):
        if line in _SECTIONS:
            part = _SECTIONS[line]
        elif part is None:
            raise McilError(f"{file}: line {number}: '{line}' stands before a line 'train' or 'test'; check the file")
        elif not _WNID.fullmatch(line.partition("/")[0]) or line.count("/") != 1:
            raise McilError(f"{file}: line {number}: '{line}' is no picture <wnid>/<file>; check the file")
        elif splits.setdefault(line, part) != part:
            raise McilError(f"{file}: line {number}: '{line}' is in train and in test; check the file")
    if not splits:
        raise McilError(f"{file}: it lists no pictures; check the file")
    return splits


def _labels(root: Path, names: Path | None, wnids: list[str]) -> dict[str, str]:
    """Return the name of each class, different ones for different classes."""
    named: dict[str, str] = {}
    if names is not None or (root / _README).is_file():
        lines = read_lines(Path(names or root / _README))
        named = {
            found[1]: found[2].replace("_", " ").strip() for line in lines if (found := _NAMED.match(line.strip()))
        }
    if nameless := [wnid for wnid in wnids if wnid not in named]:
        logger.warning("%d of %d classes have no name (first: %s)", len(nameless), len(wnids), nameless[0])
    labels = {wnid: named.get(wnid, wnid) for wnid in wnids}
    count = Counter(labels.values())
    return {wnid: label if count[label] == 1 else f"{label} ({wnid})" for wnid, label in labels.items()}
