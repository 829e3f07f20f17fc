"""SAM-Audio: its codec, its flow-matching transformer and its picture tower, of a copy that the user has installed.

Meta, "SAM Audio", 2025. Nothing of its code or weights is here: the package ``sam_audio`` builds the model from a
folder, and what is read off it is named A0, A1, A2 (sounds) and V0, V1 (pictures). Text is always empty, so that no
label can leak, and what the transformer would see of a video is zeros, so that sounds stay sounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mcil.encoders.base import ENCODERS, FACTS, AnyEncoder, Device, Facts
from mcil.encoders.clip.load import count
from mcil.encoders.codec import encode_whole_hops, outputs_of
from mcil.encoders.dense import DenseAudio, DenseVisual, Origin, Pixels, chosen_layers
from mcil.encoders.pe import PeTower, plan_tower
from mcil.encoders.weights import UNREADABLE, Weights, find_weights, quiet, read_state
from mcil.errors import McilError, reason

LICENCE = "weights: SAM License (Meta, 19 November 2025; publications acknowledge SAM Materials)"
HUB = "facebook/sam-audio-base"
RATE, HOP = 48000, 1920
HALF = (0.5, 0.5, 0.5)
HOW = (
    "`pip install git+https://github.com/facebookresearch/sam-audio` (PyPI's sam-audio is an empty placeholder), and "
    f"`hf download {HUB} --local-dir FOLDER` once access to the gated weights is approved"
)
READS = {
    "A0": "A0: latents of the codec",
    "A1": "A1: the transformer's input projection of the sound, without noise",
    "A2": "A2: hidden state of the transformer after block {layer} at time {time}, without noise, text or video",
    "V0": "V0: the picture tower's embedding pooled by attention, L2-normalised",
    "V1": "V1: the picture tower's patch tokens after the last norm",
}

FACTS["sam-audio"] = (
    Facts("audio", (16, 128), 27, LICENCE, HUB, ("checkpoint.pt",)),
    Facts("visual", (8, 16, 1024), 317, LICENCE, HUB, ("checkpoint.pt",)),
)


def sam_audio_from_folder(folder: Path) -> Any:
    """Build ``sam_audio.SAMAudio`` of a folder with config.json and checkpoint.pt, without its rankers.

    The public ``from_pretrained`` raises TypeError under huggingface_hub 1.0 and newer; what it calls does not. The
    constructor fetches t5-base from the hub, once.

    Raises:
        McilError: the package is missing, is the placeholder, or cannot build the model.
    """
    model_class = _package()
    from huggingface_hub.utils import logging

    try:
        with quiet(logging):
            return model_class._from_pretrained(
                model_id=str(folder),
                cache_dir=None,
                force_download=False,
                proxies=None,
                resume_download=False,
                local_files_only=True,
                token=None,
                visual_ranker=None,
                text_ranker=None,
                span_predictor=None,
            )
    except (*UNREADABLE, LookupError, TypeError, AttributeError) as error:
        raise McilError(
            f"sam-audio: the package sam_audio cannot build a model of {folder} ({reason(error)}); it fetches t5-base "
            "from the hub once: see that `hf download t5-base` has been run, and that the folder is a whole download"
        ) from error


def _package() -> Any:
    try:
        package = import_module("sam_audio")
    except (ImportError, OSError, RuntimeError) as error:
        raise McilError(
            f"sam-audio: the package sam_audio cannot be imported ({reason(error)}); it needs {HOW}"
        ) from error
    if not hasattr(package, "SAMAudio"):
        raise McilError(f"sam-audio: the package sam_audio has no SAMAudio: remove it (pip uninstall) and run {HOW}")
    return package.SAMAudio


class SoundReader(nn.Module):
    """What is read of a SAM-Audio model's sound side; it keeps no other part of the model.

    Args:
        model: an object with ``audio_codec``; for A1 also ``proj``; for A2 also ``transformer``,
            ``align_masked_video`` and ``vision_encoder.dim``, and for the empty text ``text_encoder``,
            ``memory_proj`` and ``timestep_emb``. Nothing else of it is touched.
        read: "A0", "A1" or "A2".
        layer: for A2: the block of the transformer, counted from 1.
        time: for A2: of the flow, 0 (noise) to 1 (separated sound).
    """

    def __init__(self, model: Any, read: str, layer: int = 1, time: float = 0.5) -> None:
        super().__init__()
        self.read, self.layer, self.time = read, layer, time
        self.codec = model.audio_codec
        if read != "A0":
            self.proj = model.proj
        if read == "A2":
            self.transformer, self.align = model.transformer, model.align_masked_video
            self.video_width, self.timestep = model.vision_encoder.dim, model.timestep_emb
            with torch.no_grad():
                text, mask = model.text_encoder.eval()([""])
                self.register_buffer("text", model.memory_proj(text))
                self.register_buffer("text_mask", mask)

    def forward(self, sounds: Tensor) -> Tensor:
        """Map sounds (b,1,n), n a multiple of the hop, to tokens (b,T,D)."""
        latents: Tensor = self.codec(sounds).transpose(1, 2)
        if self.read == "A0":
            return latents
        # What is being separated, what is to be taken out of it, and the mixture; the last is always given clean.
        mixture = torch.cat([latents, latents], dim=-1)
        projected: Tensor = self.proj(torch.cat([torch.zeros_like(mixture), torch.zeros_like(mixture), mixture], -1))
        return projected if self.read == "A1" else self._hidden(projected)

    def _hidden(self, projected: Tensor) -> Tensor:
        batch, steps, _ = projected.shape
        aligned = self.align(projected, projected.new_zeros(batch, self.video_width, steps))
        time = projected.new_full((batch,), self.time)
        assert isinstance(self.text, Tensor)
        assert isinstance(self.text_mask, Tensor)
        memory = self.text + self.timestep(time, pos=time)[:, None]
        with outputs_of([self.transformer.layers[self.layer - 1]]) as kept:
            self.transformer(
                aligned,
                time,
                padding_mask=None,
                memory=memory,
                memory_padding_mask=self.text_mask.expand(batch, -1),
            )
        return kept[0]


class PictureReader(nn.Module):
    """What is read of a SAM-Audio model's picture tower; it keeps no other part of the model.

    Args:
        model: an object with ``vision_encoder.model.visual``, a PE-Core tower. Nothing else of it is touched.
        read: "V0" or "V1".
    """

    def __init__(self, model: Any, read: str) -> None:
        super().__init__()
        self.read, self.visual = read, model.vision_encoder.model.visual

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pictures (n,3,side,side), mean and deviation 0.5, to tokens (n,S,D)."""
        if self.read == "V0":
            return normalize(self.visual(pixels).float(), dim=-1)[:, None]
        patches: Tensor = self.visual.forward_features(pixels, norm=True, strip_cls_token=True)
        return patches


