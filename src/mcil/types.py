"""The few shapes of data that the layers hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

    ``audio`` (B,D_a), or (B,T,D_a) of T steps, and ``visual`` (B,L,S,D_v), ``labels`` (B,) int64: class ids, that is
    positions in the order of arrival. Tokens that a clip does not have are zeros. ``logits`` (B,C), where a memory
    keeps them, are what a network said of the clips when they were stored; NaN for classes that it did not know then.
    """

    audio: Tensor | None
    visual: Tensor | None
    labels: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def select(self, indices: Tensor) -> Batch:
        """Return the clips at ``indices`` (n,), in that order."""
        return self._map(lambda tensor: tensor.index_select(0, indices))

    def to(self, device: torch.device) -> Batch:
        """Return the clips on ``device``."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            None if self.audio is None else change(self.audio),
            None if self.visual is None else change(self.visual),
            change(self.labels),
            None if self.logits is None else change(self.logits),
        )


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Join ``batches`` of the same modalities, one after the other; there is at least one.

    Logits are widened to those of most classes with NaN; clips that have none get NaN throughout.
    """
    audio = [batch.audio for batch in batches if batch.audio is not None]
    visual = [batch.visual for batch in batches if batch.visual is not None]
    classes = max((batch.logits.shape[1] for batch in batches if batch.logits is not None), default=0)
    return Batch(
        torch.cat(audio) if audio else None,
        torch.cat(visual) if visual else None,
        torch.cat([batch.labels for batch in batches]),
        torch.cat([_widened_logits(batch, classes) for batch in batches]) if classes else None,
    )


def _widened_logits(batch: Batch, classes: int) -> Tensor:
    """Return the logits (B,``classes``) of a batch, NaN where it has none."""
    logits = torch.full((len(batch), classes), torch.nan, device=batch.labels.device)
    if batch.logits is not None:
        logits[:, : batch.logits.shape[1]] = batch.logits
    return logits


class Outputs(NamedTuple):
    """What an audio-visual network computes for a batch; what a modality lacks is None.

    ``logits`` (B,C); ``audio`` and ``visual`` (B,D) are L2-normalised features for the contrastive terms;
    ``fused`` (B,D) is what the classifier reads (the sum of both before normalisation); ``pooled`` (B,D_v) is
    what attention made of the tokens; ``scale`` () is what a cosine classifier multiplied its similarities by;
    ``spatial_attention`` (B,L,S,D) sums to one over S, ``temporal_attention`` (B,L,D) over L;
    ``prototypes`` (C_t,D) are what text says of the current task's classes.
    """

    logits: Tensor
    fused: Tensor
    audio: Tensor | None = None
    visual: Tensor | None = None
    pooled: Tensor | None = None
    scale: Tensor | None = None
    spatial_attention: Tensor | None = None
    temporal_attention: Tensor | None = None
    prototypes: Tensor | None = None


class Teacher(NamedTuple):
    """What the frozen teacher, the network as the previous task left it, says of a batch.

    ``logits`` (B,C_old) for every clip. What else a method asks for (``GradientMethod.teach``): ``features``, by
    name, (B,D) each, L2-normalised; ``importance``, a weight (B,) for each feature; and the attention maps,
    (M,L,S,D) and (M,L,D), of the M exemplars only.
    """

    logits: Tensor
    features: Mapping[str, Tensor] | None = None
    importance: Mapping[str, Tensor] | None = None
    spatial_attention: Tensor | None = None
    temporal_attention: Tensor | None = None


class Step(NamedTuple):
    """All that a method's losses may look at in one training step.

    ``outputs`` of the network for B clips, of which the last ``exemplars`` come from the memory;
    ``labels`` (B,); ``teacher`` is None in the first task; ``task_sizes`` are the sizes of the tasks so far,
    the current one last;
    ``stored_logits`` (B,C), where the memory keeps them, are NaN for new clips and classes unknown then.
    """

    outputs: Outputs
    labels: Tensor
    exemplars: int
    teacher: Teacher | None
    task_sizes: tuple[int, ...]
    stored_logits: Tensor | None = None

    @property
    def old_classes(self) -> int:
        """Number of classes learnt before this task."""
        return sum(self.task_sizes[:-1])
