"""AudioCLIP's three towers from its published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mcil.encoders.audioclip.esresnext import ESResNeXt
from mcil.encoders.clip.load import (
    ImageTower,
    build_text,
    build_visual,
    find_file,
    part,
    plan,
    read_clip_state,
    read_scale,
    read_tokenizer,
    stages,
    with_weights,
)
from mcil.encoders.clip.text import TextTransformer
from mcil.encoders.clip.tokenizer import Tokenizer
from mcil.encoders.weights import Weights
from mcil.errors import McilError
from mcil.files import sha256

DEFAULT = "AudioCLIP-Full-Training.pt"
SCALES = {"visual-text": "logit_scale", "audio-visual": "logit_scale_ai", "audio-text": "logit_scale_at"}


@dataclass(frozen=True)
class AudioClipTowers:
    """AudioCLIP, frozen and in eval mode.

    Attributes:
        audio: waveforms (B,N) at 44.1 kHz in the scale of 16-bit integers to (B,E).
        visual: pictures (B,3,H,W), H = W = ``visual.size``, turned by :func:`mcil.encoders.clip.normalise`, to (B,E).
        text: token ids to (B,E).
        tokenizer: texts to token ids.
        scales: what AudioCLIP multiplies cosines by, 1 to 100: "visual-text", "audio-visual", "audio-text".
        sha256: of the file of weights.
    """

    audio: ESResNeXt
    visual: ImageTower
    text: TextTransformer
    tokenizer: Tokenizer
    scales: dict[str, float]
    sha256: str


def load_audioclip(weights: str | Path = DEFAULT) -> AudioClipTowers:
    """Load AudioCLIP; sizes are read off the weights, but for the hop of 561 samples.

    Args:
        weights: ``AudioCLIP-Full-Training.pt`` or ``AudioCLIP-Partial-Training.pt`` (image and text towers are CLIP's),
            or a file of tensors with the same names; or a folder that holds one. The vocabulary lies beside it.

    Raises:
        McilError: there is no such file, it cannot be read or holds something else, or the vocabulary is missing.
    """
    found = find_audioclip(str(weights))
    state, where = read_clip_state("audioclip", found.file), f"audioclip: {found.file}"
    audio, visual, text = build_audio(where, state), build_visual(where, state), build_text(where, state)
    tokenizer = read_tokenizer("audioclip", found.folder, text)
    scales = {pair: min(max(read_scale(where, state, name), 1.0), 100.0) for pair, name in SCALES.items()}
    return AudioClipTowers(audio, visual, text, tokenizer, scales, sha256(found.file))


def find_audioclip(weights: str) -> Weights:
    """Find a file of weights on this machine; see :func:`load_audioclip`."""
    found = find_file("audioclip", weights)
    if found is None:
        raise McilError(
            f"audioclip: there is no file or folder {weights}; download {DEFAULT} from "
            "https://github.com/AndreyGuzhov/AudioCLIP/releases and give weights=FOLDER"
        )
    return found


def plan_audio(where: str, state: Mapping[str, Tensor]) -> ESResNeXt:
    """Make the audio tower that ``state`` is of, on the meta device: sizes without weights.

    Raises:
        McilError: the state lacks what tells the sizes, or is that of the audio tower alone.
    """
    if "fbsp.m" in state:
        # Its last layer names AudioSet's classes: there is no way from there to the space of pictures and texts.
        raise McilError(f"{where} holds the audio tower only, as a classifier of AudioSet; give {DEFAULT}")
    return plan(where, lambda: _esresnext(state))


def build_audio(where: str, state: Mapping[str, Tensor]) -> ESResNeXt:
    """Make the audio tower with its weights, frozen; ``where`` begins the errors."""
    return with_weights(where, plan_audio(where, state), part(state, "audio."))


def _esresnext(state: Mapping[str, Tensor]) -> ESResNeXt:
    grouped = state["audio.layer1.0.conv2.weight"]
    return ESResNeXt(
        layers=stages(state, "audio."),
        width=len(state["audio.conv1.weight"]),
        groups=grouped.shape[0] // grouped.shape[1],
        embed=len(state["audio.fc.weight"]),
        length=2 * (len(state["audio.fbsp.m"]) - 1),
        window=len(state["audio.window"]),
    )
