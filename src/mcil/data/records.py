"""Clip records as a table, and their content as one number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import polars as pl

from mcil.errors import McilError, did_you_mean
from mcil.types import SPLITS, ClipRecord, Split

MEDIA = ("video", "audio", "image")
SCHEMA: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "label": pl.String,
    "split": pl.String,
    "video": pl.String,
    "audio": pl.String,
    "image": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
    "source": pl.String,
}


def as_split(name: str) -> Split:
    """Return ``name`` as a split; McilError with the nearest one otherwise."""
    for split in SPLITS:
        if name == split:
            return split
    raise McilError(f"unknown split '{name}'.{did_you_mean(str(name), SPLITS)} Use {', '.join(SPLITS)}")


def to_frame(records: Sequence[ClipRecord]) -> pl.DataFrame:
    """Return the records as a table with the columns of :data:`SCHEMA`, one row a record."""
    return pl.DataFrame([astuple(record) for record in records], schema=SCHEMA, orient="row")


def to_record(row: dict[str, Any]) -> ClipRecord:
    """Return one row of such a table (more columns may follow) as a record."""
    return ClipRecord(**{name: row[name] for name in SCHEMA})


def content_hash(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of the keys of objects does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def records_hash(records: Sequence[ClipRecord]) -> str:
    """Return the SHA-256 of what the records say, whatever file they were read from."""
    return content_hash([astuple(record) for record in records])
