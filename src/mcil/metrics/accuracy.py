"""Accuracy: by step and task, by step, by class, by inputs. Everything in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from mcil.metrics.outcomes import SHUFFLED, FloatArray, IntArray, check, mean, outcomes, ratio, with_inputs


def accuracy_matrix(predictions: pl.DataFrame, task_sizes: Sequence[int]) -> FloatArray:
    """Accuracy (T,T) in percent: ``A[t, i]`` after task t on the test clips of task i.

    ``A[t, i] = 100 * |{clips n of task i: prediction_t(n) = label(n)}| / |{clips n of task i}|``; a
    prediction may be any class seen by then (no task id is given). NaN above the diagonal, and for a task
    without test clips.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", NeurIPS 2017 (the matrix R).
    """
    hits, counts = _counts(predictions, task_sizes)
    return matrix_of(hits, counts)


def step_accuracy(predictions: pl.DataFrame, task_sizes: Sequence[int]) -> FloatArray:
    """Accuracy (T,) in percent after each task over the clips of all classes seen by then.

    ``a_t = 100 * |{clips n of tasks 0..t: prediction_t(n) = label(n)}| / |{clips n of tasks 0..t}|``: every
    clip counts the same, so with unequal tasks this is not the mean of a row of the accuracy matrix. NaN
    where nothing was tested.

    Source: Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023 (a_t of eq. 15).
    """
    hits, counts = _counts(predictions, task_sizes)
    return steps_of(hits, counts)


def mean_accuracy(steps: FloatArray) -> FloatArray:
    """Mean over the steps: ``1/T * sum_t a_t``, for step accuracies (..., T).

    Source: Pian et al. 2023, eq. 15; the average incremental accuracy of Rebuffi et al., "iCaRL", CVPR 2017.
    """
    return mean(steps)


def last_accuracy(steps: FloatArray) -> FloatArray:
    """Accuracy over all classes after the last task: ``a_T``, for step accuracies (..., T)."""
    return steps[..., -1]


def class_accuracy(predictions: pl.DataFrame, task_sizes: Sequence[int], after_task: int | None = None) -> FloatArray:
    """Accuracy (C,) in percent of each class (its recall) after ``after_task``, the last task by default.

    ``100 * |{clips n of class c: prediction(n) = c}| / |{clips n of class c}|``; NaN for a class that has not
    been seen by then or has no test clips.
    """
    counts = confusion_matrix(predictions, task_sizes, after_task)
    return 100 * ratio(np.diagonal(counts), counts.sum(axis=1))


def confusion_matrix(predictions: pl.DataFrame, task_sizes: Sequence[int], after_task: int | None = None) -> IntArray:
    """Numbers of clips (C,C): ``M[c, d]`` clips of class c were taken for class d after ``after_task``.

    Classes that had not been seen by then have empty rows. The last task is the default.
    """
    check(predictions, task_sizes)
    step = len(task_sizes) - 1 if after_task is None else after_task
    classes = sum(task_sizes)
    seen = sum(task_sizes[: step + 1])
    table = predictions.filter(pl.col("after_task") == step, pl.col("label") < seen)
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (table["label"].to_numpy(), table["prediction"].to_numpy()), 1)
    return counts


def input_accuracy(predictions: pl.DataFrame, task_sizes: Sequence[int]) -> dict[str, FloatArray]:
    """Step accuracies (T,) in percent for each kind of inputs in the table.

    The same learner is asked with all its modalities, with each of them alone, and with each of them shuffled among
    the clips, so the figures say how much it leans on either. The formula is that of :func:`step_accuracy`.
    """
    kinds = predictions["inputs"].unique(maintain_order=True).to_list()
    return {kind: step_accuracy(with_inputs(predictions, kind), task_sizes) for kind in kinds}


def shuffle_drop(predictions: pl.DataFrame, task_sizes: Sequence[int], inputs: str) -> dict[str, FloatArray]:
    """What is lost when a modality is shuffled among the clips: points (T,) after each task, by modality.

    ``D_t = a_t - a_t'``: step accuracies (:func:`step_accuracy`) from the true ``inputs``, and when each test clip is
    given the sound (or the picture) of another one. A modality that can be shuffled without harm is not used. Only
    modalities that the table has such predictions of; NaN where nothing was tested.

    Source: Breiman, "Random Forests", Machine Learning 2001, section 10 (a variable's permutation importance).
    """
    steps = input_accuracy(predictions, task_sizes)
    shuffled = [kind for kind in steps if kind.endswith(SHUFFLED)]
    return {kind.removesuffix(SHUFFLED): steps[inputs] - steps[kind] for kind in shuffled}


def matrix_of(hits: FloatArray, counts: FloatArray) -> FloatArray:
    """The accuracy matrix (..., T,T) in percent from hits and counts by step and task."""
    return 100 * ratio(hits, counts)


def steps_of(hits: FloatArray, counts: FloatArray) -> FloatArray:
    """The step accuracies (..., T) in percent from hits and counts by step and task."""
    return 100 * ratio(hits.sum(axis=-1), counts.sum(axis=-1))


def _counts(predictions: pl.DataFrame, task_sizes: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Hits and counts (T,T) by step and task, each clip once."""
    table = outcomes(predictions, task_sizes)
    hits, counts = table.by_task(np.ones((1, len(table.task))))
    return hits[0], counts[0]
