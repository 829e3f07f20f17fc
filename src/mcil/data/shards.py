"""Shards of a feature store: safetensors files that hold the arrays of some clips and say which clips these are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mcil.errors import StoreError
from mcil.files import atomic_path

DType = Literal["float32", "float16", "bfloat16", "uint8", "int16"]
DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "uint8": torch.uint8,
    "int16": torch.int16,
}
_KEY = "mcil"


@dataclass(frozen=True)
class ArraySpec:
    """Shape (of one clip) and type of a named array."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def nbytes(self) -> int:
        """Bytes of one clip."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Failure:
    """A clip that could not be encoded: its place in the manifest (from 0) and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Shard:
    """What a shard says of itself.

    ``plan`` identifies what the store is made from. ``rows`` are the manifest rows whose arrays it holds, in
    order; ``has_audio`` and ``has_visual`` tell which of them are from a file and which are only zeros.
    """

    plan: dict[str, str | int]
    rows: list[int]
    has_audio: list[bool]
    has_visual: list[bool]
    failures: list[Failure]


def write_shard(path: Path, shard: Shard, arrays: Mapping[str, Tensor]) -> None:
    """Write ``arrays`` (one row for each of ``shard.rows``) atomically; equal input gives equal bytes.

    Raises:
        McilError: the disk is full, or the place cannot be written to.
    """
    # One metadata entry only: safetensors does not keep the order of several.
    content = save(dict(arrays), metadata={_KEY: json.dumps(asdict(shard), ensure_ascii=False)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_shard(path: Path) -> Shard:
    """Return what the shard at ``path`` says of itself; its structure and size are checked, its content is not.

    Raises:
        StoreError: it is missing, cut short, or no shard.
    """
    try:
        with safe_open(path, "pt") as file:
            fields = json.loads((file.metadata() or {})[_KEY])
        failures = [Failure(**failure) for failure in fields.pop("failures")]
        return Shard(**fields, failures=failures)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error


def map_arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a shard as tensors over the memory-mapped file: rows are read when they are used.

    Raises:
        StoreError: it is missing, cut short, or no shard.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> StoreError:
    """Return the error for a shard that cannot be used."""
    return StoreError(
        f"{path}: this shard is missing or damaged ({why}); delete it and make the store again with the same "
        "command, which does only what is missing"
    )
