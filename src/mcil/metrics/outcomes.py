"""From a table of predictions to hits and counts: the one place that reads the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

COLUMNS: dict[str, pl.DataType] = {
    "after_task": pl.Int64(),
    "inputs": pl.String(),
    "row": pl.Int64(),
    "clip": pl.String(),
    "label": pl.Int64(),
    "prediction": pl.Int64(),
    "confidence": pl.Float32(),
}
"""The columns of a predictions table: one row for a test clip after a task, given some of its modalities."""

SHUFFLED = "-shuffled"
"""Ends the name of inputs in which one modality was shuffled among the clips: "audio-shuffled", "visual-shuffled"."""


@dataclass(frozen=True)
class Outcomes:
    """What became of N test clips after each of T tasks.

    ``hit`` (T,N) is 1 where the prediction was right; ``tested`` (T,N) is 1 where there was one. Clips of a
    task that had not been learnt yet count as not tested. ``task`` (N,) is the task that a clip's class
    arrived in.
    """

    hit: FloatArray
    tested: FloatArray
    task: IntArray

    def by_task(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weighted hits and counts (R,T,T) by step and task of the clip, for weights (R,N) of the clips."""
        tasks = len(self.hit)
        shape = (len(weights), tasks, tasks)
        hits, counts = np.zeros(shape), np.zeros(shape)
        for task in range(tasks):
            clips = np.flatnonzero(self.task == task)
            hits[:, :, task] = weights[:, clips] @ self.hit[:, clips].T
            counts[:, :, task] = weights[:, clips] @ self.tested[:, clips].T
        return hits, counts


def with_inputs(predictions: pl.DataFrame, inputs: str) -> pl.DataFrame:
    """The predictions that were made from ``inputs`` ("audio-visual", "audio" or "audio-shuffled", say)."""
    return predictions.filter(pl.col("inputs") == inputs)


def check(predictions: pl.DataFrame, task_sizes: Sequence[int]) -> None:
    """See that a table is of one kind of inputs, and that its steps and classes fit ``task_sizes``.

    Raises:
        ValueError: they do not.
    """
    if predictions["inputs"].n_unique() > 1:
        raise ValueError("predictions from different inputs are mixed: choose one with with_inputs()")
    limits = {"after_task": len(task_sizes), "label": sum(task_sizes), "prediction": sum(task_sizes)}
    for column, limit in limits.items():
        if not predictions[column].is_between(0, limit, closed="left").all():
            raise ValueError(f"a value of '{column}' does not fit task sizes {list(task_sizes)}")


def outcomes(predictions: pl.DataFrame, task_sizes: Sequence[int]) -> Outcomes:
    """Read a predictions table of one kind of inputs.

    Raises:
        ValueError: predictions from several kinds of inputs are mixed, a clip was predicted twice after one
        task,
            or a step or class lies outside ``task_sizes``.
    """
    check(predictions, task_sizes)
    step = predictions["after_task"].to_numpy().astype(np.int64)
    label = predictions["label"].to_numpy().astype(np.int64)
    prediction = predictions["prediction"].to_numpy().astype(np.int64)
    ends = np.cumsum(task_sizes)
    if predictions.select(pl.struct("after_task", "row").is_duplicated().any()).item():
        raise ValueError("a clip was predicted twice after the same task")

    _, first, clip = np.unique(predictions["row"].to_numpy(), return_index=True, return_inverse=True)
    task_of_label = np.searchsorted(ends, label, side="right")
    seen = task_of_label <= step
    hit = np.zeros((len(ends), len(first)))
    tested = np.zeros_like(hit)
    tested[step[seen], clip[seen]] = 1
    hit[step[seen], clip[seen]] = (prediction == label)[seen]
    return Outcomes(hit, tested, task_of_label[first].astype(np.int64))


def mean(values: FloatArray, axis: int = -1) -> FloatArray:
    """Mean over ``axis`` of what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis), known.sum(axis))


def ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> FloatArray:
    """``part / whole`` element by element, NaN where ``whole`` is zero."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    result: FloatArray = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result
