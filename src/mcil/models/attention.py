"""Attention over the tokens of a video, guided by its sound."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Attended(NamedTuple):
    """``pooled`` (B,D), with the weights ``spatial`` (B,L,S,D) over S and ``temporal`` (B,L,D) over L."""

    pooled: Tensor
    spatial: Tensor
    temporal: Tensor


def audio_guided_attention(audio: Tensor, visual: Tensor, tokens: Tensor) -> Attended:
    """Pool ``tokens`` (B,L,S,D) to (B,D), first over patches, then over frames, as the audio directs.

    ``audio`` (B,D) and ``visual`` (B,L,S,D) are projections of the clip's features; each channel has its own
    attention, a softmax of their product. Of the big tensors only ``visual``, ``tokens`` and the spatial
    weights are kept for the backward pass. Source: Pian et al., ICCV 2023, eq. 2 to 4.
    """
    spatial = softmax(visual * audio[:, None, None, :], dim=2)
    frames = (spatial * visual).sum(dim=2)
    temporal = softmax(frames * audio[:, None, :], dim=1)
    pooled = (temporal * (spatial * tokens).sum(dim=2)).sum(dim=1)
    return Attended(pooled, spatial, temporal)


def softmax(scores: Tensor, dim: int) -> Tensor:
    """Softmax in float32 at least, on every device: autocast sees to that on some only."""
    return torch.softmax(scores, dim, dtype=torch.promote_types(scores.dtype, torch.float32))
