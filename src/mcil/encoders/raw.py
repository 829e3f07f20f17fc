"""Raw input: sound as samples and one picture as pixels, for methods that train inside an encoder's tower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mcil.encoders.base import ENCODERS, FACTS, Encoder, Facts, segment_centres
from mcil.errors import McilError

if TYPE_CHECKING:
    from mcil.media import Clip

REVISION = "1"
LICENCE = "none needed (no weights)"


class RawAudio(Encoder):
    """The first seconds of the sound as 16-bit samples, mono, resampled, with zeros after a sound that is shorter."""

    name = "raw"
    modality = "audio"
    dtype = "int16"

    def __init__(self, seconds: float, rate: int, options: dict[str, Any]) -> None:
        self.seconds, self.rate = seconds, rate
        self.shape = (round(seconds * rate),)
        self._options = options

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": REVISION,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {"rate": self.rate, "seconds": self.seconds, "scale": 32768},
            "shape": list(self.shape),
        }

    def prepare(self, clip: Clip) -> npt.NDArray[np.int16]:
        """Read the sound: int16 (n,), the samples of [-1, 1] times 32768, rounded and cut off at 32767."""
        waveform, _ = clip.waveform(self.rate)
        samples = np.rint(waveform[: self.shape[0]] * np.float32(32768)).clip(-32768, 32767).astype(np.int16)
        return np.pad(samples, (0, self.shape[0] - len(samples)))

    def encode(self, prepared: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
        """Return ``prepared`` (B,n)."""
        return prepared


class RawVisual(Encoder):
    """One picture as 8-bit pixels: the image, or the frame in the middle of the video; its centre square."""

    name = "raw"
    modality = "visual"
    dtype = "uint8"

    def __init__(self, size: int, options: dict[str, Any]) -> None:
        self.size = size
        # Pixels are patches of one pixel and three values, so that a store holds them as it does token maps.
        self.shape = (1, size * size, 3)
        self._options = options

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": REVISION,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {"size": self.size, "resample": "bicubic", "sampling": "middle of the clip"},
            "shape": list(self.shape),
            "grid": [self.size, self.size],
            "view": "centre",
        }

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """The middle, shape (1,)."""
        return segment_centres(duration, 1)

    def prepare(self, clip: Clip) -> npt.NDArray[np.uint8]:
        """Read the picture: uint8 RGB (1, size * size, 3), row-major."""
        (picture,) = clip.frames(self.frame_times(clip.visual_duration))
        return centre_square(picture, self.size).reshape(self.shape)

    def encode(self, prepared: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return ``prepared`` (B, 1, size * size, 3)."""
        return prepared


def centre_square(picture: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize uint8 (H,W,3) so that its shorter side is ``size`` pixels (bicubic), and cut out the centre square.

    A picture whose shorter side has that size already is only cut, so that its pixels stay as they are.
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    height, width = size * height // short, size * width // short
    # Pillow copies a picture that has the size already.
    resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized[top : top + size, left : left + size]


@ENCODERS.register("raw")
def raw(*, size: int = 224, seconds: float = 5.0, rate: int = 44100) -> list[Encoder]:
    """Samples and pixels as they are, stored as int16 and uint8; no weights, no download.

    Args:
        size: pixels a side of the picture.
        seconds: of sound, from the clip's start on.
        rate: samples a second.
    """
    if size < 1 or rate < 1000 or not 1 <= seconds * rate < float("inf"):
        raise McilError("raw: size must be at least 1, rate at least 1000, and seconds above 0")
    options = {"size": size, "seconds": seconds, "rate": rate}
    return [RawAudio(seconds, rate, options), RawVisual(size, options)]


FACTS["raw"] = (Facts("audio", (220500,), 0, LICENCE), Facts("visual", (1, 50176, 3), 0, LICENCE))
