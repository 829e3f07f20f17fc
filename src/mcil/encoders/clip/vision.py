"""CLIP's vision transformer (Radford et al. 2021; Dosovitskiy et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcil.encoders.clip.transformer import Transformer
from mcil.encoders.tower import Adapt, Tower


class VisionTransformer(Tower):
    """Pictures (B,3,H,W), normalised, to embeddings (B,E): a place for adapters in each block.

    Attributes:
        size: H and W in pixels.
    """

    def __init__(self, size: int, patch: int, width: int, layers: int, heads: int, embed: int) -> None:
        super().__init__()
        self.size, self.width, self.widths = size, embed, (width,) * layers
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * scale)
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width) * scale)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, embed) * scale)

    def below(self, inputs: Tensor, place: int) -> Tensor:
        """Return the tokens (B,T,D) that enter block ``place``, the class token first."""
        patches = self.conv1(inputs).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        hidden: Tensor = self.transformer(tokens, range(place), None, _class_token)
        return hidden

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """See :meth:`Tower.above`; the summary is the class token."""
        tokens = self.transformer(hidden, range(place, len(self.widths)), adapt, _class_token)
        embedding: Tensor = self.ln_post(_class_token(tokens)) @ self.proj
        return embedding

    def patches(self, inputs: Tensor) -> Tensor:
        """Return the patches (B,P,E), row by row, in the space of the embedding; the class token is left out."""
        tokens = self.transformer(self.below(inputs, 0), range(len(self.widths)), None, _class_token)
        embeddings: Tensor = self.ln_post(tokens[:, 1:]) @ self.proj
        return embeddings


def _class_token(tokens: Tensor) -> Tensor:
    return tokens[:, 0]
