"""PE-Core's picture tower in plain torch, with the names of the published weights (Bolya et al., arXiv 2504.13181)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, normalize, scaled_dot_product_attention

POOL_HEADS = 8
THETA = 10000.0


class PeTower(nn.Module):
    """Pictures (B,3,H,W), mean and deviation 0.5, to patch tokens or to one embedding each.

    Attributes:
        size: H and W that it was trained with, in pixels; others need only be multiples of ``patch``.
        patch: H and W of a patch, in pixels.
        width: D, of tokens.
        embed: E, of the embedding.
        depth: number of blocks.
    """

    def __init__(
        self, size: int, patch: int, width: int, layers: int, heads: int, hidden: int, embed: int, class_token: bool
    ) -> None:
        super().__init__()
        self.size, self.patch, self.width, self.embed, self.depth = size, patch, width, embed, layers
        self._heads, self._side, scale = heads, size // patch, width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * scale) if class_token else None
        self.positional_embedding = nn.Parameter(torch.randn(self._side**2 + class_token, width) * scale)
        self.ln_pre = nn.LayerNorm(width)
        blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_post = nn.LayerNorm(width)
        self.attn_pool = AttentionPool(width)
        self.proj = nn.Parameter(torch.randn(width, embed) * scale)

    def blocks(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return the tokens (B,[1+]S,D), the class token first, after the blocks of ``layers``, counted from 1.

        After the last block they are normalised, as everything reads them that was trained on top of this tower.
        """
        patches = self.conv1(pixels)
        rows, columns = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        angles = grid_angles(rows, columns, self.width // self._heads, tokens.device)
        if self.class_embedding is not None:
            tokens = torch.cat([self.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], dim=1)
            angles = torch.cat([torch.zeros_like(angles[:1]), angles])
        tokens = self.ln_pre(tokens + self._positions(rows, columns))
        blocks = self.transformer["resblocks"]
        assert isinstance(blocks, nn.ModuleList)
        found = {}
        for number, block in enumerate(blocks[: max(layers)], start=1):
            tokens = block(tokens, angles)
            found[number] = self.ln_post(tokens) if number == self.depth else tokens
        return [found[layer] for layer in layers]

    def patches(self, pixels: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Return the patch tokens (B,S,D), row by row; of several blocks side by side (B,S,D_1+D_2+...).

        Args:
            pixels: (B,3,H,W).
            layers: which blocks, counted from 1; the last, after the final norm, where None.
        """
        first = 0 if self.class_embedding is None else 1
        return torch.cat([tokens[:, first:] for tokens in self.blocks(pixels, layers or (self.depth,))], dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the embedding (B,E), pooled by attention over all tokens and of length 1."""
        (tokens,) = self.blocks(pixels, (self.depth,))
        return normalize(self.attn_pool(tokens) @ self.proj, dim=-1)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return what is added to the tokens ([1+]S,D); another grid than the trained one is resized, bilinear."""
        if (rows, columns) == (self._side, self._side):
            return self.positional_embedding
        first = 0 if self.class_embedding is None else 1
        maps = self.positional_embedding[first:].T.reshape(1, self.width, self._side, self._side)
        resized = interpolate(maps, (rows, columns), mode="bilinear", align_corners=False)
        return torch.cat([self.positional_embedding[:first], resized[0].flatten(1).T])


class Block(nn.Module):
    """x -> h = x + attention(LN x) -> h + MLP(LN h)."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), RotaryAttention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, tokens: Tensor, angles: Tensor) -> Tensor:
        """Map tokens (B,T,D) at places with ``angles`` to (B,T,D)."""
        h: Tensor = tokens + self.attn(self.ln_1(tokens), angles)
        output: Tensor = h + self.mlp(self.ln_2(h))
        return output


class RotaryAttention(nn.Module):
    """Self-attention whose queries and keys are turned by the angles of their places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, angles: Tensor) -> Tensor:
        """Map tokens (B,T,D) to (B,T,D); ``angles`` (T, half a head's width)."""
        batch, length, width = tokens.shape
        qkv = nn.functional.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        query, key, value = qkv.reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(turn(query, angles), turn(key, angles), value)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class Mlp(nn.Module):
    """A hidden layer with GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (...,D) to (...,D)."""
        output: Tensor = self.c_proj(gelu(self.c_fc(x)))
        return output


class AttentionPool(nn.Module):
    """One vector of all tokens: a learnt query attends to them, then h + MLP(LN h)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, width) * width**-0.5)
        self.attn = nn.MultiheadAttention(width, POOL_HEADS, batch_first=True)
        self.layernorm, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens (B,T,D) to (B,D)."""
        probe = self.probe.to(tokens.dtype).expand(len(tokens), -1, -1)
        h = self.attn(probe, tokens, tokens, need_weights=False)[0]
        output: Tensor = (h + self.mlp(self.layernorm(h)))[:, 0]
        return output


def grid_angles(rows: int, columns: int, head: int, device: torch.device) -> Tensor:
    """Return the angles of each place's rotations, row by row: (rows * columns, head / 2).

    The first half of a head turns with the column, the second with the row, both counted from 1, since 0 is the class
    token's. The i-th of n pairs of numbers turns by place * 10000^(-i / n).
    """
    pairs = head // 4
    speeds = THETA ** (-torch.arange(pairs, device=device) / pairs)
    down, across = (torch.arange(1, count + 1, device=device)[:, None] * speeds for count in (rows, columns))
    return torch.cat([across.repeat(rows, 1), down.repeat_interleave(columns, dim=0)], dim=-1)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring pairs of numbers of x (B,heads,T,head) by ``angles`` (T, head / 2)."""
    first, second = x.float()[..., 0::2], x.float()[..., 1::2]
    cosine, sine = angles.cos(), angles.sin()
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).to(x.dtype)
