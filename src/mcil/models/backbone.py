"""A frozen tower inside a network that is trained, copied and saved: none of these touches its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mcil.encoders.clip import normalise
from mcil.encoders.tower import Adapt, Tower
from mcil.errors import McilError

Prepare = Callable[[Tensor], Tensor]
"""From clips as they are stored to what a tower reads."""


class Backbone(Tower):
    """A tower with the weights of a file, which stays as it is in whatever network holds it.

    It moves to a device with the network, and gradients flow through it; but it has no parameters and no modules of its
    own, stays in eval mode, and copies of the network share it. Of its weights a state holds only the checksum.

    Args:
        tower: its parameters are frozen.
        sha256: of the file of weights, hexadecimal.
        prepare: is applied to inputs first, such as :func:`pixels` or :func:`samples`.
    """

    def __init__(self, tower: Tower, sha256: str, prepare: Prepare | None = None) -> None:
        super().__init__()
        self.widths, self.width, self.sha256 = tower.widths, tower.width, sha256
        # In a tuple torch does not see it, and so neither counts, trains nor saves it.
        self._held = (tower.eval().requires_grad_(False),)
        self._prepare = prepare

    @property
    def tower(self) -> Tower:
        """The tower itself."""
        return self._held[0]

    def below(self, inputs: Tensor, place: int) -> Tensor:
        """See :meth:`Tower.below`; ``inputs`` are prepared first."""
        return self.tower.below(inputs if self._prepare is None else self._prepare(inputs), place)

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """See :meth:`Tower.above`."""
        return self.tower.above(hidden, place, adapt)

    def get_extra_state(self) -> Tensor:
        """Return the checksum of the weights, uint8 (32,)."""
        return torch.tensor(list(bytes.fromhex(self.sha256)), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare the checksum that was saved with that of the weights here.

        Raises:
            McilError: they are others.
        """
        saved = bytes(state.tolist()).hex()
        if saved != self.sha256:
            raise McilError(
                f"this learner was trained with weights of sha256 {saved[:16]}..., and those found here have "
                f"{self.sha256[:16]}...; put the file it was trained with in their place"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Backbone:
        """Move with the network to another device or type."""
        self.tower._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        return self


def as_pictures(pixels: Tensor) -> Tensor:
    """Return pictures (B,3,H,H) of pixels as a store holds them, (B,1,H*H,3).

    Raises:
        McilError: they are no such pixels.
    """
    side = math.isqrt(pixels.shape[2]) if pixels.ndim == 4 else 0
    if pixels.ndim != 4 or pixels.shape[1] != 1 or pixels.shape[2] != side**2 or pixels.shape[3] != 3:
        raise McilError(
            f"pictures must be the pixels of one square each, (N, 1, side * side, 3), not {tuple(pixels.shape)}; "
            "extract them with the encoder 'raw'"
        )
    return pixels.reshape(len(pixels), side, side, 3).permute(0, 3, 1, 2)


def pixels(size: int) -> Prepare:
    """Return what makes pixels uint8 (B,1,H*H,3), as the encoder ``raw`` stores them, what CLIP's image towers read.

    Args:
        size: H that the tower reads; other pictures are a McilError.
    """

    def prepare(stored: Tensor) -> Tensor:
        pictures = as_pictures(stored)
        if pictures.shape[-1] != size:
            raise McilError(
                f"the store's pictures have {pictures.shape[-1]} pixels a side, and these weights read {size}; extract "
                f"them with the option size={size} of the encoder 'raw'"
            )
        return normalise(pictures)

    return prepare


def samples(stored: Tensor) -> Tensor:
    """Turn samples int16 (B,N), as the encoder ``raw`` stores them, into floats of the same scale.

    Raises:
        McilError: they are features.
    """
    if stored.is_floating_point():
        raise McilError(
            f"the sound must be samples in whole numbers, not {str(stored.dtype).removeprefix('torch.')}; extract it "
            "with the encoder 'raw'"
        )
    return stored.float()


def token_ids(vocabulary: int) -> Prepare:
    """Return what makes whole numbers of token ids (B,77) of whatever type, up to the end of the longest text.

    The end-of-text token is the greatest; nothing behind it counts.

    Args:
        vocabulary: how many ids there are; any other number, as in an embedding, is a McilError.
    """

    def prepare(stored: Tensor) -> Tensor:
        ids = stored.long()
        if not ((ids == stored) & (ids >= 0) & (ids < vocabulary)).all():
            raise McilError(
                f"the text must be token ids, whole numbers from 0 to {vocabulary - 1}; add it to the store with the "
                "encoder 'clip-tokens' and the vocabulary beside these weights"
            )
        return ids[:, : int(ids.argmax(dim=1).max()) + 1] if len(ids) else ids

    return prepare
