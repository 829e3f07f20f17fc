"""Perception Encoders behind the encoder interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mcil.encoders.base import ENCODERS, FACTS, AnyEncoder, Device, Facts
from mcil.encoders.codec import encode_whole_hops, outputs_of
from mcil.encoders.dense import DenseAudio, DenseVisual, Origin, Pixels, chosen_layers
from mcil.encoders.pe.load import build_sound, build_tower, find_tower, plan_tower, read_sound_config
from mcil.encoders.pe.tower import PeTower
from mcil.encoders.weights import Weights, find_weights, read_state
from mcil.errors import McilError

LICENCE = "weights: Apache-2.0 (Meta, Perception Encoder)"
SOUND, TOWER = "facebook/pe-a-frame-base", "facebook/PE-Core-L14-336"
RATE = 48000
HALF = (0.5, 0.5, 0.5)

FACTS["pe"] = (
    Facts("audio", (16, 1024), 237, LICENCE, SOUND, ("model.safetensors",)),
    Facts("visual", (8, 16, 1024), 317, LICENCE, TOWER, ("PE-Core-L14-336.pt",)),
)


class PeVisual(DenseVisual):
    """Patch tokens of PE-Core, or its pooled embedding, for moments of a clip."""

    def __init__(
        self,
        weights: Weights,
        tower: PeTower,
        read: str,
        side: int,
        layers: tuple[int, ...],
        frames: int,
        seconds: float,
        grid: int | None,
        device: Device,
        options: dict[str, Any],
        named: str,
    ) -> None:
        self.weights, self.read, self.layers = weights, read, layers
        if read == "patches":
            cells, width = side // tower.patch, tower.width * len(layers)
            reads = f"patch tokens after blocks {', '.join(map(str, layers))} of {tower.depth}, the last after ln_post"
        else:
            cells, width, grid = 1, tower.embed, None
            reads = "the embedding pooled by attention, L2-normalised"
        super().__init__(
            Origin("pe", named, weights.revision, LICENCE, reads),
            Pixels(side, "squash", HALF, HALF),
            frames,
            seconds,
            (cells, cells),
            grid,
            width,
            device,
            options,
        )

    def load(self) -> nn.Module:
        """See :meth:`LazyTower.load`."""
        tower = build_tower(f"pe: {self.weights.file}", read_state("pe", self.weights.file))
        return PictureReader(tower, self.layers if self.read == "patches" else None)


class PictureReader(nn.Module):
    """What is read of a tower: patch tokens of ``layers``, or the embedding where that is None."""

    def __init__(self, tower: PeTower, layers: Sequence[int] | None) -> None:
        super().__init__()
        self.tower, self.layers = tower, layers

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (n,3,side,side) to (n,S,D)."""
        if self.layers is None:
            embedding: Tensor = self.tower(pixels)
            return embedding[:, None]
        return self.tower.patches(pixels, self.layers)


