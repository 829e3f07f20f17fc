"""Ridge regression of one-hot labels in streams, each of which fits what those before it leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mcil.models.closed_form import LinearNet, Scores
from mcil.models.closed_form_features import Block, ClipFeatures
from mcil.models.closed_form_sums import FOLDS, HeldOut, LeastSquares, Standardised, Sums

# Penalties to choose from, in clips: a standardised feature's own sum of squares is one a clip. The highest damps a
# block without silencing it.
_LOWEST, _HIGHEST, _START = 1e-4, 30.0, 0.3
# The search multiplies and divides a penalty by these: first all together, then each block's.
_COARSE, _FINE = 10.0, 10.0**0.5
# An error must fall by this share to count as lower.
_GAIN = 1e-4
# Mean squared errors below this are none.
_LEAST_ERROR = 1e-6

Streams = Sequence[Sequence[slice]]
Penalties = list[list[float]]
Weights = Sequence[Tensor | None]


class RidgeNet(LinearNet):
    """Ridge regression of one-hot labels on blocks of features, arranged in streams.

    The first stream fits the labels; each later one fits what the sum of those before it leaves. Each block has its
    own penalty. Where none is given, :func:`choose_penalties` does.

    Args:
        features: computes the features; its blocks are those of the streams, in their order.
        streams: the blocks of each stream. Blocks that ``features`` does not have fall away.
        classes: number of classes.
        ridge: penalty of every block as a multiple of the number of clips, or None to choose.
    """

    penalties: Tensor

    def __init__(
        self, features: ClipFeatures, streams: Sequence[Sequence[Block]], classes: int, ridge: float | None = None
    ) -> None:
        super().__init__(features, classes)
        self.streams = [own for stream in streams if (own := [block for block in stream if block in features.columns])]
        self.ridge = ridge
        # One a block, in the order of the features.
        self.register_buffer("penalties", torch.zeros(len(features.columns), dtype=torch.float64))

    def choose(self, clips: Standardised) -> None:
        """Choose the penalty of each block, with all modalities."""
        if self.ridge is None:
            streams = [[self.features.columns[block] for block in stream] for stream in self.streams]
            chosen = [penalty for stream in choose_penalties(clips, streams) for penalty in stream]
        else:
            chosen = [self.ridge * float(clips.all.clips)] * len(self.penalties)
        self.penalties.copy_(torch.tensor(chosen, dtype=torch.float64))

    def fit(self, clips: Sums, blocks: Sequence[Block]) -> Scores:
        """Return the regression's estimates of the one-hot labels."""
        penalty = dict(zip(self.features.columns, self.penalties.tolist(), strict=True))
        streams = [own for stream in self.streams if (own := [block for block in stream if block in blocks])]
        regression = clips.regression
        columns = [[self.features.columns[block] for block in stream] for stream in streams]
        weights = fit_streams(regression, columns, [[penalty[block] for block in stream] for stream in streams])
        return Scores(weights, regression.share - regression.origin @ weights)

    def sharpness(self, scores: Scores, clips: Sums) -> float:
        """Return twice the inverse of the typical error of a score on other clips.

        One-hot labels leave errors with longer tails than a normal distribution's, and the rule of normal
        distributions would be too sure of itself. Two is what fitted validation clips of real data.
        """
        seen = clips.count > 0
        weights, bias = scores.weights[:, seen], scores.bias[seen]
        sums = clips.sums[seen]
        square = (weights * (clips.gram @ weights)).sum() + 2 * bias @ (sums.sum(dim=0) @ weights)
        square += clips.clips * (1 + bias @ bias)
        square -= 2 * ((sums * weights.T).sum() + bias @ clips.count[seen])
        error = (square / (clips.clips * len(bias))).clamp_min(_LEAST_ERROR).sqrt()
        return float(2 / error)


def fit_streams(regression: LeastSquares, streams: Streams, penalties: Penalties) -> Tensor:
    """Return weights (D,C): those of each stream fit what the streams before it leave.

    Args:
        regression: the sums over the clips to fit.
        streams: columns of each block of each stream; those of one stream are side by side.
        penalties: one a block.
    """
    weights = torch.zeros_like(regression.cross)
    for number, (blocks, own) in enumerate(zip(streams, penalties, strict=True)):
        columns, fitted = fit_stream(regression, blocks, own, weights if number else None)
        weights[columns] = fitted
    return weights


def fit_stream(
    regression: LeastSquares, blocks: Sequence[slice], penalties: Sequence[float], earlier: Tensor | None
) -> tuple[slice, Tensor]:
    """Return the columns of one stream, and its weights there after those of the ``earlier`` streams (D,C)."""
    columns = slice(blocks[0].start, blocks[-1].stop)
    own = [
        regression.cross.new_full((block.stop - block.start,), penalty)
        for block, penalty in zip(blocks, penalties, strict=True)
    ]
    return columns, regression.ridge(columns, torch.cat(own), earlier)


def choose_penalties(clips: Standardised, streams: Streams) -> Penalties:
    """Return the penalty of each block, stream by stream, that makes the cross-validated squared error least.

    Two-fold cross-validation, and exact: the squared errors on one fold by weights from the other follow from the sums
    of both. The penalty is not divided by the folds' share of the clips: as the inverse of a prior variance of the
    weights it does not depend on how many clips there are. Where one fold has no clips, all get the same.
    """
    total = float(clips.all.clips)
    if len(clips.halves) < FOLDS:
        return [[_START * total] * len(blocks) for blocks in streams]
    regressions = [train.regression for train, _ in clips.halves]
    held_out = [HeldOut(regression, test) for regression, (_, test) in zip(regressions, clips.halves, strict=True)]
    found: Penalties = []
    for number, blocks in enumerate(streams):
        earlier: Weights = [
            fit_streams(regression, streams[:number], found) if number else None for regression in regressions
        ]

        def error(shares: Sequence[float], blocks: Sequence[slice] = blocks, earlier: Weights = earlier) -> float:
            squares = 0.0
            for regression, test, before in zip(regressions, held_out, earlier, strict=True):
                columns, fitted = fit_stream(regression, blocks, [share * total for share in shares], before)
                weights = torch.zeros_like(regression.cross) if before is None else before.clone()
                weights[columns] = fitted
                squares += test.error(weights, columns.stop)
            return squares

        found.append([share * total for share in descend(error, len(blocks))])
    return found


def descend(error: Callable[[list[float]], float], count: int) -> list[float]:
    """Return ``count`` penalties of low error: searched for together, and then each on its own."""
    together, least = [_START], error([_START] * count)
    for factor in (_COARSE, _FINE):
        together, least = _walk(lambda shared: error(shared * count), together, least, factor)
    penalties = together * count
    if count > 1:
        penalties, _ = _walk(error, penalties, least, _FINE)
    return penalties


def _walk(
    error: Callable[[list[float]], float], penalties: list[float], least: float, factor: float
) -> tuple[list[float], float]:
    """Multiply, or else divide, each penalty in turn by ``factor`` for as long as the error falls."""
    for place in range(len(penalties)):
        start = penalties
        for change in (factor, 1 / factor):
            while penalties is start or penalties[place] != start[place]:
                tried = [*penalties[:place], penalties[place] * change, *penalties[place + 1 :]]
                if not _LOWEST <= tried[place] <= _HIGHEST or (found := error(tried)) >= least * (1 - _GAIN):
                    break
                penalties, least = tried, found
            if penalties is not start:
                break
    return penalties, least
