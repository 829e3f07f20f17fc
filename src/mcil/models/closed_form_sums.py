"""Sums over clips that closed-form methods keep, and least squares from such sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor, nn

# Clips are dealt into so many folds, so that a penalty can be judged by clips that it was not fitted to.
FOLDS = 2
# A feature that varies less than this share of its block's median feature counts as varying that much.
_FLOOR = 0.01
# With fewer clips than this share of the features, systems of the clips' size are the faster ones.
_FEW = 0.6
# Below this share of a feature's magnitude, variation cannot be told from rounding.
_ROUNDING = 1e-6


class FoldSums(nn.Module):
    """Running sums of features (D) by fold and class: ``count`` (F,C), ``sums`` (F,C,D) and ``gram`` (F,D,D).

    Sums do not depend on the order in which clips come, so neither does anything that is computed from them.
    """

    count: Tensor
    sums: Tensor
    gram: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(FOLDS, classes, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(FOLDS, classes, width, dtype=torch.float64))
        self.register_buffer("gram", torch.zeros(FOLDS, width, width, dtype=torch.float64))

    def grow(self, classes: int) -> None:
        """Make room for ``classes`` classes.

        Raises:
            ValueError: there are more classes already.
        """
        old = self.count.shape[1]
        if classes < old:
            raise ValueError(f"there are {old} classes already and there cannot be fewer: {classes}")
        self.count = torch.cat([self.count, self.count.new_zeros(FOLDS, classes - old)], dim=1)
        self.sums = torch.cat([self.sums, self.sums.new_zeros(FOLDS, classes - old, self.sums.shape[2])], dim=1)

    def add(self, features: Tensor, labels: Tensor, folds: Tensor) -> None:
        """Add clips: float64 ``features`` (B,D), ``labels`` (B,), ``folds`` (B,)."""
        for fold in range(FOLDS):
            chosen = folds == fold
            own, classes = features[chosen], labels[chosen]
            self.count[fold].index_add_(0, classes, own.new_ones(len(own)))
            self.sums[fold].index_add_(0, classes, own)
            self.gram[fold].addmm_(own.T, own)


@dataclass(frozen=True)
class Sums:
    """Sums over some clips: ``count`` (C), ``sums`` (C,D) of each class's features, ``gram`` (D,D) of all."""

    count: Tensor
    sums: Tensor
    gram: Tensor

    @property
    def clips(self) -> Tensor:
        """Number of clips, a scalar tensor."""
        return self.count.sum()

    @cached_property
    def regression(self) -> LeastSquares:
        """Least squares from these sums."""
        return LeastSquares(self)

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.sums + other.sums, self.gram + other.gram)

    def shifted(self, origin: Tensor) -> Sums:
        """Return the sums of the features minus ``origin`` (D)."""
        total = self.sums.sum(dim=0)
        gram = self.gram.addr(origin, total, alpha=-1).addr_(total - self.clips * origin, origin, alpha=-1)
        return Sums(self.count, self.sums - torch.outer(self.count, origin), gram)

    def scaled(self, scale: Tensor) -> Sums:
        """Return the sums of the features times ``scale`` (D)."""
        return Sums(self.count, self.sums * scale, self.gram * torch.outer(scale, scale))


@dataclass(frozen=True)
class Standardised:
    """Folds of features that were standardised by the mean and deviation over all clips of all folds.

    ``mean`` and ``scale`` (D) turn a feature x into (x - mean) * scale; ``folds`` are the sums of the results.
    """

    mean: Tensor
    scale: Tensor
    folds: tuple[Sums, ...]

    @cached_property
    def all(self) -> Sums:
        """Sums over all clips."""
        first, *others = self.folds
        return sum(others, first)

    @property
    def halves(self) -> list[tuple[Sums, Sums]]:
        """Clips to fit and others to judge by, in both ways; all clips for both where a fold is empty."""
        if not all(fold.clips > 0 for fold in self.folds):
            return [(self.all, self.all)]
        return list(permutations(self.folds, 2))


