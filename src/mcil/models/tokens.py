"""Tokens that a clip does not have are zeros, whatever they went through; and small things that networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def present(tokens: Tensor) -> Tensor:
    """Return which tokens (...,D) a clip has: bool (...). One whose numbers are all 0 is padding."""
    return tokens.any(dim=-1)


def present_unless_all(features: Tensor) -> Tensor | None:
    """Return which tokens of features (N,...,D) are there, bool (N,...); None where all are, which is cheap to see.

    A vector each, (N,D) or pictures (N,1,1,D), is no token: it is there even if all of its numbers are 0.
    """
    if features.ndim == 2 or (features.ndim == 4 and features.shape[1:3] == (1, 1)):
        return None
    # One channel of all tokens is read first: those that are absent begin with 0, and others hardly ever do.
    maybe = features[..., 0] == 0
    there = ~maybe
    there[maybe] = present(features[maybe])
    return None if there.all() else there


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
    mean, there = visual.mean(dim=(1, 2), dtype=dtype), present_unless_all(visual)
    if there is None:
        return mean
    count = there.sum(dim=(1, 2))[:, None].clamp_min(1).to(mean.dtype)
    # Times exactly 1 for clips of which none is absent.
    return mean * (visual.shape[1] * visual.shape[2] / count)


def unit(feature: Tensor | None) -> Tensor | None:
    """L2-normalise (...,D) in float32 at least: contrastive temperatures magnify what a narrow type rounds off."""
    if feature is None:
        return None
    return F.normalize(feature.to(torch.promote_types(feature.dtype, torch.float32)), dim=-1)
