"""Dense encoders: tokens over the time of a sound and over the places of a picture, pooled at extraction.

Every encoder that gives many tokens a clip is one of the two classes here; a family adds how its weights are found and
loaded, and what its module computes. Tokens are pooled before they are stored: patches to a smaller grid, steps of a
sound to equal segments. A token that a clip does not have is stored as zeros (see ``mcil.models.tokens``).

Both read the first ``seconds`` of a clip, and a sound goes on in silence as long as its video does: what networks take
for the same share of both is the same time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mcil.encoders.base import Device, Floats, segment_centres
from mcil.encoders.pictures import Resample, square, squash
from mcil.encoders.weights import TorchEncoder
from mcil.errors import McilError, MediaError

if TYPE_CHECKING:
    from mcil.media import Clip

CHUNK = 64  # pictures that pass through a tower at once
LONGEST = 3600.0  # seconds of a clip that may be asked for
MOST_STEPS = 100_000


@dataclass(frozen=True)
class Origin:
    """Where an encoder's weights come from: what its card says of them.

    ``reads`` names what is read off the network, such as "patch tokens after the last norm".
    """

    name: str
    weights: str
    revision: str
    licence: str
    reads: str

    def card(self) -> dict[str, Any]:
        """Return the entries that cards of all dense encoders share."""
        return {
            "name": self.name,
            "weights": self.weights,
            "revision": self.revision,
            "licence": self.licence,
            "reads": self.reads,
        }


@dataclass(frozen=True)
class Pixels:
    """How a picture becomes a tower's input.

    Attributes:
        side: pixels of the square input.
        fit: "squash" resizes the whole picture to the square; "crop" resizes the shorter side and cuts out the centre.
        mean, deviation: of each channel, for pixels from 0 to 1.
        resample: how pixels between pixels are found.
    """

    side: int
    fit: Literal["squash", "crop"]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    resample: Resample = "bicubic"

    def prepare(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize a picture (H,W,3): uint8 (3,side,side)."""
        return (square if self.fit == "crop" else squash)(picture, self.side, self.resample)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn pixels uint8 (...,3,H,W) on any device into the tower's input, float32."""
        mean, deviation = (
            torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.deviation)
        )
        return (pixels.float() / 255 - mean) / deviation


