"""Manifests: a CSV or Parquet table with one row a clip; the columns are the fields of ``ClipRecord``.

Rows are counted from 1 in messages; row 1 of a CSV file is the line below the header.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mcil.data.records import MEDIA, SCHEMA, as_split, to_frame, to_record
from mcil.errors import McilError, did_you_mean, reason
from mcil.files import atomic_path
from mcil.types import SPLITS, ClipRecord

_ALWAYS = ("id", "label", "split")


def read_manifest(path: Path) -> list[ClipRecord]:
    """Read a manifest (``.csv`` or ``.parquet``). Empty cells and missing columns are None.

    Raises:
        McilError: it cannot be read, a column is unknown or missing, or a row is wrong; row and column are named.
    """
    path = Path(path)
    frame = read_table(path)
    check_columns(path, frame.columns, required=_ALWAYS)
    records = [to_record(row) for row in clean_rows(path, frame)]
    seen: dict[str, int] = {}
    for row, record in enumerate(records, start=1):
        check_record(path, row, record)
        if record.id in seen:
            raise McilError(f"{path}: rows {seen[record.id]} and {row} both have the id '{record.id}'; make it unique")
        seen[record.id] = row
    return records


def write_manifest(path: Path, records: Sequence[ClipRecord]) -> None:
    """Write a manifest atomically, as CSV or Parquet by the suffix of ``path``; columns without values are left out.

    Raises:
        McilError: the suffix is another, or the place cannot be written to.
    """
    path = Path(path)
    frame = to_frame(records)
    unused = [name for name in SCHEMA if name not in _ALWAYS and frame[name].is_null().all()]
    frame = frame.drop(unused)
    content = io.BytesIO()
    match path.suffix.lower():
        case ".csv":
            frame.write_csv(content)
        case ".parquet":
            frame.write_parquet(content)
        case _:
            raise McilError(f"{path}: a manifest is a .csv or .parquet file; choose another name")
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_table(path: Path) -> pl.DataFrame:
    """Read a CSV file (every column as text) or a Parquet file.

    Raises:
        McilError: it is missing, of another kind, empty, or cannot be read.
    """
    if not path.is_file():
        raise McilError(f"{path}: no such file; check the path")
    try:
        match path.suffix.lower():
            case ".csv":
                frame = pl.read_csv(path, infer_schema=False)
            case ".parquet":
                frame = pl.read_parquet(path)
            case _:
                raise McilError(f"{path}: a table of clips is a .csv or .parquet file")
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        raise McilError(f"{path}: cannot be read as a table ({reason(error)}); mend or replace it") from error
    if frame.is_empty():
        raise McilError(f"{path}: this table has no rows")
    return frame


def check_columns(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    """Raise :class:`McilError` for a column that a manifest does not have, or one that is missing."""
    for name in columns:
        if name not in SCHEMA:
            raise McilError(
                f"{path}: unknown column '{name}'.{did_you_mean(name, SCHEMA)} The columns are {', '.join(SCHEMA)}"
            )
    for name in required:
        if name not in columns:
            raise McilError(f"{path}: column '{name}' is missing; the columns are {', '.join(SCHEMA)}")
    if not set(MEDIA) & set(columns):
        raise McilError(f"{path}: there is no column with files; give at least one of {', '.join(MEDIA)}")


def clean_rows(path: Path, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows with every column of a manifest: text without outer spaces, numbers, None where empty.

    Raises:
        McilError: a time is no number.
    """
    columns = {}
    for name, kind in SCHEMA.items():
        if name not in frame.columns:
            columns[name] = pl.Series(name, [None] * len(frame), dtype=kind)
            continue
        text = frame[name].cast(pl.String).str.strip_chars()
        text = text.set(text == "", None)
        values = text.cast(kind, strict=False)
        if (lost := (values.is_null() & text.is_not_null()).arg_true()).len():
            row = lost[0]
            raise McilError(f"{path}: row {row + 1}, column '{name}': '{text[row]}' is no number of seconds")
        columns[name] = values
    return pl.DataFrame(columns).to_dicts()


def check_record(path: Path, row: int, record: ClipRecord) -> None:
    """Raise :class:`McilError` naming row and column where a record cannot be right whatever its files hold."""
    for name in _ALWAYS:
        if not getattr(record, name):
            raise McilError(f"{path}: row {row}, column '{name}' is empty; every clip needs one")
    try:
        as_split(record.split)
    except McilError as error:
        raise McilError(f"{path}: row {row}, column 'split': {error}") from None
    if not any(getattr(record, name) for name in MEDIA):
        raise McilError(f"{path}: row {row} names no file; fill in at least one of {', '.join(MEDIA)}")
    start, end = record.start or 0.0, record.end
    if not start >= 0 or (end is not None and not end > start):
        raise McilError(f"{path}: row {row}, columns 'start' and 'end': no time lies between {start} and {end} seconds")


def describe(records: Sequence[ClipRecord]) -> str:
    """Return one line that sums up a manifest: clips by split, classes, and how many clips have which medium."""
    splits = ", ".join(f"{sum(r.split == split for r in records)} {split}" for split in SPLITS)
    media = {
        "video": sum(r.video is not None for r in records),
        "images": sum(r.image is not None for r in records),
        "sound": sum(r.audio is not None for r in records),
    }
    with_media = ", ".join(f"{count} with {name}" for name, count in media.items() if count)
    classes = len({record.label for record in records})
    return f"{len(records)} clips ({splits}) of {classes} classes; {with_media}"
