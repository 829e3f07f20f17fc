"""Tokens that a clip does not have are zeros, whatever they went through; and small things that networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def present(tokens: Tensor) -> Tensor:
    """Return which tokens (...,D) a clip has: bool (...). One whose numbers are all 0 is padding."""
    return tokens.any(dim=-1)


def mean_step(audio: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a sound as one vector (B,D): itself, or the mean of the steps that it has where it is (B,T,D).

    Computed in ``dtype``, in that of the sound where None. A sound without any step is 0.
    """
    if audio.ndim != 3:
        return audio if dtype is None else audio.to(dtype)
    # Absent steps are zeros and add nothing.
    return audio.sum(dim=1, dtype=dtype) / present(audio).sum(dim=1, keepdim=True).clamp_min(1)


def mean_token(visual: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the mean (B,D) of the tokens that pictures (B,L,S,D) have; 0 where they have none.

    Computed in ``dtype``, in that of the tokens where None.
    """
    mean = visual.mean(dim=(1, 2), dtype=dtype)
    count = present(visual).sum(dim=(1, 2))[:, None].clamp_min(1).to(mean.dtype)
    # Times exactly 1 where none is absent.
    return mean * (visual.shape[1] * visual.shape[2] / count)


def unit(feature: Tensor | None) -> Tensor | None:
    """L2-normalise (...,D) in float32 at least: contrastive temperatures magnify what a narrow type rounds off."""
    if feature is None:
        return None
    return F.normalize(feature.to(torch.promote_types(feature.dtype, torch.float32)), dim=-1)
