"""How far the figures would move with other test clips: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from mcil.metrics.accuracy import last_accuracy, matrix_of, mean_accuracy, steps_of
from mcil.metrics.forgetting import average_forgetting, backward_transfer, final_forgetting
from mcil.metrics.outcomes import FloatArray, outcomes

_OF_STEPS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "mean_accuracy": mean_accuracy,
    "last_accuracy": last_accuracy,
}
_OF_MATRIX: dict[str, Callable[[FloatArray], FloatArray]] = {
    "average_forgetting": average_forgetting,
    "final_forgetting": final_forgetting,
    "backward_transfer": backward_transfer,
}
_BLOCK = 4_000_000  # clips drawn at once: bounds the memory to about 100 MB


def scalars(hits: FloatArray, counts: FloatArray) -> dict[str, FloatArray]:
    """The headline figures (...) in percent from hits and counts (..., T,T) by step and task."""
    matrix, steps = matrix_of(hits, counts), steps_of(hits, counts)
    figures = {name: figure(steps) for name, figure in _OF_STEPS.items()}
    return figures | {name: figure(matrix) for name, figure in _OF_MATRIX.items()}


def bootstrap_intervals(
    predictions: pl.DataFrame,
    task_sizes: Sequence[int],
    resamples: int = 1000,
    level: float = 95.0,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals in percent of the headline figures over resampled test clips.

    N of the N test clips are drawn with replacement, ``resamples`` times; a clip brings all its predictions
    (after every task), so that the figures of one resample belong together. The interval holds the middle
    ``level`` percent of the values. It speaks of the choice of test clips only, not of the seed of the
    training. A resample in which a task got no clip leaves that task out. NaN where the figure itself is NaN.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
    """
    table = outcomes(predictions, task_sizes)
    clips = len(table.task)
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(1, clips))
    parts = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = random.integers(clips, size=(size, clips)) + clips * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * clips).reshape(size, clips)
        parts.append(scalars(*table.by_task(weights.astype(np.float64))))
    tail = (100 - level) / 2
    return {name: _percentiles(np.concatenate([part[name] for part in parts]), tail) for name in parts[0]}


def _percentiles(values: FloatArray, tail: float) -> tuple[float, float]:
    """The values that cut off ``tail`` percent on either side; NaN values are left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
