"""What a closed-form method fits: sums over clips, and the weights that follow from them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mcil.types import Modality, Outputs


class ClosedFormNet(nn.Module, ABC):
    """A classifier that is fitted in one pass: it observes each clip once, and keeps none.

    All that it knows is in buffers. ``width`` is the number of its features.
    """

    width: int
    modality: Modality

    @abstractmethod
    def grow(self, classes: int) -> None:
        """Make room for ``classes`` classes."""

    @abstractmethod
    def observe(self, audio: Tensor | None, visual: Tensor | None, labels: Tensor) -> None:
        """Add clips to the sums: ``audio`` (B,D_a), ``visual`` (B,L,S,D_v) as stored, ``labels`` (B,) class ids."""

    @abstractmethod
    def solve(self) -> None:
        """Compute the weights from the sums."""

    @abstractmethod
    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = False
    ) -> Outputs:
        """Score clips; a class that was never observed gets the lowest score."""
