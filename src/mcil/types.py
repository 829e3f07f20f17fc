"""The few shapes of data that the layers hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Modality = Literal["audio", "visual", "audio-visual"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipRecord:
    """One row of a manifest: a labelled clip and the files that hold its media.

    ``video``, ``audio`` and ``image`` are paths (relative ones from the manifest's folder on) or None;
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


@dataclass(frozen=True)
class Batch:
    """Labelled clips as tensors; a modality that is not there is None.

    ``audio`` (B,D_a) and ``visual`` (B,L,S,D_v), ``labels`` (B,) int64: class ids, that is positions in the
    order of arrival.
    """

    audio: Tensor | None
    visual: Tensor | None
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.shape[0]

    def select(self, indices: Tensor) -> Batch:
        """Return the clips at ``indices`` (n,), in that order."""
        return Batch(
            None if self.audio is None else self.audio.index_select(0, indices),
            None if self.visual is None else self.visual.index_select(0, indices),
            self.labels.index_select(0, indices),
        )

    def to(self, device: torch.device) -> Batch:
        """Return the clips on ``device``."""
        return Batch(
            None if self.audio is None else self.audio.to(device),
            None if self.visual is None else self.visual.to(device),
            self.labels.to(device),
        )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Join ``batches`` of the same modalities, one after the other; there is at least one."""
    audio = [batch.audio for batch in batches if batch.audio is not None]
    visual = [batch.visual for batch in batches if batch.visual is not None]
    return Batch(
        torch.cat(audio) if audio else None,
        torch.cat(visual) if visual else None,
        torch.cat([batch.labels for batch in batches]),
    )


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


class Teacher(NamedTuple):
    """What the frozen network of the previous task says of a batch.

    ``logits`` (B,C_old) for every clip; the attention maps, (M,L,S,D) and (M,L,D), for the M exemplars only.
    """

    logits: Tensor
    spatial_attention: Tensor | None = None
    temporal_attention: Tensor | None = None


class Step(NamedTuple):
    """All that a method's losses may look at in one training step.

    ``outputs`` of the network for B clips, of which the last ``exemplars`` come from the memory;
    ``labels`` (B,); ``teacher`` is None in the first task; ``task_sizes`` are the sizes of the tasks so far,
    the current one last.
    """

    outputs: Outputs
    labels: Tensor
    exemplars: int
    teacher: Teacher | None
    task_sizes: tuple[int, ...]

    @property
    def old_classes(self) -> int:
        """Number of classes learnt before this task."""
        return sum(self.task_sizes[:-1])