def standardise(sums: FoldSums, blocks: Sequence[slice]) -> Standardised:
    """Return the sums of standardised features; ``blocks`` are the columns of features that are of one kind.

    Raises:
        ValueError: nothing was observed.
    """
    if not sums.count.any():
        raise ValueError("no clip was observed: there is nothing to solve")
    folds = [Sums(*fold) for fold in zip(sums.count, sums.sums, sums.gram, strict=True)]
    everything = sum(folds[1:], folds[0])
    mean = everything.sums.sum(dim=0) / everything.clips
    square = everything.gram.diagonal() / everything.clips
    deviation = (square - mean**2).clamp_min(0).sqrt()
    deviation = torch.where(deviation > _ROUNDING * square.sqrt(), deviation, 0)
    scale = torch.cat([1 / _floored(deviation[block]) for block in blocks])
    return Standardised(mean, scale, tuple(fold.shifted(mean).scaled(scale) for fold in folds))


def _floored(deviation: Tensor) -> Tensor:
    """Return deviations (D) of a block that one may divide by: constant features must not become noise."""
    varying = deviation[deviation > 0]
    return deviation.clamp_min(_FLOOR * varying.median()) if len(varying) else torch.ones_like(deviation)


class LeastSquares:
    """Regression of one-hot labels on features, with intercept, from the sums over the clips.

    Attributes:
        origin: (D) mean of the features.
        share: (C) of the clips in each class, the mean of the one-hot labels.
        gram: (D,D) of the features minus their mean.
        cross: (D,C), these features times the one-hot labels.
    """

    def __init__(self, clips: Sums) -> None:
        self.clips = float(clips.clips)
        self.origin = clips.sums.sum(dim=0) / clips.clips
        self.share = clips.count / clips.clips
        centred = clips.shifted(self.origin)
        self.gram, self.cross = centred.gram, centred.sums.T

    def ridge(self, columns: slice, penalty: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Return the weights (columns,C) that fit what ``earlier`` (D,C) leave of the labels, penalised (columns).

        ``earlier`` must be None where there are no weights before these.
        """
        target = self.cross[columns]
        if earlier is not None:
            target = target - self.gram[columns] @ earlier
        if self.factor is None:
            penalised = self.gram[columns, columns].clone()
            penalised.diagonal().add_(penalty)
            return torch.cholesky_solve(target, torch.linalg.cholesky(penalised))
        # Woodbury's identity: a system of as many equations as the factor has rows.
        factor, target = self.factor[:, columns], target / penalty[:, None]
        inner = (factor / penalty) @ factor.T
        inner.diagonal().add_(1)
        return target - (factor.T / penalty[:, None]) @ torch.cholesky_solve(
            factor @ target, torch.linalg.cholesky(inner)
        )

    @cached_property
    def factor(self) -> Tensor | None:
        """(R,D), R at most the number of clips, such that factor' factor is the Gram matrix; None where R is no less.

        With fewer clips than features the Gram matrix has few independent rows, and a pivoted Cholesky decomposition
        of those costs little.
        """
        if self.clips > _FEW * len(self.gram):
            return None
        # LAPACK reads column by column; to a symmetric matrix that makes no difference.
        lower, pivots, rank, _ = lapack.dpstrf(self.gram.cpu().numpy().T, lower=1)
        factor = torch.zeros(rank, len(self.gram), dtype=self.gram.dtype)
        factor[:, torch.from_numpy(pivots).long() - 1] = torch.from_numpy(np.tril(lower[:, :rank]).T.copy())
        return factor.to(self.gram.device)


class HeldOut:
    """Clips that ``regression`` was not fitted to, to judge its weights by."""

    def __init__(self, regression: LeastSquares, clips: Sums) -> None:
        moved, share = clips.shifted(regression.origin), regression.share
        self.gram = moved.gram
        # The labels, too, minus their mean in the regression.
        self.cross = moved.sums.T - torch.outer(moved.sums.sum(dim=0), share)
        self.square = clips.clips * (1 + share @ share) - 2 * (share @ clips.count)

    def error(self, weights: Tensor, end: int | None = None) -> float:
        """Return the sum of squared errors of the scores by ``weights`` (D,C), over clips and classes.

        Weights from row ``end`` on are known to be 0.
        """
        own, gram = weights[:end], self.gram[:end, :end]
        return float(self.square - 2 * (own * self.cross[:end]).sum() + (own * (gram @ own)).sum())
