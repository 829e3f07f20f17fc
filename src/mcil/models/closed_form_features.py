"""Fixed features of clips: pooled tokens and random projections, the same whatever was observed before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.models.attention import audio_guided_attention
from mcil.models.closed_form_sums import FOLDS
from mcil.models.tokens import mean_step, mean_token, present_unless_all
from mcil.types import Modality

Block = Literal["audio", "visual", "guided", "audio-random", "visual-random", "guided-random", "fused-random"]

# So many numbers of a clip decide which fold it goes to.
_HASHED = 4096
# Keeps a vector without variation from being divided by 0.
_TINY = 1e-12


class ClipFeatures(nn.Module):
    """Named blocks of float64 features of a clip, none of which depends on other clips.

    - "audio", "visual": the sound, or the mean of its steps; the mean of the video's tokens.
    - "guided": the tokens pooled by audio-guided attention with random projections, as AV-CIL's network does before
      it is trained (Pian et al., ICCV 2023, eq. 2 to 4).
    - "audio-random", "visual-random", "guided-random": relu(P n(x)) of these, with normal random P (width,D) / sqrt(D)
      and n(x) the vector x minus the mean, over the deviation, of its own numbers.
    - "fused-random": the same of n(audio) and n(visual) side by side, or of the one that is read.

    Absent steps and tokens do not count. Random projections are drawn from PyTorch's global generator when the features
    are made.

    Args:
        channels: of "audio" and "visual" features, as far as there are any.
        modality: what is read.
        blocks: which features, in this order. Blocks of a modality that is not read fall away.
        random_width: features in each random block.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        modality: Modality,
        blocks: Sequence[Block],
        random_width: int = 0,
    ) -> None:
        super().__init__()
        self.modality: Modality = modality
        self.channels = {name: channels[name] for name in ("audio", "visual") if name in modality}
        self.columns: dict[Block, slice] = {}
        self.width = 0
        if any(block.startswith("guided") for block in blocks) and modality == "audio-visual":
            for name, width in self.channels.items():
                self._draw(f"attention_{name}", width, self.channels["visual"])
        for block in blocks:
            if not self.read(block):
                continue
            width = self.channels["visual"] if block.startswith("guided") else self._channels(self.read(block))
            if block.endswith("random"):
                self._draw(_projection(block), width, random_width)
                width = random_width
            self.columns[block] = slice(self.width, self.width + width)
            self.width += width

    def read(self, block: Block) -> set[str]:
        """Return the modalities that a block is made of; none where it cannot be made."""
        if block.startswith("guided"):
            return set(self.channels) if self.modality == "audio-visual" else set()
        return {name for name in self.channels if block.startswith((name, "fused"))}

    def forward(self, given: Mapping[str, Tensor]) -> dict[Block, Tensor]:
        """Return the blocks (B,width) that can be made of what is ``given``: "audio" (B,D_a) or (B,T,D_a), and "visual"
        (B,L,S,D_v).

        Raises:
            ValueError: features have another shape.
        """
        vectors = {name: self._vectors(name, clips) for name, clips in given.items()}
        if hasattr(self, "attention_visual") and len(given) > 1:
            vectors["guided"] = self._guided(vectors["audio"], given["visual"])
        found: dict[Block, Tensor] = {}
        for block in self.columns:
            if not self.read(block) <= given.keys():
                continue
            sources = ["guided"] if block.startswith("guided") else sorted(self.read(block))
            parts = [vectors[name] for name in sources]
            if block.endswith("random"):
                normalised = [_normalised(part) for part in parts]
                found[block] = torch.relu(torch.cat(normalised, dim=1) @ self.get_buffer(_projection(block)))
            else:
                (found[block],) = parts
        return found

    def folds(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the fold (B,) of each clip: a hash of its sound, or of its tokens where sound is not read.

        Clips that share a sound share a fold: they are not independent, and to be judged by its own twin
        flatters any fit. The hash reads a clip's own bits, so no order or size of batches changes it; nor do absent
        tokens, or absent steps of a sound (B,T,D), which is hashed by the sums of its steps' bits.
        """
        name = next(iter(self.channels))
        if name == "audio":
            return _folds(given[name])
        tokens, there = given[name], present_unless_all(given[name])
        if there is None:
            return _folds(tokens.flatten(start_dim=1))
        # Clips have different numbers of tokens.
        return torch.cat([_folds(clip[own].reshape(1, -1)) for clip, own in zip(tokens, there, strict=True)])

    def _vectors(self, name: str, clips: Tensor) -> Tensor:
        """Return a vector (B,D) a clip: the sound or the mean of its steps, or the mean token."""
        dimensions, form = ((2, 3), "(B,D) or (B,T,D)") if name == "audio" else ((4,), "(B,L,S,D)")
        if clips.ndim not in dimensions or clips.shape[-1] != self.channels[name]:
            raise ValueError(f"{name} must be {form} with D = {self.channels[name]}, not {tuple(clips.shape)}")
        return (mean_step if name == "audio" else mean_token)(clips, torch.float64)

    def _guided(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Return the tokens (B,L,S,D) pooled to (B,D) as the sound (B,D_a) directs."""
        tokens = visual.double()
        sound = torch.tanh(_normalised(audio) @ self.get_buffer("attention_audio"))
        look = torch.tanh(_normalised(tokens) @ self.get_buffer("attention_visual"))
        return audio_guided_attention(sound, look, tokens, present_unless_all(visual)).pooled

    def _channels(self, names: set[str]) -> int:
        return sum(self.channels[name] for name in names)

    def _draw(self, name: str, rows: int, columns: int) -> None:
        """Keep a normal random matrix that leaves the size of normalised vectors as it is."""
        self.register_buffer(name, torch.randn(rows, columns, dtype=torch.float64) / rows**0.5)


def _normalised(vectors: Tensor) -> Tensor:
    """Return vectors (...,D) minus their own mean, over their own deviation."""
    return F.layer_norm(vectors, vectors.shape[-1:], eps=_TINY)


def _folds(numbers: Tensor) -> Tensor:
    """Return the fold (B,) of each row of numbers (B,n), or of the sums of the bits of several (B,T,n)."""
    numbers = numbers[..., :: max(1, numbers.shape[-1] // _HASHED)]
    # Adding 0 makes one of the two zeros that there are, the one without bits.
    bits = (numbers.float() + 0.0).view(torch.int32)
    bits = bits.sum(dim=1) if bits.ndim == 3 else bits.long()
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator).to(bits.device)
    # Products and sum wrap around; the upper half of the result is well mixed.
    return ((bits * (2 * keys + 1)).sum(dim=1) >> 32) % FOLDS


def _projection(block: Block) -> str:
    return f"{block.removesuffix('-random')}_projection"