class PeAudio(DenseAudio):
    """Tokens of PE-AV's or PE-A-Frame's sound encoder, or latents of its codec; 25 a second."""

    def __init__(
        self,
        weights: Weights,
        config: Any,
        sound: str,
        layers: tuple[int, ...],
        seconds: float,
        steps: int,
        device: Device,
        options: dict[str, Any],
        named: str,
    ) -> None:
        self.weights, self.sound, self.layers, self.hop = weights, sound, layers, int(config.dac_config.hop_length)
        depth = config.num_hidden_layers
        if sound == "codec":
            width, reads = int(config.dac_config.codebook_dim), "latents of the codec before the first block"
        else:
            width = config.hidden_size * len(layers)
            reads = f"tokens after blocks {', '.join(map(str, layers))} of {depth}, the last after norm and output"
        origin = Origin("pe", named, weights.revision, LICENCE, reads)
        super().__init__(origin, RATE, seconds, steps, width, device, options)

    def load(self) -> nn.Module:
        """See :meth:`LazyTower.load`."""
        encoder = build_sound(self.weights, read_sound_config(self.weights))
        return SoundReader(encoder, self.sound, self.layers)

    def tokens(self, waveforms: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """See :meth:`DenseAudio.tokens`: one token for each begun hop of a sound."""
        tower, device = self.tower()
        return encode_whole_hops(
            waveforms, lengths, self.hop, lambda sounds: tower(sounds.to(device))[:, : sounds.shape[-1] // self.hop]
        )


class SoundReader(nn.Module):
    """What is read of transformers' ``PeAudioEncoder``."""

    def __init__(self, encoder: Any, sound: str, layers: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.sound, self.layers = encoder, sound, layers

    def forward(self, sounds: Tensor) -> Tensor:
        """Map sounds (b,1,n), n a multiple of the hop, to tokens (b,T,D)."""
        if self.sound == "codec":
            # As the encoder itself does, whose convolutions need much memory in cuDNN.
            with torch.backends.cudnn.flags(enabled=False):
                latents: Tensor = self.encoder.embedder.bottleneck(self.encoder.embedder.dac_encoder(sounds))
            return latents.transpose(1, 2)
        blocks = self.encoder.layers
        with outputs_of([blocks[layer - 1] for layer in self.layers]) as kept:
            last: Tensor = self.encoder(sounds).last_hidden_state
        # The class token stands first in each block, and is no longer there at the end.
        read = [last if layer == len(blocks) else kept[i][:, 1:] for i, layer in enumerate(self.layers)]
        return torch.cat(read, dim=-1)


@ENCODERS.register("pe")
def pe(
    *,
    only: Literal["both", "audio", "visual"] = "both",
    weights: str = SOUND,
    revision: str | None = None,
    sound: Literal["encoder", "codec"] = "encoder",
    sound_layers: list[int] | None = None,
    steps: int = 16,
    seconds: float = 10.0,
    tower: str = TOWER,
    tower_revision: str | None = None,
    read: Literal["patches", "frames"] = "patches",
    layers: list[int] | None = None,
    side: int | None = None,
    frames: int = 8,
    grid: int | None = 4,
    device: Device = "auto",
) -> list[AnyEncoder]:
    """Perception Encoders: tokens of PE-AV's sound encoder and of PE-Core's picture tower.

    Args:
        only: "audio" or "visual" looks for no weights of the other.
        weights: of sounds: folder with config.json and model.safetensors of PE-A-Frame or PE-AV, or a name on the hub.
        revision: branch, tag or commit of ``weights`` on the hub.
        sound: "encoder" reads the sound encoder, "codec" the latents of its codec, which SAM-Audio's are like.
        sound_layers: blocks of the sound encoder, from 1 (or from -1, the last), side by side; the last where null.
        steps: tokens of a sound.
        seconds: that are read of a clip, of both its sound and its pictures.
        tower: of pictures: PE-Core-L14-336.pt or another file of PE-Core, a folder that holds one, or a hub name.
        tower_revision: branch, tag or commit of ``tower`` on the hub.
        read: "patches" reads patch tokens, "frames" one pooled embedding a moment.
        layers: blocks of the picture tower, as ``sound_layers``; patches only.
        side: pixels of the square input; those of the weights where null.
        frames: moments of a clip.
        grid: rows and columns that patches are pooled to; all where null.
        device: where the networks run.

    Raises:
        McilError: weights cannot be found or read, or an option does not fit them.
    """
    if layers is not None and read == "frames":
        raise McilError("pe: layers are of read=patches; leave them out, or read patches")
    if sound_layers is not None and sound == "codec":
        raise McilError("pe: sound_layers are of sound=encoder; leave them out, or read the encoder")
    made: list[AnyEncoder] = []
    if only != "visual":
        found = find_weights("pe", weights, revision, ("config.json",), ("model.safetensors",))
        config = read_sound_config(found)
        blocks = chosen_layers("pe", sound_layers, config.num_hidden_layers)
        options: dict[str, Any] = {"only": "audio", "weights": weights, "revision": revision, "sound": sound}
        options |= {"sound_layers": sound_layers, "steps": steps, "seconds": seconds}
        made.append(PeAudio(found, config, sound, blocks, seconds, steps, device, options, weights))
    if only != "audio":
        found = find_tower(tower, tower_revision)
        planned = plan_tower(f"pe: {found.file}", read_state("pe", found.file))
        pixels = planned.size if side is None else side
        if pixels < planned.patch or pixels % planned.patch:
            raise McilError(f"pe: side must be a multiple of {planned.patch}, the side of a patch, but it is {pixels}")
        blocks = chosen_layers("pe", layers, planned.depth)
        options = {"only": "visual", "tower": tower, "tower_revision": tower_revision, "read": read, "layers": layers}
        options |= {"side": side, "frames": frames, "seconds": seconds, "grid": grid}
        made.append(PeVisual(found, planned, read, pixels, blocks, frames, seconds, grid, device, options, tower))
    return made
