"""Tokens that a clip does not have: zeros, whatever encoder or scaler they went through."""

from __future__ import annotations

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
