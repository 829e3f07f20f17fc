"""Towers: networks from a prepared input to an embedding, with places between their layers where adapters attach."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

Adapt = Callable[[int, Tensor, Tensor], Tensor]
"""What an adapter adds: (place, tokens (B,T,D), summary (B,D)) -> (B,T,D)."""


class Tower(nn.Module):
    """A network whose layers (transformer blocks, residual stages) each have a place for an adapter.

    In transformer block i, with h the tokens after attention, ``adapt(i, h, summary)`` is added to the block's output
    h + MLP(LN(h)). After residual stage i its output z, as H*W tokens of width C, becomes z + adapt(i, z, summary).
    The summary stands for the whole input at that place: the class token, the end-of-text token, or the mean token.

    Attributes:
        widths: of the tokens at each place.
        width: E, of the embedding.
    """

    widths: tuple[int, ...]
    width: int

    @abstractmethod
    def below(self, inputs: Tensor, place: int) -> Tensor:
        """Return what enters the layer of ``place``; nothing of it depends on the adapters from there on."""

    @abstractmethod
    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """Return the embedding (B,E), not normalised, of what :meth:`below` returned for the same ``place``.

        Places are counted from the bottom of the tower: ``adapt`` is called with ``place``, ``place + 1``, ...
        """

    def forward(self, inputs: Tensor, adapt: Adapt | None = None) -> Tensor:
        """Return the embedding (B,E), not normalised."""
        return self.above(self.below(inputs, 0), 0, adapt)


def adapt_stage(z: Tensor, place: int, adapt: Adapt | None) -> Tensor:
    """Add to a residual stage's output (B,C,H,W) what ``adapt`` says of its H*W tokens and their mean."""
    if adapt is None:
        return z
    # In one piece: torch multiplies a transposed view in another order where weights are trained than where not.
    tokens = z.flatten(2).transpose(1, 2).contiguous()
    return z + adapt(place, tokens, tokens.mean(dim=1)).transpose(1, 2).reshape(z.shape)
