"""AudioMAE: a vision transformer over a log-mel spectrogram; one vector a clip.

Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022. Plain torch with timm's names of weights, so that
the published files load as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.encoders.base import ENCODERS, FACTS, Device, Encoder, Facts, Floats
from mcil.encoders.fbank import kaldi_fbank
from mcil.encoders.weights import TorchEncoder, Weights, find_weights, read_state
from mcil.errors import McilError

if TYPE_CHECKING:
    from mcil.media import Clip

HUB = "gaunernst/vit_base_patch16_1024_128.audiomae_as2m"
HEAD_WIDTH = 64  # of every published size; the weights do not tell it
EPSILON = 1e-6
BANDS = 128
LICENCE = "weights: CC BY-NC 4.0 where the repositories disagree; treat them as non-commercial"

# rate in Hz, mean and deviation that the filter bank energies are normalised by
PRESETS: dict[str, tuple[int, float, float]] = {
    "default": (16000, -4.2677393, 4.5689974),
    "published": (11430, 0.0, 1.0),
}


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of the transformer; ``frames`` x 128 bands is the spectrogram that it takes."""

    width: int
    depth: int
    hidden: int
    patch: int
    frames: int
    trained_norm: bool

    @staticmethod
    def of(state: dict[str, Tensor]) -> TowerConfig:
        """Read the sizes off a state dict with timm's names; KeyError or ValueError where it is none."""
        width, channels, patch, _ = state["patch_embed.proj.weight"].shape
        tokens = state["pos_embed"].shape[1] - 1
        if channels != 1 or width % HEAD_WIDTH or BANDS % patch or tokens % (BANDS // patch):
            raise ValueError
        return TowerConfig(
            width=width,
            depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
            hidden=state["blocks.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            frames=tokens // (BANDS // patch) * patch,
            trained_norm="fc_norm.weight" in state,
        )


class Block(nn.Module):
    """A pre-norm transformer block with fused query, key and value."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B,N,D) to (B,N,D)."""
        batch, tokens, width = x.shape
        qkv = self.attn["qkv"](self.norm1(x)).reshape(batch, tokens, 3, -1, HEAD_WIDTH)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.attn["proj"](mixed)
        update: Tensor = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
        return x + update


class AudioMAE(nn.Module):
    """The encoder of AudioMAE with global pooling: the mean of the patch tokens, then a layer norm.

    Without trained weights for that norm (``fc_norm``) it only standardises, as in the published extraction.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width, patch = config.width, config.patch
        tokens = (config.frames // patch) * (BANDS // patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, width, patch, stride=patch)})
        self.blocks = nn.ModuleList(Block(width, config.hidden) for _ in range(config.depth))
        self.fc_norm = nn.LayerNorm(width, eps=EPSILON, elementwise_affine=config.trained_norm)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Encode normalised spectrograms (B, frames, 128) to (B,D)."""
        patches = self.patch_embed["proj"](spectrograms[:, None]).flatten(2).transpose(1, 2)  # time-major
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = self.fc_norm(x[:, 1:].mean(dim=1))
        return pooled


class AudioMAEEncoder(TorchEncoder):
    """AudioMAE behind the encoder interface."""

    name = "audiomae"
    modality = "audio"

    def __init__(
        self, weights: Weights, rate: int, mean: float, std: float, device: Device, options: dict[str, Any]
    ) -> None:
        super().__init__(device)
        self.weights, self.rate, self.mean, self.std = weights, rate, mean, std
        self._options = options
        try:
            self.config = TowerConfig.of(self._state())
        except (KeyError, ValueError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else "has sizes that are none of AudioMAE's"
            raise McilError(f"audiomae: {weights.file} {what}; give AudioMAE weights with timm's names") from error
        self.shape = (self.config.width,)

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self.weights.revision,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {
                "rate": self.rate,
                "mean": self.mean,
                "std": self.std,
                "frames": self.config.frames,
                "bands": BANDS,
            },
            "shape": list(self.shape),
        }

    def prepare(self, clip: Clip) -> Floats:
        """The clip's normalised spectrogram, float32 (frames, 128): padded with zeros before that, or cut."""
        waveform, rate = clip.waveform(self.rate)
        energies = kaldi_fbank(waveform - waveform.mean(), rate, BANDS)[: self.config.frames]
        padded = np.pad(energies, ((0, self.config.frames - len(energies)), (0, 0)))
        spectrogram: Floats = (padded - np.float32(self.mean)) / np.float32(self.std)
        return spectrogram

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Encode spectrograms (B, frames, 128) to (B,D)."""
        tower, device = self.tower()
        with torch.inference_mode():
            features: Floats = tower(torch.from_numpy(prepared).to(device)).cpu().numpy()
        return features

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        tower = AudioMAE(self.config)
        try:
            missing, unexpected = tower.load_state_dict(self._state(), strict=False)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise McilError(f"audiomae: {self.weights.file} does not fit: {reason}") from error
        if missing or unexpected:
            what = f"lacks {missing[0]}" if missing else f"holds {unexpected[0]}, which AudioMAE has not"
            raise McilError(f"audiomae: {self.weights.file} {what}; give AudioMAE weights with timm's names")
        return tower

    def _state(self) -> dict[str, Tensor]:
        """The tower's weights: without the classifier of fine-tuned files, and without the norm that
        self-supervised files apply to every token before pooling (here the norm comes after pooling).
        """
        state = read_state(self.name, self.weights.file)
        return {name: value for name, value in state.items() if not name.startswith(("head.", "norm."))}


@ENCODERS.register("audiomae")
def audiomae(
    *,
    weights: str = HUB,
    revision: str | None = None,
    preset: Literal["default", "published"] = "default",
    rate: int | None = None,
    mean: float | None = None,
    std: float | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """AudioMAE (ViT-B: 768 values a clip).

    Args:
        weights: folder with model.safetensors or pytorch_model.bin, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        preset: "default" is what the weights document (16 kHz, normalised); "published" what the published AV-CIL
            features were made with (11,430 Hz, not normalised).
        rate: samples a second, instead of the preset's.
        mean: subtracted from the filter bank energies, instead of the preset's.
        std: they are divided by it, instead of the preset's.
        device: where the transformer runs.
    """
    if preset not in PRESETS:
        raise McilError(f"audiomae: there is no preset '{preset}'; choose one of: {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    rate = chosen[0] if rate is None else rate
    mean = chosen[1] if mean is None else mean
    std = chosen[2] if std is None else std
    if rate < 1000 or not std > 0:
        raise McilError("audiomae: rate must be at least 1000 and std above 0")
    options = {"weights": weights, "revision": revision, "preset": preset, "rate": rate, "mean": mean, "std": std}
    return [AudioMAEEncoder(find_weights("audiomae", weights, revision), rate, mean, std, device, options)]


FACTS["audiomae"] = (Facts("audio", (768,), 85.6, LICENCE, HUB),)
