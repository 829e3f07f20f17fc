"""Tokens that a clip does not have are zeros, whatever they went through; and small things that networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def present(tokens: Tensor) -> Tensor:
    """Return which tokens (...,D) a clip has: bool (...). One whose numbers are all 0 is padding."""
    return (tokens != 0).any(dim=-1)


def mean_step(audio: Tensor) -> Tensor:
    """Return a sound as one vector (B,D): itself, or the mean of the steps that it has where it is (B,T,D)."""
    if audio.ndim != 3:
        return audio
    # Absent steps are zeros and add nothing; a sound without any stays zero.
    return audio.sum(dim=1) / present(audio).sum(dim=1, keepdim=True).clamp_min(1)


def unit(feature: Tensor | None) -> Tensor | None:
    """L2-normalise (...,D) in float32 at least: contrastive temperatures magnify what a narrow type rounds off."""
    if feature is None:
        return None
    return F.normalize(feature.to(torch.promote_types(feature.dtype, torch.float32)), dim=-1)