class SamAudioSound(DenseAudio):
    """A0, A1 or A2 of a sound: 25 tokens a second before pooling."""

    def __init__(
        self,
        weights: Weights,
        origin: Origin,
        audio: str,
        layer: int,
        time: float,
        width: int,
        seconds: float,
        steps: int,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        super().__init__(origin, RATE, seconds, steps, width, device, options)
        self.weights, self.audio, self.layer, self.time = weights, audio, layer, time

    def load(self) -> nn.Module:
        """See :meth:`LazyTower.load`."""
        return SoundReader(sam_audio_from_folder(self.weights.folder), self.audio, self.layer, self.time)

    def tokens(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """See :meth:`DenseAudio.tokens`."""
        tower, device = self.tower()
        return encode_whole_hops(waveforms, lengths, HOP, lambda sounds: tower(sounds.to(device)))


class SamAudioPictures(DenseVisual):
    """V0 or V1 of moments of a clip."""

    def __init__(
        self,
        weights: Weights,
        origin: Origin,
        visual: str,
        tower: PeTower,
        frames: int,
        seconds: float,
        grid: int | None,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        self.weights, self.visual = weights, visual
        cells, width = (tower.size // tower.patch, tower.width) if visual == "V1" else (1, tower.embed)
        pixels = Pixels(tower.size, "squash", HALF, HALF)
        pooled = grid if visual == "V1" else None
        super().__init__(origin, pixels, frames, seconds, (cells, cells), pooled, width, device, options)

    def load(self) -> nn.Module:
        """See :meth:`LazyTower.load`."""
        return PictureReader(sam_audio_from_folder(self.weights.folder), self.visual)


def _sizes(where: str, state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Return the widths of the codec's latents and of the transformer, and the transformer's number of blocks."""
    depth = count(state, "transformer.layers.")
    if "proj.weight" not in state or not depth:
        raise McilError(f"{where} holds no SAM-Audio model (proj, transformer.layers); give facebook/sam-audio-base")
    width, given = state["proj.weight"].shape
    return given // 6, width, depth  # three times two copies of the latents


@ENCODERS.register("sam-audio")
def sam_audio(
    *,
    only: Literal["both", "audio", "visual"] = "both",
    weights: str = HUB,
    revision: str | None = None,
    audio: Literal["A0", "A1", "A2"] = "A0",
    layer: int | None = None,
    time: float = 0.5,
    steps: int = 16,
    seconds: float = 10.0,
    visual: Literal["V0", "V1"] = "V1",
    frames: int = 8,
    grid: int | None = 4,
    device: Device = "auto",
) -> list[AnyEncoder]:
    """Read SAM-Audio's representations of sounds and pictures, of the user's own installation and gated weights.

    Args:
        only: "audio" or "visual" leaves the other side of the model out.
        weights: folder with config.json and checkpoint.pt of a SAM-Audio model, or a name on the hub.
        revision: branch, tag or commit on the hub.
        audio: "A0" latents of the codec, "A1" the transformer's input projection, "A2" a hidden state of it.
        layer: of A2: the block, from 1 (or from -1, the last); the middle one where null.
        time: of A2: of the flow, from 0 (noise) to 1 (separated sound).
        steps: tokens of a sound.
        seconds: that are read of a clip, of both its sound and its pictures.
        visual: "V0" one embedding a moment, "V1" patch tokens.
        frames: moments of a clip.
        grid: rows and columns that patches are pooled to; all where null.
        device: where the networks run.

    Raises:
        McilError: the package or the weights are missing, or an option does not fit them.
    """
    if not 0 <= time <= 1:
        raise McilError(f"sam-audio: time must be from 0 to 1, but it is {time}")
    if layer is not None and audio != "A2":
        raise McilError(f"sam-audio: layer is of audio=A2; leave it out for {audio}")
    _package()
    try:
        found = find_weights("sam-audio", weights, revision, ("config.json",), ("checkpoint.pt",))
    except McilError as error:
        raise McilError(f"{error}. SAM-Audio needs {HOW}") from error
    where, state = f"sam-audio: {found.file}", read_state("sam-audio", found.file)
    latent, width, depth = _sizes(where, state)
    (block,) = chosen_layers("sam-audio", [(depth + 1) // 2 if layer is None else layer], depth)
    common = {"weights": weights, "revision": revision}

    def origin(read: str) -> Origin:
        reads = READS[read].format(layer=f"{block} of {depth}", time=time)
        return Origin("sam-audio", weights, found.revision, LICENCE, reads)

    made: list[AnyEncoder] = []
    if only != "visual":
        options: dict[str, Any] = {"only": "audio", **common, "audio": audio, "layer": layer, "time": time}
        options |= {"steps": steps, "seconds": seconds}
        made.append(
            SamAudioSound(
                found,
                origin(audio),
                audio,
                block,
                time,
                latent if audio == "A0" else width,
                seconds,
                steps,
                device,
                options,
            )
        )
    if only != "audio":
        options = {"only": "visual", **common, "visual": visual, "frames": frames}
        options |= {"seconds": seconds, "grid": grid}
        tower = plan_tower(where, state)
        made.append(SamAudioPictures(found, origin(visual), visual, tower, frames, seconds, grid, device, options))
    return made
