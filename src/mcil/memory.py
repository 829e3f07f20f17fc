"""Exemplar memory: a bounded set of clips of old classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mcil.errors import McilError
from mcil.types import Batch, concatenate

Selector = Callable[[Batch, int, torch.Generator], Tensor]
"""Chooses exemplars of one class: (clips of the class, quota, random generator) -> indices, best first."""


def random_selection(clips: Batch, quota: int, generator: torch.Generator) -> Tensor:
    """Choose ``min(quota, count)`` clips at random, in random order (the choice of AV-CIL's published code)."""
    return torch.randperm(len(clips), generator=generator)[:quota]


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

    def update(self, new: Batch, seen_classes: int, select: Selector, generator: torch.Generator) -> None:
        """Shrink old classes to the new quota and add exemplars of the classes in ``new``.

        Args:
            new: training clips of the classes ``len(self.classes) .. seen_classes - 1``.
            seen_classes: number of classes, the new ones included.
            select: the rule of choice.
            generator: source of randomness for ``select``.

        Raises:
            McilError: the budget does not hold one clip a class.
        """
        quota = self.quota(seen_classes)
        self.classes = [clips.select(torch.arange(min(quota, len(clips)))) for clips in self.classes]
        for label in range(len(self.classes), seen_classes):
            clips = new.select(torch.nonzero(new.labels == label).flatten())
            self.classes.append(clips.select(select(clips, quota, generator)))
