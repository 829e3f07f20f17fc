"""A table of clips, with the columns of a manifest or some of them, becomes a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import finish, path_from, with_own_sound, with_splits
from mcil.data.manifest import check_columns, check_record, clean_rows, read_table
from mcil.data.records import to_record
from mcil.types import ClipRecord


@IMPORTERS.register("table")
def import_table(
    file: Path, out: Path = Path("manifest.csv"), seed: int = 0, fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> Path:
    """Write a manifest of the clips in a ``.csv`` or ``.parquet`` table.

    The columns are those of a manifest. ``label`` and at least one of ``video``, ``audio`` and ``image`` are needed;
    without ``id`` the rows are numbered; without ``split`` they are divided, clips of one ``source`` together; without
    ``audio`` the sound of the videos is used.

    Args:
        file: the table; relative paths in it are relative to its folder.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        seed: decides which clips go to which split.
        fractions: of train, val and test.

    Returns:
        ``out``.

    Raises:
        McilError: the table cannot be read, or a row is wrong; row and column are named.
    """
    file, out = Path(file), Path(out)
    frame = read_table(file)
    check_columns(file, frame.columns, required=("label",))
    records = []
    for row, fields in enumerate(clean_rows(file, frame), start=1):
        if "id" not in frame.columns:
            fields["id"] = f"{row:06d}"
        if "split" not in frame.columns:
            fields["split"] = "train"
        record = to_record(fields)
        check_record(file, row, record)
        records.append(_moved(record, file.parent, out.parent))
    if "audio" not in frame.columns:
        records = with_own_sound(records, out.parent)
    return finish(out, records if "split" in frame.columns else with_splits(records, fractions, seed))


def _moved(record: ClipRecord, origin: Path, folder: Path) -> ClipRecord:
    def moved(name: str | None) -> str | None:
        return None if name is None else path_from(folder, origin / name)

    return replace(record, video=moved(record.video), audio=moved(record.audio), image=moved(record.image))
