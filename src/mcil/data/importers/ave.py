"""The AVE data set (Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018)."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

from mcil.data.benchmarks import BENCHMARKS
from mcil.data.importers import IMPORTERS
from mcil.data.importers.videos import ListedClip, in_classes, read_rows, write_found
from mcil.types import Split

logger = logging.getLogger(__name__)

_LISTS: dict[str, Split] = {"trainSet.txt": "train", "valSet.txt": "val", "testSet.txt": "test"}
_ANNOTATIONS = "Annotations.txt"
_FIELDS = 5  # Category&VideoID&Quality&StartTime&EndTime


@IMPORTERS.register("ave")
def import_ave(root: Path, out: Path = Path("manifest.csv"), videos: Path | None = None) -> Path:
    """Write a manifest of AVE, with its own splits; a clip is a whole video of 10 s.

    ``root`` holds ``trainSet.txt``, ``valSet.txt`` and ``testSet.txt``, and may hold ``Annotations.txt``. A video that
    is listed with two categories is a clip of each. Videos that are not there are left out and listed beside the
    manifest.

    Args:
        root: the folder of the data set.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        videos: the folder of the videos, ``<id>.mp4``, at any depth; by default they are looked for in ``root``.

    Returns:
        ``out``.

    Raises:
        McilError: a list is missing or damaged, or none of the videos is there.
    """
    root, out = Path(root), Path(out)
    splits: dict[tuple[str, str], Split] = {}
    repeated = []
    for name, split in _LISTS.items():
        for category, video in _pairs(root / name):
            if splits.setdefault((video, category), split) != split:
                repeated.append(video)
    if repeated:
        logger.warning("%d clips are in two splits and stay in the first (such as %s)", len(repeated), repeated[0])
    if (root / _ANNOTATIONS).is_file():
        unused = [video for category, video in _pairs(root / _ANNOTATIONS) if (video, category) not in splits]
        if unused:
            logger.warning("%d clips of %s are in no split (first: %s)", len(unused), _ANNOTATIONS, unused[0])
    categories = defaultdict(list)
    for video, category in splits:
        categories[video].append(category)
    listed = [
        ListedClip(video if len(categories[video]) == 1 else f"{video} ({category})", category, split, video, (video,))
        for (video, category), split in splits.items()
    ]
    return write_found(out, in_classes(listed, BENCHMARKS["AVE-CI"].class_order), Path(videos or root))


def _pairs(file: Path) -> list[tuple[str, str]]:
    """Return category and video of every line; a header is passed over."""
    rows = read_rows(file, _FIELDS, delimiter="&")
    return [(category, video) for category, video, *_ in rows if (category, video) != ("Category", "VideoID")]
