"""Thumbnails: the colours of a small copy of each picture, a token a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mcil.encoders import ENCODERS, FACTS, Encoder, Facts
from mcil.encoders.base import segment_centres
from mcil.encoders.pictures import squash
from mcil.media import Clip


class Thumbnail(Encoder):
    """A small copy of the whole picture at each of L moments: (L, side * side, 3), from -1 to 1."""

    name = "thumbnail"
    modality = "visual"

    def __init__(self, frames: int, side: int) -> None:
        self.frames, self.side = frames, side
        self.shape = (frames, side * side, 3)

    def card(self) -> dict[str, Any]:
        """See Encoder.card."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": "1",
            "licence": "none needed (no weights)",
            "options": {"frames": self.frames, "side": self.side},
            "preprocessing": {"sampling": "centres of equal segments"},
            "shape": list(self.shape),
            "grid": [self.side, self.side],
            "view": "full",
        }

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """Centres of L equal segments, shape (L,)."""
        return segment_centres(duration, self.frames)

    def prepare(self, clip: Clip) -> npt.NDArray[np.uint8]:
        """Decode and shrink, in a worker process: uint8 (L, 3, side, side)."""
        return np.stack([squash(frame, self.side) for frame in clip.frames(self.frame_times(clip.visual_duration))])

    def encode(self, prepared: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Turn a batch of them into tokens, in the main process: float32 (B, L, side * side, 3)."""
        tokens = prepared.astype(np.float32) / 127.5 - 1  # black is not 0: a token of zeros is one that is not there
        return tokens.reshape(len(tokens), self.frames, 3, -1).swapaxes(2, 3)


@ENCODERS.register("thumbnail")
def thumbnail(*, frames: int = 4, side: int = 8) -> list[Encoder]:
    """Thumbnails; no weights, no download.

    Args:
        frames: moments of a clip (L), evenly spread.
        side: of the small picture, in pixels.
    """
    return [Thumbnail(frames, side)]


FACTS["thumbnail"] = (Facts("visual", (4, 64, 3), 0, "none needed (no weights)"),)
