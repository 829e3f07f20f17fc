"""Features that exist already, in a NumPy archive, become a feature store directly."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from mcil.data.class_text import ClassText, write_class_text
from mcil.data.importers import IMPORTERS
from mcil.data.store import FeatureStore
from mcil.errors import McilError, did_you_mean

_OPTIONAL = {"audio": "audio", "visual": "visual", "class_names": "class_names", "ids": "ids", "text": "text"}


@IMPORTERS.register("arrays")
def import_arrays(
    file: Path,
    out: Path = Path("store"),
    audio: str = "audio",
    visual: str = "visual",
    labels: str = "y",
    split: str = "split",
    class_names: str = "class_names",
    ids: str = "ids",
    splits: Sequence[str] = ("train", "val", "test"),
    text: str = "text",
) -> Path:
    """Turn a ``.npz`` archive of features into a store.

    Args:
        file: the archive; nothing in it is unpickled.
        out: the folder of the store.
        audio: name of the array (N,D), or (N,T,D) of T steps of time; may be missing in the archive.
        visual: name of the array (N,L,S,D) or (N,D); may be missing in the archive.
        labels: name of the array (N,) of class names, or of numbers that index ``class_names``.
        split: name of the array (N,) of split names, or of numbers that index ``splits``.
        class_names: name of the array of class names; where it is missing the numbers are the names.
        ids: name of the array (N,) of the clips' names; where it is missing the clips are numbered.
        splits: what the numbers in ``split`` mean.
        text: name of the array (C,D) or (C,P,D) of what a text encoder says of the classes, in the order of
            ``class_names``; may be missing in the archive.

    Returns:
        ``out``.

    Raises:
        McilError: the archive cannot be read, or an array is missing or does not fit.
    """
    wanted = {"audio": audio, "visual": visual, "class_names": class_names, "ids": ids, "text": text}
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, NpzFile):
            raise McilError(f"{file}: holds one array without a name; save the arrays with np.savez instead")
        with loaded as archive:
            held = archive.files
            for role, key in {**wanted, "labels": labels, "split": split}.items():
                # A default name may be missing; a name that was asked for may not.
                if key not in held and _OPTIONAL.get(role) != key:
                    raise McilError(
                        f"{file}: no array '{key}' for {role}.{did_you_mean(key, held)} It has {', '.join(held)}"
                    )
            found = {role: archive[key] for role, key in wanted.items() if key in held}
            codes, parts = archive[labels], archive[split]
    except FileNotFoundError:
        raise McilError(f"{file}: no such file; check the path") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise McilError(
            f"{file}: cannot be read as a NumPy archive (.npz) without pickles ({error}); "
            "save plain arrays with np.savez"
        ) from error
    said = found.pop("text", None)
    names = _decode(file, "labels", codes, found.get("class_names"))
    described = None if said is None else _described(file, said, found.get("class_names"), names, text)
    store = FeatureStore.write(
        out,
        labels=names,
        splits=_decode(file, "split", parts, np.array(splits)),
        audio=found.get("audio"),
        visual=found.get("visual"),
        ids=[str(name) for name in found["ids"].tolist()] if "ids" in found else None,
        card={"source": {"file": Path(file).name, "arrays": sorted(found)}},
    )
    if described is not None:
        write_class_text(store.path, described)
    return store.path


def _described(
    file: Path, values: npt.NDArray[Any], class_names: npt.NDArray[Any] | None, labels: list[str], array: str
) -> ClassText:
    """Return ``values`` as text about the classes, of which each one of ``labels`` must be."""
    if class_names is None:
        raise McilError(f"{file}: text is in the order of the class names, but no array has these; add class_names")
    try:
        card = {"source": {"file": Path(file).name, "array": array}}
        described = ClassText.given(class_names.tolist(), values, card)
        described.of(sorted(set(labels)))
    except McilError as error:
        raise McilError(f"{file}: {error}") from error
    return described


def _decode(file: Path, role: str, codes: npt.NDArray[Any], names: npt.NDArray[Any] | None) -> list[str]:
    """Return strings for ``codes``: themselves where they are strings, otherwise the names they index."""
    if codes.ndim != 1:
        raise McilError(f"{file}: {role} has shape {codes.shape}; (N,) is needed")
    if codes.dtype.kind in "US" or names is None:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in codes.tolist()]
    if codes.dtype.kind not in "iu":
        raise McilError(f"{file}: {role} is of type {codes.dtype}; whole numbers or names are needed")
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(names):
        raise McilError(f"{file}: {role} has the number {int(codes.max())}, but there are {len(names)} names for it")
    return [str(name) for name in names[codes].tolist()]
