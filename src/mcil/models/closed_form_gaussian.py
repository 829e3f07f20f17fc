"""Classes as normal distributions around their means: nearest class mean and linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcil.models.closed_form import LinearNet, Scores
from mcil.models.closed_form_features import Block, ClipFeatures
from mcil.models.closed_form_ridge import choose_penalties
from mcil.models.closed_form_sums import Standardised, Sums


class NearestMeanNet(LinearNet):
    """Nearest class mean in Euclidean distance of standardised features, in which each modality weighs the same."""

    def fit(self, clips: Sums, blocks: Sequence[Block]) -> Scores:
        """Return minus half the squared distances to the class means, without what all classes share."""
        weigh = torch.zeros_like(self.scale)
        for block in blocks:
            columns = self.features.columns[block]
            weigh[columns] = 1 / (columns.stop - columns.start)
        means = _means(clips)
        return Scores((means * weigh).T, -(means**2) @ weigh / 2)


class DiscriminantNet(LinearNet):
    """Linear discriminant analysis: normal distributions with one covariance, shrunk towards the identity.

    Args:
        features: computes the features.
        classes: number of classes.
        shrinkage: share e of the identity in (1 - e) * covariance + e * identity, or None to choose. Ridge regression
            of one-hot labels finds the same discriminants, with its penalty a clip in the place of e / (1 - e)
            (Hastie, Buja and Tibshirani 1995): the penalty that cross-validation chooses is taken.
    """

    share: Tensor

    def __init__(self, features: ClipFeatures, classes: int, shrinkage: float | None = None) -> None:
        super().__init__(features, classes)
        self.shrinkage = shrinkage
        self.register_buffer("share", torch.zeros((), dtype=torch.float64))

    def choose(self, clips: Standardised) -> None:
        """Choose the shrinkage, with all modalities."""
        share = self.shrinkage
        if share is None:
            ((penalty,),) = choose_penalties(clips, [[slice(0, self.width)]])
            share = penalty / (float(clips.all.clips) + penalty)
        self.share.fill_(share)

    def fit(self, clips: Sums, blocks: Sequence[Block]) -> Scores:
        """Return the logarithms of the posterior probabilities of equally likely classes, up to a constant."""
        own = slice(self.features.columns[blocks[0]].start, self.features.columns[blocks[-1]].stop)
        means = _means(clips)
        free = (clips.clips - clips.count.count_nonzero()).clamp_min(1)
        within = (clips.gram - means.T @ clips.sums)[own, own] / free
        covariance = (1 - self.share) * within
        covariance.diagonal().add_(self.share)
        weights = torch.zeros_like(means.T)
        weights[own] = torch.cholesky_solve(means[:, own].T, torch.linalg.cholesky(covariance))
        return Scores(weights, -(means.T * weights).sum(dim=0) / 2)


def _means(clips: Sums) -> Tensor:
    """Return the class means (C,D), 0 where a class has no clips."""
    return clips.sums / clips.count.clamp_min(1)[:, None]
