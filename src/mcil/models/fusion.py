"""Adaptive audio-visual fusion with a masking threshold (AAVFM)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Masking = Literal["calibrated", "learned", "fixed", "none"]

_HIDDEN = 512
# How fast the calibrated threshold follows its quantile: after 200 batches it has forgotten where it began.
_CALIBRATION = 0.02
# Width of the learnt threshold's soft edge, in units of the correlation.
_EDGE = 0.1


class Fused(NamedTuple):
    """``feature`` (B,E), not normalised; ``unmasked`` (B,): the weight of the sound; 0 is masked."""

    feature: Tensor
    unmasked: Tensor


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation (B,) over the channels of two features (B,E)."""
    first, second = first - first.mean(dim=1, keepdim=True), second - second.mean(dim=1, keepdim=True)
    return F.cosine_similarity(first, second, dim=1)


class AdaptiveFusion(nn.Module):
    """Let the picture attend to picture and sound, unless the sound says something else than the picture.

    With unit vectors v and a, weights w_v and w_a and a learnt sharpness s: attention of v over the two tokens
    w_v v and w_a a gives o; the feature is o + MLP([o; w_a a]). Where the correlation r of v and a is below the
    threshold the sound is masked: the feature is v. Source: the masking threshold, weights, concatenation,
    cross-attention and MLP are those that MCIL-AudioCLIP (ICASSP 2025) names; its released code cannot run them (the
    attention is taken over the clips of a batch and its shapes do not fit), so how they are put together is ours. The
    MLP adds to o and begins at zero, so that a network begins with what its towers know.

    Args:
        width: E.
        masking: "fixed": the threshold is ``threshold``; "calibrated": it is moved in training such that ``share`` of
            the training clips are masked; "learned": it is a weight, which begins at 0, with a soft edge; "none":
            nothing is masked.
        threshold: on r, where it is fixed.
        share: of training clips that a calibrated threshold masks.
        batch_gate: the mean of r over the batch decides for all its clips, as in the release; a prediction then
            depends on what else is in the batch.
    """

    threshold: Tensor

    def __init__(
        self,
        width: int,
        masking: Masking = "learned",
        threshold: float = 0.8,
        share: float = 0.1,
        batch_gate: bool = False,
    ) -> None:
        super().__init__()
        self.masking, self.share, self.batch_gate = masking, share, batch_gate
        self.visual_weight, self.audio_weight = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.sharpness = nn.Parameter(torch.ones(()))
        last = nn.Linear(_HIDDEN, width)
        self.mlp = nn.Sequential(nn.Linear(2 * width, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        value = torch.tensor(threshold if masking == "fixed" else 0.0)
        if masking == "learned":
            self.threshold = nn.Parameter(value)
        else:
            self.register_buffer("threshold", value)

    def forward(self, visual: Tensor, audio: Tensor) -> Fused:
        """Fuse unit vectors ``visual`` and ``audio`` (B,E)."""
        weighted = self.audio_weight * audio
        tokens = torch.stack([self.visual_weight * visual, weighted], dim=1)
        attention = (self.sharpness * (tokens @ visual[:, :, None])).softmax(dim=1)
        attended = (attention * tokens).sum(dim=1)
        both = attended + self.mlp(torch.cat([attended, weighted], dim=1))
        unmasked = self._unmasked(correlation(visual, audio))
        return Fused(unmasked[:, None] * both + (1 - unmasked[:, None]) * visual, unmasked)

    def _unmasked(self, agreement: Tensor) -> Tensor:
        """Return 1 (or nearly, for a learnt threshold) where r (B,) is not below the threshold, else 0."""
        if self.masking == "none":
            return torch.ones_like(agreement)
        if self.batch_gate:
            agreement = agreement.mean().expand_as(agreement)
        if self.masking == "learned":
            return torch.sigmoid((agreement - self.threshold) / _EDGE)
        if self.masking == "calibrated" and self.training and self.visual_weight.requires_grad:
            with torch.no_grad():  # a step down the quantile's own loss
                below = (agreement.detach() < self.threshold).float().mean()
                self.threshold += _CALIBRATION * (self.share - below)
        return (agreement >= self.threshold).to(agreement.dtype)


class Concatenation(nn.Module):
    """A linear layer over both vectors side by side: the plain fusion to compare with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)

    def forward(self, visual: Tensor, audio: Tensor) -> Fused:
        """Fuse ``visual`` and ``audio`` (B,E)."""
        return Fused(self.linear(torch.cat([visual, audio], dim=1)), torch.ones_like(visual[:, 0]))


class Sum(nn.Module):
    """The sum of both vectors: what a space that sound and picture share needs no training for."""

    def forward(self, visual: Tensor, audio: Tensor) -> Fused:
        """Fuse ``visual`` and ``audio`` (B,E)."""
        return Fused(visual + audio, torch.ones_like(visual[:, 0]))
