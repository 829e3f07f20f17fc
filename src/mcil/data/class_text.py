"""Text about the classes of a store: what a text encoder makes of prompts, in one file inside the store's folder.

It is no part of the store's checksum: it can be added or replaced at any time, and runs that do not read it stay valid.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcil.data.records import content_hash
from mcil.data.store import FeatureStore
from mcil.data.writer import TEXT
from mcil.encoders import TextEncoder
from mcil.encoders.prompts import prompts_for
from mcil.errors import McilError, did_you_mean
from mcil.files import read_tensors, write_tensors

logger = logging.getLogger(__name__)

FORMAT = "mcil text of classes"
VERSION = 1
GIVEN = "given"
_BATCH = 64


@dataclass(frozen=True, eq=False)
class ClassText:
    """What is known of C classes as text.

    Attributes:
        class_names: C of them.
        prompts: P prompts for each class; none where only their values are known.
        values: (C,P,D) float32 embeddings, not normalised, or (C,P,length) int32 token ids.
        card: of the text encoder, or where the values are from.
        domain: the set of prompts (:func:`mcil.encoders.prompts.prompts_for`); "given" where values were given.

    Raises:
        McilError: numbers of classes or prompts differ, a name comes twice, or values are none or not finite.
    """

    class_names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    values: Tensor
    card: dict[str, Any]
    domain: str

    def __post_init__(self) -> None:
        classes, shape = len(self.class_names), tuple(self.values.shape)
        if len(set(self.class_names)) != classes:
            raise McilError("text about classes: two classes have the same name; each may come once")
        if len(shape) != 3 or len(self.prompts) != classes or shape[0] != classes or 0 in shape:
            raise McilError(
                f"text about classes: {classes} names, {len(self.prompts)} lists of prompts and values {shape}; "
                "(classes, prompts, width), all above 0, are needed"
            )
        if self.domain != GIVEN and any(len(prompts) != shape[1] for prompts in self.prompts):
            raise McilError(f"text about classes: each class needs {shape[1]} prompts, as it has values")
        if self.values.dtype not in (torch.float32, torch.int32):
            raise McilError(f"text about classes: values are of type {self.values.dtype}; float32 or int32 is needed")
        if not torch.isfinite(self.values).all():
            row = int(torch.isfinite(self.values).flatten(1).all(1).logical_not().nonzero()[0, 0])
            raise McilError(f"text about classes: values of class '{self.class_names[row]}' are not finite; mend them")

    @staticmethod
    def given(class_names: Sequence[str], values: npt.NDArray[Any], card: Mapping[str, Any]) -> ClassText:
        """Return text of which only the values are known: (C,D), one prompt a class, or (C,P,D); they become float32.

        Raises:
            McilError: the values are no numbers, or do not fit the names.
        """
        if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
            raise McilError(f"text about classes: values are of type {values.dtype}; numbers are needed")
        vectors = values[:, None] if values.ndim == 2 else values
        names = tuple(str(name) for name in class_names)
        tensor = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        return ClassText(names, ((),) * len(names), tensor, dict(card), GIVEN)

    @property
    def checksum(self) -> str:
        """Identify the content, wherever the file stands."""
        values = self.values.contiguous().numpy()
        described = [self.plan, values.dtype.name, values.shape, hashlib.sha256(values.tobytes()).hexdigest()]
        return content_hash(described)

    def of(self, names: Sequence[str]) -> Tensor:
        """Return the values of the classes ``names``, in that order: (len(names), P, D).

        Raises:
            McilError: there is no text about one of them.
        """
        places = {name: place for place, name in enumerate(self.class_names)}
        for name in names:
            if name not in places:
                raise McilError(
                    f"there is no text about the class '{name}'.{did_you_mean(name, places)} "
                    "Add text about all classes of the store with `mcil text`"
                )
        return self.values[[places[name] for name in names]]

    def describes(self, names: Sequence[str], encoder: TextEncoder, domain: str) -> bool:
        """Whether :func:`describe_classes` would make this text."""
        return self.plan == _plan(names, prompts_for(names, domain), encoder.card(), domain)

    @property
    def plan(self) -> dict[str, Any]:
        """All but the values, as JSON."""
        return _plan(self.class_names, self.prompts, self.card, self.domain)


def _plan(names: Sequence[str], prompts: Sequence[Sequence[str]], card: dict[str, Any], domain: str) -> dict[str, Any]:
    return {"class_names": list(names), "prompts": [list(row) for row in prompts], "card": card, "domain": domain}


def describe_classes(names: Sequence[str], encoder: TextEncoder, domain: str) -> ClassText:
    """Encode the prompts of ``domain`` about the classes ``names``; equal prompts are encoded once.

    Raises:
        McilError: there is no such domain, the encoder cannot run, or its values are not finite.
    """
    prompts = prompts_for(names, domain)
    unique = {text: place for place, text in enumerate(dict.fromkeys(text for row in prompts for text in row))}
    texts = list(unique)
    batches = [encoder.encode(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
    if not batches:
        raise McilError("text about classes: there are no classes to describe; give at least one")
    encoded = torch.from_numpy(np.concatenate(batches))
    values = encoded[torch.tensor([[unique[text] for text in row] for row in prompts])]
    return ClassText(tuple(names), tuple(tuple(row) for row in prompts), values, encoder.card(), domain)


def describe_store(store: FeatureStore, encoder: TextEncoder, domain: str) -> Path:
    """Write text about the classes of ``store`` into its folder, unless the same is there, and return the file.

    Raises:
        McilError: as :func:`describe_classes` and :func:`write_class_text` do.
    """
    names = sorted(set(store.labels))
    before = _whole_text(store.path)
    if before is not None and before.describes(names, encoder, domain):
        return store.path / TEXT
    return write_class_text(store.path, describe_classes(names, encoder, domain))


def write_class_text(store: Path, text: ClassText) -> Path:
    """Write ``text`` into the folder of a store and return the file. Other text is replaced, which is logged.

    Raises:
        McilError: the disk is full, or the place cannot be written to.
    """
    path = Path(store) / TEXT
    if path.exists():
        before = _whole_text(store)
        if before is not None and before.checksum == text.checksum:
            return path
        logger.info("%s: the text that was there is replaced", path)
    metadata = {"format": FORMAT, "version": VERSION, "checksum": text.checksum, **text.plan}
    write_tensors(path, {"values": text.values}, metadata)
    return path


def read_class_text(store: Path) -> ClassText | None:
    """Return the text about classes in the folder of a store; None where there is none.

    Raises:
        McilError: the file is damaged, or of another version.
    """
    path = Path(store) / TEXT
    if not path.exists():
        return None
    tensors, metadata = read_tensors(path, "text about classes")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise McilError(f"{path}: this is no text about classes; remove it, and make it again with `mcil text`")
    if metadata.get("version") != VERSION:
        raise McilError(
            f"{path}: this text about classes has format version {metadata.get('version')}, and this mcil reads "
            f"version {VERSION}; make it again with `mcil text`"
        )
    try:
        names, prompts = metadata["class_names"], metadata["prompts"]
        text = ClassText(
            tuple(names), tuple(map(tuple, prompts)), tensors["values"], metadata["card"], metadata["domain"]
        )
        whole = text.checksum == metadata["checksum"]
    except (KeyError, TypeError, McilError):
        whole = False
    if not whole:
        raise McilError(f"{path}: this text about classes is damaged; make it again with `mcil text`")
    return text


def _whole_text(store: Path) -> ClassText | None:
    """The text there; None where there is none that can be read."""
    try:
        return read_class_text(store)
    except McilError:
        return None
