"""The pre-norm transformer of CLIP's towers, with a place for an adapter in each block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mcil.encoders.tower import Adapt


class Attention(nn.Module):
    """Self-attention with fused query, key and value; causal where each token sees only those before it and itself."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B,T,D) to (B,T,D)."""
        batch, length, width = tokens.shape
        qkv = nn.functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        query, key, value = qkv.reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class Block(nn.Module):
    """x -> h = x + attention(LN x) -> h + MLP(LN h), with x * sigmoid(1.702 x) in the MLP."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        self.ln_2 = nn.LayerNorm(width)

    def attend(self, tokens: Tensor) -> Tensor:
        """The first half: return h (B,T,D), which adapters see."""
        attended: Tensor = self.attn(self.ln_1(tokens))
        return tokens + attended

    def forward(self, h: Tensor) -> Tensor:
        """The second half, of h (B,T,D)."""
        hidden = self.mlp["c_fc"](self.ln_2(h))
        update: Tensor = self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))
        return h + update


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, causal) for _ in range(layers))

    def forward(
        self, tokens: Tensor, places: Sequence[int], adapt: Adapt | None, summarise: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Send tokens (B,T,D) through the blocks of ``places``, adding what ``adapt`` says; see :class:`Tower`."""
        for place in places:
            block = self.resblocks[place]
            assert isinstance(block, Block)
            h = block.attend(tokens)
            tokens = block(h)
            if adapt is not None:
                tokens = tokens + adapt(place, h, summarise(h))
        return tokens
