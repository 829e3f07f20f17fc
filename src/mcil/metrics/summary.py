"""Every figure of a run at once, and figures over several runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from mcil.metrics.accuracy import (
    accuracy_matrix,
    class_accuracy,
    input_accuracy,
    last_accuracy,
    mean_accuracy,
    shuffle_drop,
    step_accuracy,
)
from mcil.metrics.forgetting import (
    average_forgetting,
    backward_transfer,
    final_forgetting,
    forgetting_by_task,
)
from mcil.metrics.intervals import bootstrap_intervals
from mcil.metrics.network import network_figures
from mcil.metrics.outcomes import FloatArray, mean, with_inputs

SCALARS = ("mean_accuracy", "average_forgetting", "final_forgetting", "backward_transfer", "last_accuracy")
"""The headline figures, in the order in which tables show them."""


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1 below the line) of ``runs`` values."""

    mean: float
    deviation: float
    runs: int


def mean_and_spread(values: Iterable[float | None]) -> Spread:
    """Mean and spread over runs; None and NaN are left out.

    ``mean = sum x / n`` and ``deviation = sqrt( sum (x - mean)^2 / (n - 1) )``. The deviation of a single
    value is NaN, as is the mean of none.
    """
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return Spread(math.nan, math.nan, 0)
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    return Spread(float(np.mean(known)), deviation, len(known))


def summary(
    predictions: pl.DataFrame, task_sizes: Sequence[int], inputs: str, figures: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """All figures of a run, in percent, ready for JSON: what cannot be computed is None.

    Args:
        predictions: table with the columns of :data:`mcil.metrics.COLUMNS`.
        task_sizes: number of classes of each task.
        inputs: which predictions count ("audio-visual", say); ``input_accuracy`` and ``shuffle_drop`` read all.
        figures: what the network told after each task, if it tells anything.

    Returns:
        ``mean_accuracy``, ``average_forgetting``, ``final_forgetting``, ``backward_transfer``,
        ``last_accuracy``; ``accuracy_matrix`` (T x T, None above the diagonal), ``step_accuracy`` (T),
        ``forgetting_by_task`` (T-1, None with one task), ``class_accuracy`` (C, after the last task),
        ``input_accuracy`` ({inputs: T values}), ``shuffle_drop`` ({modality: {"mean": over the steps, "last": after the
        last task}}, of the modalities that were shuffled) and ``intervals`` ({figure: [low, high]}, 95 percent over
        test clips). With ``figures`` also those of :func:`mcil.metrics.network.network_figures`.

    Raises:
        ValueError: there are no predictions from ``inputs``, the table is inconsistent, or there are figures of another
            number of tasks.
    """
    chosen = with_inputs(predictions, inputs)
    if not len(chosen):
        raise ValueError(f"there are no predictions from {inputs!r} inputs")
    matrix = accuracy_matrix(chosen, task_sizes)
    steps = step_accuracy(chosen, task_sizes)
    drops = shuffle_drop(predictions, task_sizes, inputs)
    intervals = bootstrap_intervals(chosen, task_sizes)
    return {
        "mean_accuracy": _plain(mean_accuracy(steps)),
        "average_forgetting": _plain(average_forgetting(matrix)),
        "final_forgetting": _plain(final_forgetting(matrix)),
        "backward_transfer": _plain(backward_transfer(matrix)),
        "last_accuracy": _plain(last_accuracy(steps)),
        "accuracy_matrix": _plain(matrix),
        "step_accuracy": _plain(steps),
        "forgetting_by_task": _plain(forgetting_by_task(matrix)) if len(task_sizes) > 1 else None,
        "class_accuracy": _plain(class_accuracy(chosen, task_sizes)),
        "input_accuracy": {kind: _plain(values) for kind, values in input_accuracy(predictions, task_sizes).items()},
        "shuffle_drop": {name: {"mean": _plain(mean(drop)), "last": _plain(drop[-1])} for name, drop in drops.items()},
        "intervals": {name: _plain(np.array(interval)) for name, interval in intervals.items()},
        **(_plain(network_figures(figures, steps, matrix)) if figures else {}),
    }


def _plain(values: FloatArray | float | Mapping[str, Any]) -> Any:
    """Floats and (nested) lists of floats, also by name; None for NaN."""
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    listed = np.asarray(values).tolist()
    return _without_nan(listed)


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if math.isnan(value) else value
