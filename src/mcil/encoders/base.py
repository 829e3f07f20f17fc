"""What an encoder is, and the table of all encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mcil.registry import Registry

if TYPE_CHECKING:
    from mcil.media import Clip

Floats = npt.NDArray[np.float32]
Device = Literal["auto", "cpu", "cuda"]


class Encoder(ABC):
    """Turns a clip into one array of known shape: ``prepare`` in worker processes, ``encode`` in the main one.

    An encoder pickles cheaply: it holds options and paths, and loads weights on the first ``encode``. A token of (T,D)
    or (L,S,D) that is there must not be all zeros, which is how one that a clip does not have is stored.

    Attributes:
        name: the name it is registered under; ``ENCODERS[name](**card()["options"])`` builds it again.
        modality: what it reads of a clip.
        shape: of its output for one clip: (D,) or (T,D), T steps of time, for audio; (L,S,D) for visual.
        dtype: of its output where that is raw input, which is stored as it is; None where it is float32.
    """

    name: str
    modality: Literal["audio", "visual"]
    shape: tuple[int, ...]
    dtype: Literal["uint8", "int16"] | None = None

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Return what made the features, as JSON values.

        Keys: ``name``, ``modality``, ``revision``, ``licence``, ``options`` (of the factory), ``preprocessing``,
        ``shape``; visual encoders also give ``grid`` ([rows, columns] of the S patches, row-major) and ``view``
        ("full", or "centre" for the square centre crop), and ``seconds`` where frames are of that beginning of a clip.
        """

    @abstractmethod
    def prepare(self, clip: Clip) -> npt.NDArray[Any]:
        """Decode and preprocess one clip on the CPU; the result has the same shape for every clip.

        Raises:
            MediaError: the clip lacks the modality, or its file cannot be decoded.
        """

    @abstractmethod
    def encode(self, prepared: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Encode stacked results of :meth:`prepare` (B, ...) into (B, *shape), float32 or ``dtype``."""

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """Return the time in seconds of each of the L output frames of a clip of ``duration``; visual only."""
        raise TypeError(f"{self.name} ({self.modality}) has no frames")


class TextEncoder(ABC):
    """Turns prompts about classes into one array of known shape each.

    It pickles cheaply, as an :class:`Encoder` does.

    Attributes:
        name: the name it is registered under.
        modality: "text".
        shape: of one prompt's array: (D,) for an embedding, (77,) for token ids.
    """

    name: str
    modality: Literal["text"] = "text"
    shape: tuple[int, ...]

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Return what made the arrays, as JSON values: ``name``, ``modality``, ``revision``, ``licence``, ``options``,
        ``preprocessing``, ``shape``.
        """

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Encode texts: float32 (n, D) as the encoder gives them, not normalised; or token ids, int32 (n, length)."""


@dataclass(frozen=True)
class Facts:
    """What is known of an encoder before its weights are there, with its default options; ``mcil encoders`` lists it.

    Attributes:
        modality: what it reads.
        shape: of its output, as :attr:`Encoder.shape`; None where the weights decide.
        parameters: in millions; 0 where nothing was learnt, None where the weights decide.
        licence: of the weights.
        weights: name on the hub, or of the file that a user has to get; None where none are needed.
        formats: names of the file of tensors on the hub, any of which will do.
        package: that brings the weights where it is installed.
    """

    modality: Literal["audio", "visual", "text"]
    shape: tuple[int, ...] | None
    parameters: float | None
    licence: str
    weights: str | None = None
    formats: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    package: str | None = None


FACTS: dict[str, tuple[Facts, ...]] = {}
"""By the name of each registered encoder: one entry for each modality that it reads."""

AnyEncoder = Encoder | TextEncoder
Factory = Callable[..., Sequence[AnyEncoder]]
ENCODERS: Registry[Factory] = Registry("encoder", "mcil.encoders")


def segment_centres(duration: float, count: int) -> npt.NDArray[np.float64]:
    """Return the centres of ``count`` equal segments of ``duration`` seconds, shape (count,)."""
    return (np.arange(count, dtype=np.float64) + 0.5) * np.float64(duration / count)
