"""The classes of ImageNet-ESC and of the classroom data set, their class orders and tasks, as published.

Sources: the classes of ImageNet-ESC are those of Lin et al., "Multimodality Helps Unimodality: Cross-Modal Few-Shot
Learning with Multimodal Models", CVPR 2023; names, orders and tasks those of the code of MCIL-AudioCLIP (Chen et al.,
2025). ``NOTICE`` has their licences.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from mcil.registry import checked_option


@dataclass(frozen=True)
class PairedClass:
    """A class of ImageNet and the category of ESC-50 that sounds like it.

    Attributes:
        wnid: the WordNet id, which is the name of ImageNet's folder.
        name: what MCIL-AudioCLIP calls the class.
        adaptation_name: what Lin et al. call it.
        imagenet_id: its number among ImageNet's 1000 classes.
        esc50: the category of ESC-50.
        esc50_id: the number of the category.
        of_19: whether it is also one of the 19 classes whose sound and picture fit closely.
    """

    wnid: str
    name: str
    adaptation_name: str
    imagenet_id: int
    esc50: str
    esc50_id: int
    of_19: bool


_PUBLISHED = json.loads((files("mcil.data") / "trimodal.json").read_text(encoding="utf-8"))

IMAGENET_ESC = tuple(PairedClass(**row) for row in _PUBLISHED["imagenet_esc"])  # 27, by their WordNet ids
CLASSROOM: tuple[str, ...] = tuple(_PUBLISHED["classroom"])  # 33, sorted


def imagenet_esc_classes(count: Literal[19, 27]) -> tuple[PairedClass, ...]:
    """Return the classes of ImageNet-ESC-19 or -27, by their WordNet ids.

    Raises:
        McilError: ``count`` is another number.
    """
    checked_option("classes", count, Literal[19, 27])
    return tuple(paired for paired in IMAGENET_ESC if count == 27 or paired.of_19)


def published_splits() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return by its name each published split: the class names in their order of arrival, and the size of each task.

    The published orders are numbers of class folders, which are sorted by name (for ImageNet-ESC, by WordNet id).
    """
    by_folder = {
        "imagenet19": [paired.name for paired in imagenet_esc_classes(19)],
        "imagenet27": [paired.name for paired in imagenet_esc_classes(27)],
        "classroom33": CLASSROOM,
    }
    orders = {
        data: tuple(by_folder[data][number] for number in numbers) for data, numbers in _PUBLISHED["orders"].items()
    }
    return {name: (orders[name.partition("_")[0]], tuple(sizes)) for name, sizes in _PUBLISHED["task_sizes"].items()}
