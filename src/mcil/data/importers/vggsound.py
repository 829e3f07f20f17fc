"""VGGSound (Chen et al., "VGGSound: A Large-Scale Audio-Visual Dataset", ICASSP 2020)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from mcil.data.benchmarks import BENCHMARKS
from mcil.data.importers import IMPORTERS
from mcil.data.importers.videos import ListedClip, in_classes, read_rows, seconds, write_found
from mcil.errors import McilError

_SECONDS = 10  # of every clip


@IMPORTERS.register("vggsound")
def import_vggsound(
    videos: Path,
    annotations: Path,
    out: Path = Path("manifest.csv"),
    classes: Literal["VS100-CI", "all"] = "VS100-CI",
    val: int = 50,
    seed: int = 0,
) -> Path:
    """Write a manifest of VGGSound or of its 100 classes in VS100-CI.

    VGGSound is divided into train and test; clips to validate on are drawn from train, whether their videos are there
    or not, so that the split is the same on every machine. Videos are called ``<id>_<start>.mp4`` (six digits, or
    without zeros in front), ``<id>_<start>_<end>.mp4`` or ``<id>.mp4``, at any depth below ``videos``. Those that are
    not there are left out and listed beside the manifest.

    Args:
        videos: the folder of the videos.
        annotations: ``vggsound.csv``: id, start in seconds, class and split, without a header.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        classes: the 100 classes of VS100-CI, or all.
        val: clips of each class to validate on; at most half of its training clips.
        seed: decides which these are.

    Returns:
        ``out``.

    Raises:
        McilError: the list is missing or damaged, or none of the videos is there.
    """
    if val < 0:
        raise McilError(f"val must be 0 or more, but it is {val}")
    listed = _read(Path(annotations))
    if classes != "all":
        listed = in_classes(listed, BENCHMARKS[classes].class_order)
    return write_found(Path(out), _with_validation(listed, val, seed), Path(videos))


def _read(file: Path) -> list[ListedClip]:
    clips: dict[str, ListedClip] = {}
    for number, (video, begin, label, split, *_) in enumerate(read_rows(file, columns=4), start=1):
        if split not in ("train", "test"):
            raise McilError(f"{file}: row {number}: unknown split '{split}'; it should be train or test")
        first = seconds(file, number, begin)
        name = f"{video}_{first:06d}"
        files = (
            name,
            f"{video}_{first}",
            f"{name}_{first + _SECONDS:06d}",
            f"{video}_{first}_{first + _SECONDS}",
            video,
        )
        clips.setdefault(name, ListedClip(name, label, "train" if split == "train" else "test", video, files))
    return list(clips.values())


def _with_validation(listed: Sequence[ListedClip], count: int, seed: int) -> list[ListedClip]:
    """Move ``count`` training clips of each class, but at most half of them, to the validation split."""
    by_class = defaultdict(list)
    for clip in listed:
        if clip.split == "train":
            by_class[clip.label].append(clip.id)
    generator = np.random.default_rng(seed)
    chosen: set[str] = set()
    for _, clips in sorted(by_class.items()):
        order = generator.permutation(sorted(clips))
        chosen.update(order[: min(count, len(clips) // 2)].tolist())
    return [replace(clip, split="val") if clip.id in chosen else clip for clip in listed]
