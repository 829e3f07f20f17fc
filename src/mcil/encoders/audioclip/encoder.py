"""AudioCLIP behind the encoder interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcil.encoders.audioclip.esresnext import ESResNeXt
from mcil.encoders.audioclip.load import DEFAULT, build_audio, find_audioclip, plan_audio
from mcil.encoders.audioclip.sound import RATE, SAMPLES, sixteen_bit
from mcil.encoders.base import ENCODERS, FACTS, AnyEncoder, Device, Facts, Floats
from mcil.encoders.clip.encoder import image_and_text
from mcil.encoders.clip.load import read_clip_state
from mcil.encoders.weights import TorchEncoder, Weights

if TYPE_CHECKING:
    from mcil.media import Clip

LICENCE = "weights: released with AudioCLIP's MIT-licensed code; made from OpenAI CLIP (MIT), AudioSet and ImageNet"


class AudioClipAudio(TorchEncoder):
    """An embedding of the first five seconds of a clip's sound."""

    name = "audioclip"
    modality = "audio"

    def __init__(self, weights: Weights, tower: ESResNeXt, device: Device, options: dict[str, Any]) -> None:
        super().__init__(device)
        self.weights = weights
        self.shape = (tower.width,)
        self._options = options

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self.weights.revision,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {"rate": RATE, "samples": SAMPLES, "scale": "16-bit integers"},
            "shape": list(self.shape),
        }

    def prepare(self, clip: Clip) -> npt.NDArray[np.int16]:
        """The clip's sound as 16-bit samples (220500,): padded with zeros, or cut."""
        waveform, _ = clip.waveform(RATE)
        return sixteen_bit(waveform)

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Encode samples (B,N) to embeddings, float32 (B,E), not normalised."""
        tower, device = self.tower()
        with torch.inference_mode():
            features: Floats = tower(torch.from_numpy(prepared).to(device).float()).cpu().numpy()
        return features

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        return build_audio(f"{self.name}: {self.weights.file}", read_clip_state(self.name, self.weights.file))


@ENCODERS.register("audioclip")
def audioclip(*, weights: str = DEFAULT, frames: int = 1, device: Device = "auto") -> list[AnyEncoder]:
    """AudioCLIP: sounds, pictures and texts in one space (1024 values).

    Args:
        weights: AudioCLIP-Full-Training.pt or AudioCLIP-Partial-Training.pt; or a folder that holds one of them, with
            the vocabulary that texts need.
        frames: moments of a clip (L), evenly spread.
        device: where the towers run.
    """
    options = {"weights": weights, "frames": frames}
    found = find_audioclip(weights)
    tower = plan_audio(f"audioclip: {found.file}", read_clip_state("audioclip", found.file))
    audio = AudioClipAudio(found, tower, device, options)
    return [audio, *image_and_text("audioclip", found, LICENCE, frames, device, options)]


FACTS["audioclip"] = (
    Facts("audio", (1024,), 32.1, LICENCE, DEFAULT),
    Facts("visual", (1, 1, 1024), 38.3, LICENCE, DEFAULT),
    Facts("text", (1024,), 63.7, LICENCE, DEFAULT),
)
