"""Fixed features of clips: pooled tokens and random projections, the same whatever was observed before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.models.closed_form_sums import FOLDS
from mcil.types import Modality

Block = Literal["audio", "visual", "audio-random", "visual-random", "fused-random"]

# So many numbers of a clip decide which fold it goes to.
_HASHED = 4096
# Keeps a vector without variation from being divided by 0.
_TINY = 1e-12


class ClipFeatures(nn.Module):
    """Named blocks of float64 features of a clip, none of which depends on other clips.

    - "audio", "visual": the sound; the mean of the video's tokens.
    - "audio-random", "visual-random": relu(P n(x)) of these, with normal random P (width,D) / sqrt(D) and n(x) the
      vector x minus the mean, over the deviation, of its own numbers.
    - "fused-random": the same of n(audio) and n(visual) side by side, or of the one that is read.

    Args:
        channels: of "audio" and "visual" features, as far as there are any.
        modality: what is read.
        blocks: which features, in this order. Blocks of a modality that is not read fall away.
        random_width: features in each random block.
        seed: of the random projections.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        modality: Modality,
        blocks: Sequence[Block],
        random_width: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.modality: Modality = modality
        self.channels = {name: channels[name] for name in ("audio", "visual") if name in modality}
        self.columns: dict[Block, slice] = {}
        self.width = 0
        generator = torch.Generator().manual_seed(seed)
        for block in blocks:
            width = sum(self.channels[name] for name in self.read(block))
            if not width:
                continue
            if block.endswith("random"):
                projection = torch.randn(width, random_width, dtype=torch.float64, generator=generator)
                self.register_buffer(_projection(block), projection / width**0.5)
                width = random_width
            self.columns[block] = slice(self.width, self.width + width)
            self.width += width

    def read(self, block: Block) -> set[str]:
        """Return the modalities that a block is made of."""
        return {name for name in self.channels if block.startswith((name, "fused"))}

    def forward(self, given: Mapping[str, Tensor]) -> dict[Block, Tensor]:
        """Return the blocks (B,width) that can be made of what is ``given``: "audio" (B,D_a), "visual" (B,L,S,D_v).

        Raises:
            ValueError: features have another shape.
        """
        vectors = {name: self._vectors(name, clips) for name, clips in given.items()}
        found: dict[Block, Tensor] = {}
        for block in self.columns:
            parts = [vectors[name] for name in self.channels if name in self.read(block) & vectors.keys()]
            if len(parts) < len(self.read(block)):
                continue
            if block.endswith("random"):
                normalised = [F.layer_norm(part, part.shape[-1:], eps=_TINY) for part in parts]
                found[block] = torch.relu(torch.cat(normalised, dim=1) @ self.get_buffer(_projection(block)))
            else:
                (found[block],) = parts
        return found

    def folds(self, given: Mapping[str, Tensor]) -> Tensor:
        """Return the fold (B,) of each clip: a hash of its sound, or of its tokens where sound is not read.

        Clips that share a sound share a fold: they are not independent, and to be judged by its own twin
        flatters any fit. The hash reads a clip's own bits, so no order or size of batches changes it.
        """
        numbers = given[next(iter(self.channels))].flatten(start_dim=1)
        numbers = numbers[:, :: max(1, numbers.shape[1] // _HASHED)]
        # Adding 0 makes one of the two zeros that there are.
        bits = (numbers.float() + 0.0).view(torch.int32).long()
        generator = torch.Generator().manual_seed(0)
        keys = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator).to(bits.device)
        # Products and sum wrap around; the upper half of the result is well mixed.
        return ((bits * (2 * keys + 1)).sum(dim=1) >> 32) % FOLDS

    def _vectors(self, name: str, clips: Tensor) -> Tensor:
        """Return a vector (B,D) a clip: the sound, or the mean token."""
        dimensions, form = (2, "(B,D)") if name == "audio" else (4, "(B,L,S,D)")
        if clips.ndim != dimensions or clips.shape[-1] != self.channels[name]:
            raise ValueError(f"{name} must be {form} with D = {self.channels[name]}, not {tuple(clips.shape)}")
        return clips.double() if name == "audio" else clips.mean(dim=(1, 2), dtype=torch.float64)


def _projection(block: Block) -> str:
    return f"{block.removesuffix('-random')}_projection"
