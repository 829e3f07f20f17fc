"""The feature store: named arrays of fixed shape for every clip, in shards on disk that are memory-mapped.

A store is a folder with ``card.json`` (what is in it; written last, so a store with a card is complete),
``index.parquet`` (the manifest's columns, and where each clip's arrays are), ``shards/*.safetensors`` and
``failures.csv``. Only finished shards are ever seen there, and everything else is derived from them, so that
a store that was stopped at any moment and begun again ends with the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from mcil.data.records import as_split, content_hash, to_record
from mcil.data.shards import DTYPES, ArraySpec, DType, damaged, map_arrays
from mcil.data.writer import CARD, FORMAT, INDEX, SHARDS, VERSION, StoreWriter, shard_name
from mcil.errors import McilError, StoreError
from mcil.files import read_json, sha256
from mcil.media import Clip
from mcil.types import ClipRecord, Rows


class FeatureStore:
    """A complete feature store, read-only.

    Attributes:
        card: what ``card.json`` says: ``encoders`` ({"audio": card, "visual": card}), ``arrays``, ``shards`` ...
        index: one row a clip: the manifest's columns, ``shard``, ``offset``, ``has_audio``, ``has_visual``.
        checksum: identifies the content, wherever the folder stands.
        shapes: of one clip's arrays: ``{"audio": (D,) or (T,D), "visual": (L,S,D)}``, or one of the two.
        labels, splits, ids: by row.
    """

    def __init__(self, path: Path, verify: bool = True) -> None:
        """Open the store at ``path``. With ``verify`` each shard's SHA-256 is checked when it is first read.

        Raises:
            StoreError: it is missing, not finished, of another version, or damaged.
        """
        self.path = Path(path)
        self._verify = verify
        self.card = _read_card(self.path)
        try:
            self.shapes = {name: tuple(array["shape"]) for name, array in self.card["arrays"].items()}
            self._dtypes = {name: DTYPES[array["dtype"]] for name, array in self.card["arrays"].items()}
            self._shard_cards = [(int(s["bytes"]), str(s["sha256"])) for s in self.card["shards"]]
            index_hash, root = self.card["index"], self.card["root"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.path / CARD}: the card is damaged ({error!r}); make the store again") from error
        self._root = None if root is None else Path(root)
        self.checksum = content_hash({key: value for key, value in self.card.items() if key != "root"})
        self.index = self._read_index(index_hash)
        for number, (size, _) in enumerate(self._shard_cards):
            file = self._shard_path(number)
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                raise damaged(file, "no such file" if found is None else f"{found} bytes instead of {size}")
        self.labels: list[str] = self.index["label"].to_list()
        self.splits: list[str] = self.index["split"].to_list()
        self.ids: list[str] = self.index["id"].to_list()
        self._shard_of: Rows = self.index["shard"].to_numpy()
        self._offset_of: Rows = self.index["offset"].to_numpy()
        self._mapped: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, {len(self)} clips, {self.shapes})"

    def read(self, name: Literal["audio", "visual"], rows: Rows) -> Tensor:
        """Return array ``name`` of ``rows``, in their order, as stored: (len(rows), *shapes[name]).

        Only the rows that are asked for are read from the memory-mapped shards.

        Raises:
            StoreError: there is no such array, or a shard is damaged.
        """
        if name not in self.shapes:
            raise StoreError(f"{self.path}: no '{name}' in this store, only {', '.join(self.shapes)}")
        out = torch.empty((len(rows), *self.shapes[name]), dtype=self._dtypes[name])
        shards, offsets = self._shard_of[rows], self._offset_of[rows]
        # Shard after shard, in the order of the file; ``order`` says where each row goes.
        order = np.lexsort((offsets, shards))
        numbers, begins = np.unique(shards[order], return_index=True)
        ends = [*begins[1:].tolist(), len(rows)]
        for number, begin, end in zip(
            numbers.tolist(), begins.tolist(), ends, strict=False
        ):  # no rows: one end too many
            where = order[begin:end]
            stored = self._arrays(number)[name]
            picked = torch.from_numpy(offsets[where])
            first, last = int(where[0]), int(where[-1])
            if np.array_equal(where, np.arange(first, last + 1)):
                torch.index_select(stored, 0, picked, out=out[first : last + 1])
            else:
                # Row by row, as NumPy: scattering by index is several times slower for token maps.
                source, target = stored.view(torch.uint8).numpy(), out.view(torch.uint8).numpy()
                for place, offset in zip(where.tolist(), picked.tolist(), strict=True):
                    target[place] = source[offset]
        return out

    def record(self, row: int) -> ClipRecord:
        """Return the manifest's row of a clip."""
        return to_record(self.index.row(row, named=True))

    def media(self, row: int) -> Clip | None:
        """Return the clip's files for decoding, or None where it has none or they are gone."""
        record = self.record(row)
        names = [name for name in (record.video, record.audio, record.image) if name is not None]
        if self._root is None or not names or not all((self._root / name).is_file() for name in names):
            return None
        return Clip(record, self._root)

    @staticmethod
    def write(
        path: Path,
        *,
        labels: Sequence[str],
        splits: Sequence[str],
        audio: npt.NDArray[Any] | None = None,
        visual: npt.NDArray[Any] | None = None,
        ids: Sequence[str] | None = None,
        card: dict[str, Any] | None = None,
    ) -> FeatureStore:
        """Make a store of arrays that exist already, N clips each.

        Args:
            path: the folder to write; an existing store of the same content is left as it is.
            labels: class names, N of them.
            splits: "train", "val" or "test", N of them.
            audio: (N,D), or (N,T,D) of T steps of time. A step or picture token of zeros is one that a clip lacks.
            visual: (N,L,S,D), or (N,D) for one token a clip. float16 is kept, other types become float32.
            ids: unique names of the clips; numbers where None.
            card: anything to put into the card beside what the store writes there, such as ``encoders``.

        Raises:
            McilError: lengths or shapes do not fit, a value is not finite, or the place cannot be written to.
        """
        given = {"audio": audio, "visual": visual}
        arrays = {name: _checked(name, array) for name, array in given.items() if array is not None}
        names = [f"{row:06d}" for row in range(len(labels))] if ids is None else [str(name) for name in ids]
        if not arrays:
            raise McilError("a store needs arrays: give audio, visual or both")
        if len(set(names)) != len(names):
            raise McilError("two clips have the same id; ids must be unique")
        counts = {"labels": len(labels), "splits": len(splits), "ids": len(names)}
        counts |= {name: len(array) for name, array in arrays.items()}
        if len(set(counts.values())) != 1:
            said = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise McilError(f"the arrays have different numbers of clips: {said}")
        records = [
            ClipRecord(name, str(label), as_split(split))
            for name, label, split in zip(names, labels, splits, strict=True)
        ]
        content = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
        specs = {name: ArraySpec(array.shape[1:], _dtype_name(array)) for name, array in arrays.items()}
        with StoreWriter(path, specs, records, {**(card or {}), "content": content}) as writer:
            for number in writer.pending():
                rows = writer.rows(number)
                writer.write(
                    number,
                    list(rows),
                    {name: torch.from_numpy(array[rows.start : rows.stop]) for name, array in arrays.items()},
                    has_audio=["audio" in arrays] * len(rows),
                    has_visual=["visual" in arrays] * len(rows),
                )
            writer.finish()
        return FeatureStore(path)

    def _shard_path(self, number: int) -> Path:
        return self.path / SHARDS / shard_name(number)

    def _arrays(self, number: int) -> dict[str, Tensor]:
        if number not in self._mapped:
            path = self._shard_path(number)
            if self._verify and sha256(path) != self._shard_cards[number][1]:
                raise damaged(path, "its content changed since it was written")
            self._mapped[number] = map_arrays(path)
        return self._mapped[number]

    def _read_index(self, expected: str) -> pl.DataFrame:
        path = self.path / INDEX
        if not path.is_file() or sha256(path) != expected:
            raise StoreError(
                f"{path}: the index is missing or damaged; delete it and make the store again with the same "
                "command, which does only what is missing"
            )
        return pl.read_parquet(path)


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise StoreError(f"{path}: no feature store here; check the path")
    if not (path / CARD).is_file():
        if (path / SHARDS).is_dir():
            raise StoreError(f"{path}: this feature store is not finished; run the command that makes it again")
        raise StoreError(f"{path}: this folder is no feature store (it has no {CARD}); check the path")
    try:
        card: dict[str, Any] = read_json(path / CARD, "card of a feature store")
    except McilError as error:
        raise StoreError(str(error)) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise StoreError(f"{path}: {CARD} does not describe a feature store; check the path")
    if card.get("version") != VERSION:
        raise StoreError(
            f"{path}: this store has format version {card.get('version')}, and this mcil reads version {VERSION}; "
            "make the store again"
        )
    return card


def _checked(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if name == "visual" and array.ndim == 2:
        array = array[:, None, None, :]
    wanted, dimensions = ("(N,D) or (N,T,D)", (2, 3)) if name == "audio" else ("(N,L,S,D) or (N,D)", (4,))
    if array.ndim not in dimensions or 0 in array.shape[1:]:
        raise McilError(f"{name} features have shape {array.shape}; {wanted} is needed")
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise McilError(f"{name} features are of type {array.dtype}; numbers are needed")
    array = np.ascontiguousarray(array if array.dtype == np.float16 else array.astype(np.float32))
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise McilError(f"{name} features of row {row + 1} are not finite; mend or leave out that clip")
    return array


def _dtype_name(array: npt.NDArray[Any]) -> DType:
    return "float16" if array.dtype == np.float16 else "float32"