class DenseVisual(TorchEncoder):
    """Tokens of moments of a clip: (L, S, D).

    ``load`` returns a module that maps pixels (n,3,side,side), or (n,frames,3,side,side) where ``video`` is set, to
    tokens (n, [L,] rows * columns, D), all layers side by side where several are read.

    Args:
        origin: of the weights.
        pixels: what the tower reads.
        frames: moments that are read, at the centres of equal segments of what is read of the clip.
        seconds: that are read of a clip.
        moments: L, those that come out; as many as are read where None.
        native: rows and columns of the tower's own tokens.
        grid: rows and columns that they are pooled to; None leaves them.
        width: D.
        video: whether the module reads all frames of a clip together.
        device: where it runs.
        options: of the factory.
    """

    modality = "visual"

    def __init__(
        self,
        origin: Origin,
        pixels: Pixels,
        frames: int,
        seconds: float,
        native: tuple[int, int],
        grid: int | None,
        width: int,
        device: Device,
        options: dict[str, Any],
        moments: int | None = None,
        video: bool = False,
    ) -> None:
        super().__init__(device)
        self.name = origin.name
        if frames < 1:
            raise McilError(f"{self.name}: frames must be at least 1")
        check_seconds(self.name, seconds)
        if grid is not None and not 1 <= grid <= min(native):
            raise McilError(f"{self.name}: grid must be between 1 and {min(native)}, the patches a side that there are")
        self.origin, self.pixels, self.native = origin, pixels, native
        self.frames, self.seconds = frames, seconds
        self.grid = native if grid is None else (grid, grid)
        self.video, self._options = video, options
        self.shape = (moments or frames, self.grid[0] * self.grid[1], width)

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`; ``pooling`` says how the tower's own tokens became those that are stored."""
        return {
            **self.origin.card(),
            "modality": self.modality,
            "options": self._options,
            "preprocessing": {
                "frames": self.frames,
                "sampling": "centres of equal segments",
                "side": self.pixels.side,
                "fit": self.pixels.fit,
                "resample": self.pixels.resample,
                "mean": list(self.pixels.mean),
                "deviation": list(self.pixels.deviation),
            },
            "pooling": {"from": list(self.native), "to": list(self.grid)},
            "shape": list(self.shape),
            "grid": list(self.grid),
            "seconds": self.seconds,
            "view": "centre" if self.pixels.fit == "crop" else "full",
        }

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """Centres of L equal segments of what is read of a clip, shape (L,)."""
        return segment_centres(min(duration, self.seconds), self.shape[0])

    def prepare(self, clip: Clip) -> npt.NDArray[np.uint8]:
        """The clip's moments as the tower reads them, not yet normalised: uint8 (frames, 3, side, side)."""
        frames = clip.frames(segment_centres(min(clip.visual_duration, self.seconds), self.frames))
        return np.stack([self.pixels.prepare(frame) for frame in frames])

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Encode frames uint8 (B, frames, 3, side, side) to pooled tokens, float32 (B,L,S,D)."""
        tower, device = self.tower()
        pixels = torch.from_numpy(prepared) if self.video else torch.from_numpy(prepared).flatten(0, 1)
        size = max(1, CHUNK // self.frames) if self.video else CHUNK
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            parts = [
                pool_grid(tower(self.pixels.normalise(part.to(device))).float(), self.native, self.grid).cpu()
                for part in torch.split(pixels, size)
            ]
        tokens: Floats = torch.cat(parts).numpy()
        return tokens.reshape(len(prepared), *self.shape)


class DenseAudio(TorchEncoder):
    """Tokens over the time of a sound: (T, D).

    The first ``seconds`` of a sound are read. A sound that gives more tokens than ``steps`` is pooled to ``steps``
    equal segments; one that gives fewer keeps them, with zeros behind.

    Args:
        origin: of the weights.
        rate: samples a second that the network reads.
        seconds: that are read of a clip.
        steps: T, tokens a clip.
        width: D.
        device: where it runs.
        options: of the factory.
    """

    modality = "audio"

    def __init__(
        self,
        origin: Origin,
        rate: int,
        seconds: float,
        steps: int,
        width: int,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        super().__init__(device)
        self.name = origin.name
        check_seconds(self.name, seconds, rate)
        if not 1 <= steps <= MOST_STEPS:
            raise McilError(f"{self.name}: steps must be at least 1, and at most {MOST_STEPS}")
        self.origin, self.rate, self.seconds, self._options = origin, rate, seconds, options
        self.shape = (steps, width)

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`; ``pooling`` says how many tokens there are a clip, and of what."""
        return {
            **self.origin.card(),
            "modality": self.modality,
            "options": self._options,
            "preprocessing": {"rate": self.rate, "seconds": self.seconds},
            "pooling": {"steps": self.shape[0]},
            "shape": list(self.shape),
        }

    def prepare(self, clip: Clip) -> Floats:
        """Read the sound: float32 (seconds * rate,), not a number where there is none any more.

        Where the clip has a video that lasts longer than its sound, silence stands behind the sound.
        """
        samples = round(self.seconds * self.rate)
        waveform = clip.waveform(self.rate)[0][:samples]
        with suppress(MediaError):  # of a video that cannot be read, and so is no feature beside this one
            lasts = round(min(clip.visual_duration, self.seconds) * self.rate)
            waveform = np.pad(waveform, (0, max(lasts - len(waveform), 0)))
        return np.pad(waveform, (0, samples - len(waveform)), constant_values=np.nan)

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Encode sounds of :meth:`prepare` (B,n) to pooled tokens, float32 (B,T,D)."""
        waveforms = torch.from_numpy(prepared)
        lengths = waveforms.isfinite().sum(dim=1).tolist()
        with torch.inference_mode():
            found = self.tokens(waveforms.nan_to_num(), lengths)
        pooled = [pool_steps(clip.float(), self.shape[0]).cpu() for clip in found]
        tokens: Floats = torch.stack(pooled).numpy()
        return tokens

    @abstractmethod
    def tokens(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """Encode sounds (B,n) in [-1, 1] with zeros after ``lengths`` samples: (T_b,D) of each, T_b at least 1."""


def check_seconds(name: str, seconds: float, rate: int | None = None) -> None:
    """Refuse a stretch of time that is none, is not finite, or holds no sample at ``rate``.

    Raises:
        McilError: see above; or it is longer than an hour.
    """
    if not 0 < seconds <= LONGEST or (rate is not None and seconds * rate < 1):
        least = "above 0" if rate is None else "above 0 (one sample at least)"
        raise McilError(f"{name}: seconds must be {least}, and at most {LONGEST:g}, but it is {seconds:g}")


def pool_grid(tokens: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Average patch tokens (...,rows * columns,D), row by row, to a smaller grid: (...,grid rows * columns,D)."""
    if native == grid:
        return tokens
    *lead, _, width = tokens.shape
    maps = tokens.reshape(-1, *native, width).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(maps, grid).flatten(2).transpose(1, 2).reshape(*lead, grid[0] * grid[1], width)


def pool_steps(tokens: Tensor, steps: int) -> Tensor:
    """Average tokens over time (T,D) over ``steps`` equal segments: (steps,D); fewer tokens get zeros behind them."""
    if len(tokens) <= steps:
        return F.pad(tokens, (0, 0, 0, steps - len(tokens)))
    return F.adaptive_avg_pool1d(tokens.T[None], steps)[0].T


def chosen_layers(name: str, layers: list[int] | None, depth: int) -> tuple[int, ...]:
    """Return which blocks of a network of ``depth`` blocks are read, counted from 1; the last where None.

    Negative numbers count from the end: -1 is the last. The features of several stand side by side, in the order given.

    Raises:
        McilError: there is no such block, or none is named.
    """
    chosen = [depth] if layers is None else [layer + depth + 1 if layer < 0 else layer for layer in layers]
    if not chosen or not all(1 <= layer <= depth for layer in chosen):
        raise McilError(f"{name}: layers must be numbers from 1 to {depth} (or -{depth} to -1), not {layers}")
    return tuple(chosen)
