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


def audio_guided_attention(audio: Tensor, visual: Tensor, tokens: Tensor, there: Tensor | None = None) -> Attended:
    """Pool ``tokens`` (B,L,S,D) to (B,D), first over patches, then over frames, as the audio directs.

    ``audio`` (B,D) and ``visual`` (B,L,S,D) are projections of the clip's features; each channel has its own
    attention, a softmax of their product. Tokens that are not ``there`` (B,L,S), frames without any and clips without
    any get weights of 0, and such a clip is 0; where it is None all are there. Of the big tensors only ``visual``,
    ``tokens`` and the spatial weights are kept for the backward pass. Source: Pian et al., ICCV 2023, eq. 2 to 4.
    """
    spatial = _weights(visual * audio[:, None, None, :], there, dim=2)
    frames = (spatial * visual).sum(dim=2)
    temporal = _weights(frames * audio[:, None, :], None if there is None else there.any(dim=2), dim=1)
    pooled = (temporal * (spatial * tokens).sum(dim=2)).sum(dim=1)
    return Attended(pooled, spatial, temporal)


def softmax(scores: Tensor, dim: int) -> Tensor:
    """Softmax in float32 at least, on every device: autocast sees to that on some only."""
    return torch.softmax(scores, dim, dtype=torch.promote_types(scores.dtype, torch.float32))


def masked_softmax(scores: Tensor, there: Tensor, dim: int) -> Tensor:
    """Return the softmax of what is ``there``, in float32 at least, and 0 elsewhere; all 0 where nothing is."""
    lowest = torch.finfo(torch.promote_types(scores.dtype, torch.float32)).min
    widened = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~there, lowest)
    return softmax(widened, dim).masked_fill(~there, 0.0)


def _weights(scores: Tensor, there: Tensor | None, dim: int) -> Tensor:
    """Return the softmax of scores (...,D) of what is ``there`` (...), of all where that is None."""
    return softmax(scores, dim) if there is None else masked_softmax(scores, there[..., None], dim)
