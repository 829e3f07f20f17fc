"""CLIP's towers behind the encoder interface; AudioCLIP's pictures and texts take the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mcil.encoders.base import (
    ENCODERS,
    FACTS,
    AnyEncoder,
    Device,
    Encoder,
    Facts,
    Floats,
    TextEncoder,
    segment_centres,
)
from mcil.encoders.clip.load import (
    DEFAULT,
    ON_HUB,
    ImageTower,
    build_text,
    build_visual,
    find_clip,
    plan_text,
    plan_visual,
    read_clip_state,
    read_tokenizer,
)
from mcil.encoders.clip.pixels import DEVIATION, MEAN, normalise
from mcil.encoders.clip.text import TextTransformer
from mcil.encoders.clip.tokenizer import Tokenizer
from mcil.encoders.clip.vision import VisionTransformer
from mcil.encoders.dense import DenseVisual, Origin, Pixels
from mcil.encoders.pictures import square
from mcil.encoders.weights import TorchEncoder, Weights, pick_device
from mcil.errors import McilError

if TYPE_CHECKING:
    from mcil.media import Clip

LICENCE = "weights: MIT (OpenAI CLIP)"
BATCH = 256  # texts that are encoded at once


class ClipVisual(TorchEncoder):
    """An embedding for each of L moments of a clip."""

    modality = "visual"

    def __init__(
        self,
        name: str,
        weights: Weights,
        tower: ImageTower,
        licence: str,
        frames: int,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        super().__init__(device)
        self.name, self.weights, self.size, self.frames = name, weights, tower.size, frames
        self.shape = (frames, 1, tower.width)
        self._licence, self._options = licence, options

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self.weights.revision,
            "licence": self._licence,
            "options": self._options,
            "preprocessing": {
                "frames": self.frames,
                "sampling": "centres of equal segments",
                "side": self.size,
                "resample": "bicubic",
                "mean": list(MEAN),
                "deviation": list(DEVIATION),
            },
            "shape": list(self.shape),
            "grid": [1, 1],
            "view": "centre",
        }

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """Centres of L equal segments, shape (L,)."""
        return segment_centres(duration, self.frames)

    def prepare(self, clip: Clip) -> npt.NDArray[np.uint8]:
        """The clip's moments, short side resized, centre cropped: uint8 (L, 3, size, size)."""
        frames = clip.frames(self.frame_times(clip.visual_duration))
        return np.stack([square(frame, self.size) for frame in frames])

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Encode frames uint8 (B, L, 3, size, size) to embeddings, float32 (B,L,1,E), not normalised."""
        tower, device = self.tower()
        with torch.inference_mode():
            pixels = torch.from_numpy(prepared).to(device).flatten(0, 1)
            features: Floats = tower(normalise(pixels)).cpu().numpy()
        return features.reshape(len(prepared), *self.shape)

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        return build_visual(f"{self.name}: {self.weights.file}", read_clip_state(self.name, self.weights.file))


class ClipPatches(DenseVisual):
    """The patches of L moments of a clip, in the space of the embedding.

    Raises:
        McilError: the weights are no vision transformer's, or ``frames``, ``seconds`` or ``grid`` do not fit.
    """

    def __init__(
        self,
        weights: Weights,
        frames: int,
        seconds: float,
        grid: int | None,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        where = f"clip: {weights.file}"
        tower = plan_visual(where, read_clip_state("clip", weights.file))
        if not isinstance(tower, VisionTransformer):
            raise McilError(f"{where} holds a ResNet, which has no patches; give a vision transformer's weights")
        cells = tower.size // tower.conv1.kernel_size[0]
        super().__init__(
            Origin("clip", str(options["weights"]), weights.revision, LICENCE, "patch tokens in the space of texts"),
            Pixels(tower.size, "crop", MEAN, DEVIATION),
            frames,
            seconds,
            (cells, cells),
            grid,
            tower.width,
            device,
            options,
        )
        self.weights = weights

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        tower = build_visual(f"clip: {self.weights.file}", read_clip_state("clip", self.weights.file))
        assert isinstance(tower, VisionTransformer)
        return _Patches(tower)


class _Patches(nn.Module):
    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        return self.tower.patches(pixels)


class ClipText(TextEncoder):
    """An embedding of a text, loaded on first use and left behind by pickling."""

    def __init__(
        self,
        name: str,
        weights: Weights,
        tower: TextTransformer,
        licence: str,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        self.name, self.weights = name, weights
        self.shape = (tower.width,)
        self._licence, self._device, self._options = licence, device, options
        self._loaded: tuple[TextTransformer, Tokenizer] | None = None

    def card(self) -> dict[str, Any]:
        """See :meth:`TextEncoder.card`; raises McilError where there is no vocabulary beside the weights."""
        _, tokenizer = self._load()
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self.weights.revision,
            "licence": self._licence,
            "options": self._options,
            "preprocessing": {"vocabulary": tokenizer.revision, "context": tokenizer.context},
            "shape": list(self.shape),
        }

    def encode(self, texts: Sequence[str]) -> Floats:
        """Encode texts to embeddings, float32 (n,E), not normalised; long ones are cut, see :class:`Tokenizer`.

        Raises:
            McilError: there is no vocabulary beside the weights, or they cannot be read.
        """
        tower, tokenizer = self._load()
        device = pick_device(self.name, self._device)
        tower.to(device)
        features = np.zeros((len(texts), *self.shape), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                ids = tokenizer(texts[start : start + BATCH])
                longest = int(ids.argmax(dim=1).max()) + 1
                features[start : start + BATCH] = tower(ids[:, :longest].to(device)).cpu().numpy()
        return features

    def _load(self) -> tuple[TextTransformer, Tokenizer]:
        if self._loaded is None:
            tower = build_text(f"{self.name}: {self.weights.file}", read_clip_state(self.name, self.weights.file))
            self._loaded = tower, read_tokenizer(self.name, self.weights.folder, tower)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}


def image_and_text(
    name: str, weights: Weights, licence: str, frames: int, device: Device, options: dict[str, Any]
) -> tuple[Encoder, TextEncoder]:
    """Make the encoders of pictures and of texts of one file of weights.

    Raises:
        McilError: ``frames`` is below 1; or the file cannot be read or holds no such towers.
    """
    if frames < 1:
        raise McilError(f"{name}: frames must be at least 1")
    where, state = f"{name}: {weights.file}", read_clip_state(name, weights.file)
    return (
        ClipVisual(name, weights, plan_visual(where, state), licence, frames, device, options),
        ClipText(name, weights, plan_text(where, state), licence, device, options),
    )


@ENCODERS.register("clip")
def clip(
    *,
    weights: str = DEFAULT,
    revision: str | None = None,
    frames: int = 1,
    tokens: Literal["embedding", "patches"] = "embedding",
    seconds: float = 10.0,
    grid: int | None = 4,
    device: Device = "auto",
) -> list[AnyEncoder]:
    """CLIP: pictures and texts in one space (ViT-B/16: 512 values).

    Args:
        weights: OpenAI's archive (ViT-B-16.pt, RN50.pt, ...) or a file of tensors with the same names; a folder that
            holds one, with the vocabulary that texts need; or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        frames: moments of a clip (L), evenly spread.
        tokens: of a picture: "embedding", the one that texts are compared with; or "patches", in the same space, which
            only vision transformers have.
        seconds: of a clip whose patches are read; moments of embeddings are spread over the whole clip.
        grid: rows and columns that patches are averaged to; null leaves them.
        device: where the transformers run.
    """
    options: dict[str, Any] = {"weights": weights, "revision": revision, "frames": frames}
    found = find_clip("clip", weights, revision)
    if tokens == "embedding":
        return [*image_and_text("clip", found, LICENCE, frames, device, options)]
    options |= {"tokens": tokens, "seconds": seconds, "grid": grid}
    _, text = image_and_text("clip", found, LICENCE, frames, device, options)
    return [ClipPatches(found, frames, seconds, grid, device, options), text]


FACTS["clip"] = (
    Facts("visual", (1, 1, 512), 86.2, LICENCE, DEFAULT, ON_HUB),
    Facts("text", (512,), 63.4, LICENCE, DEFAULT, ON_HUB),
)
