"""The built-in encoders: documented descriptors of pictures and sounds, no weights, no download."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mcil.encoders import patches, sound
from mcil.encoders.base import ENCODERS, FACTS, Encoder, Facts, Floats, segment_centres
from mcil.errors import McilError

if TYPE_CHECKING:
    from mcil.media import Clip

REVISION = "1"
LICENCE = "Apache-2.0 (part of mcil; no weights)"


class BuiltinVisual(Encoder):
    """Patch descriptors of L moments of a clip: see :mod:`mcil.encoders.patches` and ``docs/encoders.md``."""

    name = "builtin"
    modality = "visual"

    def __init__(self, frames: int, grid: int, gap: float, options: dict[str, Any]) -> None:
        self.frames, self.grid, self.gap = frames, grid, gap
        self.shape = (frames, grid * grid, patches.WIDTH)
        self._options = options

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": REVISION,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {
                "frames": self.frames,
                "sampling": "centres of equal segments",
                "motion_gap_seconds": self.gap,
                "side": self.grid * patches.PATCH,
            },
            "shape": list(self.shape),
            "grid": [self.grid, self.grid],
            "view": "full",
        }

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """Centres of L equal segments, shape (L,)."""
        return segment_centres(duration, self.frames)

    def prepare(self, clip: Clip) -> Floats:
        """Read 2L frames (L moments, each with its neighbour ``gap`` seconds later) and describe them: (L,S,D)."""
        duration = clip.visual_duration
        if duration == 0.0:
            return self.encode_pictures(clip.frames(np.zeros(1)))
        moments = self.frame_times(duration)
        gap = max(self.gap, 1.0 / clip.frame_rate if clip.frame_rate else 0.0)
        return self.encode_pictures(clip.frames(np.stack([moments, moments + gap], axis=1).ravel()))

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Return ``prepared`` (B,L,S,D): all work is done in the worker processes."""
        return np.asarray(prepared, dtype=np.float32)

    def encode_pictures(self, frames: npt.NDArray[np.uint8]) -> Floats:
        """Describe pictures uint8 (n,H,W,3) of one clip, in order of time: float32 (L,S,D).

        Moment i is picture ``i * n // L``, and its neighbour for the motion is the next picture (the one before,
        at the end); a single picture gives L equal moments without motion. So 2L pictures are L pairs.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0 or frames.dtype != np.uint8:
            raise McilError(f"pictures must be uint8 (n, height, width, 3), n > 0, not {frames.dtype} {frames.shape}")
        count = len(frames)
        first = np.arange(self.frames) * count // self.frames
        second = np.where(first + 1 < count, first + 1, np.maximum(first - 1, 0))
        pictures = patches.working_pictures(frames, self.grid)
        moments, place = np.unique(first, return_inverse=True)
        seen = pictures[:, moments]
        looks = np.concatenate([patches.colour(seen), patches.texture(seen), patches.orientation(seen[0])], axis=-1)
        if count == 1:
            moves = np.zeros((1, self.shape[1], patches.MOTION), np.float32)
            return np.repeat(np.concatenate([looks, moves], -1), self.frames, axis=0)
        earlier, later = np.minimum(first, second), np.maximum(first, second)
        moves = patches.motion(pictures[:, earlier], pictures[:, later])
        return np.concatenate([looks[place], moves], -1)


class BuiltinAudio(Encoder):
    """Statistics of a log-mel spectrogram: see :mod:`mcil.encoders.sound` and ``docs/encoders.md``."""

    name = "builtin"
    modality = "audio"
    shape = (sound.WIDTH,)

    def __init__(self, rate: int, options: dict[str, Any]) -> None:
        self.rate = rate
        self._options = options

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": REVISION,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {"rate": self.rate, "bands": sound.BANDS, "column_seconds": sound.COLUMN},
            "shape": list(self.shape),
        }

    def prepare(self, clip: Clip) -> Floats:
        """Read the sound and describe it: (D,)."""
        waveform, rate = clip.waveform(self.rate)
        return self.encode_logmel(sound.logmel(waveform, rate))

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Return ``prepared`` (B,D): all work is done in the worker processes."""
        return np.asarray(prepared, dtype=np.float32)

    def encode_logmel(self, logmel_db: Floats, column: float = sound.COLUMN) -> Floats:
        """Describe a log-mel spectrogram in dB, float32 (bands, columns): float32 (D,).

        Any number of bands (they are averaged or interpolated to the encoder's own) and of columns. ``column`` is
        the time from one to the next in seconds, about 0.02: the modulation rates are measured with it.
        """
        if logmel_db.ndim != 2 or 0 in logmel_db.shape:
            raise McilError(f"a log-mel spectrogram must be (bands, columns), both above 0, not {logmel_db.shape}")
        return sound.describe(logmel_db, column)


@ENCODERS.register("builtin")
def builtin(*, frames: int = 8, grid: int = 6, gap: float = 0.1, rate: int = 32000) -> list[Encoder]:
    """Hand-made descriptors; no weights, no download, a few milliseconds a clip.

    Args:
        frames: moments of a clip (L), evenly spread.
        grid: patches a side (S = grid * grid) over the whole picture.
        gap: seconds from a moment to the later frame that its motion is measured with (one frame at least).
        rate: samples a second that sounds are read at.
    """
    if frames < 1 or grid < 1 or not gap > 0 or rate < 4000:
        raise McilError("builtin: frames and grid must be at least 1, gap above 0 and rate at least 4000")
    options = {"frames": frames, "grid": grid, "gap": gap, "rate": rate}
    return [BuiltinAudio(rate, options), BuiltinVisual(frames, grid, gap, options)]


FACTS["builtin"] = (
    Facts("audio", (sound.WIDTH,), 0, LICENCE),
    Facts("visual", (8, 36, patches.WIDTH), 0, LICENCE),
)
