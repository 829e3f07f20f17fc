"""The few shapes of data that the layers hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

Modality = Literal["audio", "visual", "audio-visual"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipRecord:
    """One row of a manifest: a labelled clip and the files that hold its media.

    ``video``, ``audio`` and ``image`` are paths (relative ones are relative to the manifest's folder) or None;
    at least one is given. A video whose own sound is to be used names the same file in ``audio``.
    ``start`` and ``end`` cut the clip out of its files, in seconds. Clips of one ``source`` (the same
    recording, say) must not be spread over several splits.
    """

    id: str
    label: str
    split: Split
    video: str | None = None
    audio: str | None = None
    image: str | None = None
    start: float | None = None
    end: float | None = None
    source: str | None = None


@dataclass(frozen=True)
class Task:
    """One step of a class-incremental scenario. Rows index the feature store.

    The task owns the contiguous class ids ``old_classes .. old_classes + len(class_names) - 1``.
    """

    index: int
    class_names: tuple[str, ...]
    old_classes: int
    train: Rows
    val: Rows
    test: Rows

    @property
    def seen_classes(self) -> int:
        """Number of classes known once this task is learnt."""
        return self.old_classes + len(self.class_names)


class Batch(NamedTuple):
    """Clips on the device: ``audio`` (B,D), ``visual`` (B,L,S,D) (None when the store has none), ``labels`` (B,)."""

    audio: Tensor | None
    visual: Tensor | None
    labels: Tensor


class Outputs(NamedTuple):
    """What an audio-visual network computes for a batch; what a modality lacks is None.

    ``logits`` (B,C); ``audio`` and ``visual`` (B,D) are L2-normalised features for the contrastive terms;
    ``fused`` (B,D) is what the classifier reads (the sum of both before normalisation);
    ``spatial_attention`` (B,L,S,D) sums to one over S, ``temporal_attention`` (B,L,D) over L.
    """

    logits: Tensor
    fused: Tensor
    audio: Tensor | None = None
    visual: Tensor | None = None
    spatial_attention: Tensor | None = None
    temporal_attention: Tensor | None = None
