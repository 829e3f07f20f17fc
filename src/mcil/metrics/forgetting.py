"""Forgetting and transfer: functions of the accuracy matrix. Everything in percentage points.

Each takes matrices (..., T,T) as :func:`mcil.metrics.accuracy_matrix` gives them, with NaN above the
diagonal, and works on each of them: many resampled matrices go through the same formula as the one that is
reported. Tasks that were never tested (NaN) are left out of the means. With one task there is nothing to
forget: NaN.
"""

from __future__ import annotations

import numpy as np

from mcil.metrics.outcomes import FloatArray, mean


def forgetting_by_step(matrix: FloatArray) -> FloatArray:
    """Forgetting (..., T-1) after each task from the second on.

    ``F_t = 1/(t-1) * sum_{i < t} ( max_{i <= j < t} A[j, i] - A[t, i] )`` (tasks counted from 1): how far the
    old tasks are below their best, on average over the old tasks. Negative when they got better.

    Source: Pian et al. 2023, eq. 16; for one t, Chaudhry et al., "Riemannian Walk", ECCV 2018.
    """
    return mean(_drops(matrix))


def average_forgetting(matrix: FloatArray) -> FloatArray:
    """Mean of F_t over the steps: ``1/(T-1) * sum_{t = 2..T} F_t``, F_t as in :func:`forgetting_by_step`.

    This is the figure that Pian et al. 2023 report (eq. 16); it is not :func:`final_forgetting`.
    """
    return mean(forgetting_by_step(matrix))


def final_forgetting(matrix: FloatArray) -> FloatArray:
    """Forgetting after the last task: ``F_T``, F_t as in :func:`forgetting_by_step`.

    Source: Chaudhry et al., "Riemannian Walk", ECCV 2018 (F_k with k the last task). Accuracy on a task
    before it was learnt is not counted among its earlier accuracies: such classes cannot be predicted yet.
    """
    return mean(forgetting_by_task(matrix))


def forgetting_by_task(matrix: FloatArray) -> FloatArray:
    """How far each old task is below its best after the last task (..., T-1).

    ``f_i = max_{i <= j < T} A[j, i] - A[T, i]`` for i = 1..T-1; its mean is :func:`final_forgetting`.
    """
    tasks = matrix.shape[-1]
    return _drops(matrix)[..., -1, : tasks - 1] if tasks > 1 else matrix[..., 0, :0]


def backward_transfer(matrix: FloatArray) -> FloatArray:
    """Change of the old tasks since they were learnt: ``BWT = 1/(T-1) * sum_{i < T} ( A[T, i] - A[i, i] )``.

    Negative where learning later tasks hurt earlier ones. Source: Lopez-Paz and Ranzato, "Gradient Episodic
    Memory", NeurIPS 2017.
    """
    learnt = np.diagonal(matrix, axis1=-2, axis2=-1)
    return mean((matrix[..., -1, :] - learnt)[..., :-1])


def forward_transfer(matrix: FloatArray, before: FloatArray) -> FloatArray:
    """How much better a task is recognised, before it is learnt, for the tasks learnt by then.

    ``FWT = 1/(T-1) * sum_{i = 2..T} ( A[i-1, i] - b_i )``, b_i the accuracy on task i before anything was learnt.
    It takes a learner that can name classes it has not learnt, one that reads their names as text: after each task it
    is tested on the next task's clips, among the classes seen so far and the next task's, and b_i is its zero-shot
    accuracy among the same classes. For a learner without text, which cannot predict a class before it has learnt it,
    the figure has no meaning: :func:`mcil.metrics.accuracy_matrix` leaves NaN above the diagonal, and so it is NaN.

    The other functions here take the best accuracy so far, so give them the matrix without what is above the diagonal.

    Args:
        matrix: accuracies (..., T,T) in percent with those right above the diagonal.
        before: b_i (..., T) in percent; b_1 is not read.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", NeurIPS 2017, where b_i is that of a random network.
    """
    return mean(np.diagonal(matrix, offset=1, axis1=-2, axis2=-1) - before[..., 1:])


def _drops(matrix: FloatArray) -> FloatArray:
    """Best earlier minus present accuracy (..., T-1, T) from the second step on; NaN for tasks not yet old."""
    best = np.fmax.accumulate(matrix, axis=-2)
    return best[..., :-1, :] - matrix[..., 1:, :]
