"""Kinetics-Sounds: the classes of Kinetics that can be both seen and heard (Arandjelovic and Zisserman, ICCV 2017)."""

from __future__ import annotations

from pathlib import Path

from mcil.data.benchmarks import BENCHMARKS
from mcil.data.importers import IMPORTERS
from mcil.data.importers.videos import ListedClip, in_classes, plain, read_lines, read_rows, seconds, write_found
from mcil.errors import McilError, did_you_mean
from mcil.types import Split

_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


@IMPORTERS.register("kinetics-sounds")
def import_kinetics_sounds(
    videos: Path, annotations: Path, out: Path = Path("manifest.csv"), classes: Path | None = None
) -> Path:
    """Write a manifest of the classes of Kinetics-Sounds, with the splits of Kinetics.

    Videos are called ``<id>_<start>_<end>.mp4`` (six digits each) or ``<id>.mp4``, at any depth below ``videos``. Those
    that are not there are left out and listed beside the manifest.

    Args:
        videos: the folder of the videos.
        annotations: a CSV file of Kinetics with the columns label, youtube_id, time_start, time_end and split, or a
            folder of such files.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        classes: a text file with a class name a line; the 30 classes of K-S-CI by default.

    Returns:
        ``out``.

    Raises:
        McilError: a list is missing or damaged, or none of the videos is there.
    """
    wanted = (
        BENCHMARKS["K-S-CI"].class_order if classes is None else [line.strip() for line in read_lines(Path(classes))]
    )
    names = {plain(name): name for name in wanted}
    listed: dict[str, ListedClip] = {}
    annotations = Path(annotations)
    files = sorted(annotations.glob("*.csv")) if annotations.is_dir() else [annotations]
    if not files:
        raise McilError(f"{annotations}: no .csv files in this folder; check the path")
    for file in files:
        for clip in _read(file, names):
            listed.setdefault(clip.id, clip)
    return write_found(Path(out), in_classes(list(listed.values()), wanted), Path(videos))


def _read(file: Path, names: dict[str, str]) -> list[ListedClip]:
    header, *rows = read_rows(file, columns=1) or [[]]
    for column in _COLUMNS:
        if column not in header:
            raise McilError(f"{file}: column '{column}' is missing.{did_you_mean(column, header)} Check the file")
    clips = []
    for number, row in enumerate(rows, start=1):
        if len(row) < len(header):
            raise McilError(f"{file}: row {number} has {len(row)} cells, but {len(header)} are needed; check the file")
        label, video, begin, end, split = (row[header.index(column)] for column in _COLUMNS)
        if split not in _SPLITS:
            raise McilError(f"{file}: row {number}: unknown split '{split}'; it should be train, val or test")
        first, last = seconds(file, number, begin), seconds(file, number, end)
        name = f"{video}_{first:06d}_{last:06d}"
        clips.append(ListedClip(name, names.get(plain(label), label), _SPLITS[split], video, (name, video)))
    return clips
