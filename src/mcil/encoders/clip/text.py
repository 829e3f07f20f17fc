"""CLIP's text transformer (Radford et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcil.encoders.clip.transformer import Transformer
from mcil.encoders.tower import Adapt, Tower


class TextTransformer(Tower):
    """Token ids (B,T), T at most ``context``, to embeddings (B,E): a place for adapters in each block.

    The end of a text is the largest id in it. What stands behind the end changes nothing: ids may be cut to the longest
    text of a batch.

    Attributes:
        vocabulary: number of token ids.
        context: longest text in tokens.
    """

    def __init__(self, vocabulary: int, context: int, width: int, layers: int, heads: int, embed: int) -> None:
        super().__init__()
        self.vocabulary, self.context, self.width, self.widths = vocabulary, context, embed, (width,) * layers
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width) * 0.01)
        self.transformer = Transformer(width, layers, heads, causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, embed) * width**-0.5)

    def below(self, inputs: Tensor, place: int) -> Tensor:
        """Return the tokens that enter block ``place``, with one channel more that is 1 at the end of the text.

        So the hidden tensor (B, T, D + 1) says by itself where the text ends, whoever keeps it and gathers from it.
        """
        tokens = self.token_embedding(inputs) + self.positional_embedding[: inputs.shape[1]]
        ends = nn.functional.one_hot(inputs.argmax(dim=1), inputs.shape[1])[..., None]
        hidden = self.transformer(tokens, range(place), None, lambda h: h)
        return torch.cat([hidden, ends.to(hidden.dtype)], dim=-1)

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """See :meth:`Tower.above`; the summary is the end-of-text token."""
        rows, ends = torch.arange(len(hidden), device=hidden.device), hidden[..., -1].argmax(dim=1)
        tokens = self.transformer(hidden[..., :-1], range(place, len(self.widths)), adapt, lambda h: h[rows, ends])
        embedding: Tensor = self.ln_final(tokens[rows, ends]) @ self.text_projection
        return embedding
