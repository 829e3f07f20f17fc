"""Exemplar memory: a bounded set of clips of old classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mcil.errors import McilError
from mcil.types import Batch, concatenate

Selector = Callable[[Tensor, int, torch.Generator], Tensor]
"""Chooses exemplars of one class: (fused features (n,D), quota, random generator) -> indices, best first."""

Selection = Literal["random", "herding"]


def random_selection(features: Tensor, quota: int, generator: torch.Generator) -> Tensor:
    """Choose ``min(quota, n)`` clips at random, in random order (the choice of AV-CIL's published code)."""
    return torch.randperm(len(features), generator=generator)[:quota]


def herding(features: Tensor, quota: int, generator: torch.Generator | None = None, repeats: bool = False) -> Tensor:
    """Choose clips one after the other such that the mean of those chosen stays next to the class's mean.

    ``features`` (n,D) are L2-normalised first. Nothing is random: ``generator`` is not used. The indices are on the
    CPU. Source: Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4. As that is written, and in the published code of
    Pian et al., a clip may be chosen again (``repeats``), which spends places of a memory on nothing new.
    """
    # On the CPU and in float64, so that the device does not decide near ties.
    features = F.normalize(features.detach().cpu().double(), dim=-1)
    to_mean, to_chosen = features @ features.mean(dim=0), torch.zeros(len(features), dtype=torch.float64)
    half_square = (features**2).sum(dim=1) / 2
    chosen: list[int] = []
    for count in range(1, min(quota, len(features)) + 1):
        # |mean - (total + f) / count| is least where f . (count * mean - total) - |f|^2 / 2 is greatest.
        gain = count * to_mean - to_chosen - half_square
        if chosen and not repeats:
            gain[chosen] = -torch.inf
        best = int(gain.argmax())
        chosen.append(best)
        to_chosen += features @ features[best]
    return torch.tensor(chosen, dtype=torch.int64)


SELECTORS: dict[Selection, Selector] = {"random": random_selection, "herding": herding}


class Memory:
    """At most ``budget`` clips, shared equally by the classes seen so far.

    Each of C seen classes owns ``floor(budget / C)`` places; a class with fewer clips keeps them all and its
    free places stay empty. When classes are added, an old class keeps the first of its list, so a selector
    returns the clips that matter most first.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.classes: list[Batch] = []

    def __len__(self) -> int:
        return sum(len(clips) for clips in self.classes)

    @property
    def clips(self) -> Batch:
        """All exemplars, class after class. There must be at least one class."""
        return concatenate(self.classes)

    def quota(self, classes: int) -> int:
        """Return the number of places that each of ``classes`` classes owns.

        Raises:
            McilError: the budget does not hold one clip a class.
        """
        if self.budget < classes:
            raise McilError(
                f"a memory of {self.budget} clips cannot hold one clip of each of {classes} classes; "
                f"set memory to {classes} or more"
            )
        return self.budget // classes

    def choose(
        self, labels: Tensor, features: Tensor, seen_classes: int, select: Selector, generator: torch.Generator
    ) -> Tensor:
        """Say which clips the memory would hold if the task that is being learnt ended now.

        Args:
            labels: (N,) of the task's training clips, of the classes ``len(self.classes) .. seen_classes - 1``.
            features: (N,D) fused features of the same clips.
            seen_classes: number of classes, the new ones included.
            select: the rule of choice.
            generator: source of randomness for ``select``.

        Returns:
            Indices, class after class, into the training clips followed by :attr:`clips`.

        Raises:
            McilError: the budget does not hold one clip a class.
        """
        quota = self.quota(seen_classes)
        labels = labels.cpu()
        kept, start = [], len(labels)
        for clips in self.classes:
            kept.append(torch.arange(start, start + min(quota, len(clips))))
            start += len(clips)
        for label in range(len(self.classes), seen_classes):
            own = torch.nonzero(labels == label).flatten()
            kept.append(own[select(features[own.to(features.device)], quota, generator)])
        return torch.cat(kept)

    def update(
        self, new: Batch, features: Tensor, seen_classes: int, select: Selector, generator: torch.Generator
    ) -> None:
        """Shrink old classes to the new quota and add exemplars of the classes in ``new``; see :meth:`choose`."""
        kept = self.choose(new.labels, features, seen_classes, select, generator)
        clips = concatenate([new, *self.classes]).select(kept)
        self.classes = split_by_class(clips, seen_classes)


def split_by_class(clips: Batch, classes: int) -> list[Batch]:
    """Return the clips of each of ``classes`` classes, in their order."""
    return [clips.select(torch.nonzero(clips.labels == label).flatten()) for label in range(classes)]
