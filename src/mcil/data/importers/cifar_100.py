"""CIFAR-100 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009), its version for Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import finish, with_validation
from mcil.data.progress import progress
from mcil.data.unpickle import StoredArray, read_plain_dictionary
from mcil.errors import McilError
from mcil.files import atomic_path
from mcil.types import ClipRecord, Split

_SPLITS: tuple[Split, ...] = ("train", "test")
_FOLDER = "cifar-100-python"
_SIZE = 32
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@IMPORTERS.register("cifar-100")
def import_cifar_100(root: Path, out: Path = Path("manifest.csv"), validation: float = 0.1, seed: int = 0) -> Path:
    """Write the pictures of CIFAR-100 as PNG files, and a manifest of them.

    The pictures are written beside the manifest, ``images/<class>/<split>-<number>.png``; those that are there already
    are left as they are. Labels are the 100 fine classes, with spaces for underscores.

    Args:
        root: the folder ``cifar-100-python``, or the folder that has it in it; nothing of its pickles is run.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        validation: share of the training pictures that is moved to val.
        seed: decides which.

    Returns:
        ``out``.

    Raises:
        McilError: a file is missing, damaged, or holds something else.
    """
    root, out = Path(root), Path(out)
    root = root if (root / "meta").is_file() else root / _FOLDER
    names = read_plain_dictionary(root / "meta").get("fine_label_names")
    # Names become folders: nothing in them may lead elsewhere.
    if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
        raise McilError(f"{root / 'meta'}: it has no list 'fine_label_names' of class names; get the file again")
    records: list[ClipRecord] = []
    pictures: list[npt.NDArray[Any]] = []
    for split in _SPLITS:
        found, numbers = _read(root / split, len(names))
        pictures += list(found)
        for place, number in enumerate(numbers):
            name = f"{names[number]}/{split}-{place:05d}"
            records.append(ClipRecord(name, names[number].replace("_", " "), split, image=f"images/{name}.png"))
    records = with_validation(records, validation, seed)
    with progress("writing pictures", len(records)) as advance:
        for picture, record in zip(pictures, records, strict=True):
            file = out.parent / str(record.image)
            if not file.is_file():
                with atomic_path(file) as temporary:
                    Image.fromarray(picture).save(temporary, "PNG")
            advance()
    return finish(out, records)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _read(file: Path, classes: int) -> tuple[npt.NDArray[Any], list[int]]:
    """Return the pictures (N,32,32,3) uint8 and the class number of each."""
    found = read_plain_dictionary(file)
    numbers, data = found.get("fine_labels"), found.get("data")
    if not isinstance(numbers, list) or not isinstance(data, StoredArray) or data.dtype != np.uint8:
        raise McilError(f"{file}: it has no list 'fine_labels' or no bytes 'data'; get the file again")
    if data.shape != (len(numbers), 3 * _SIZE * _SIZE):
        raise McilError(f"{file}: data of shape {data.shape} do not fit {len(numbers)} labels; get the file again")
    if not all(type(number) is int and 0 <= number < classes for number in numbers):
        raise McilError(f"{file}: a label is no number from 0 to {classes - 1}; get the file again")
    return data.load().reshape(-1, 3, _SIZE, _SIZE).transpose(0, 2, 3, 1), numbers
