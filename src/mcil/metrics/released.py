"""The metrics of two releases as their code computes them: to compare with their numbers, and for nothing else.

continuum 1.2.7 calls three figures by textbook names that are not what the textbook means, and MCIL-AudioCLIP (Chen et
al., 2025) builds its two own metrics on them. What to read instead is in :mod:`mcil.metrics`: ``step_accuracy``,
``average_forgetting``, ``final_forgetting``, ``backward_transfer`` and ``shuffle_drop``.

The functions of a matrix take one accuracy matrix (T,T) in percent, as :func:`mcil.metrics.accuracy_matrix` gives it,
and read it up to the diagonal; R[i, j] is the accuracy on task j after task i, counted from 0. A task without test
clips makes what depends on it NaN (continuum stops there). Wrong shapes raise ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mcil.metrics.outcomes import FloatArray, ratio


def continuum_backward_transfer(matrix: FloatArray) -> FloatArray:
    """Backward transfer (T,) in points after each task, as continuum 1.2.7 computes it.

    ``BWT = [ sum_{i=1}^{T-1} sum_{j=0}^{i-2} (R[i, j] - R[j, j]) ] / (T(T-1)/2)``, T the tasks so far; 0 up to the
    second. Wrong: what the very next task does to a task (j = i-1) is left out but counted below the line, so that it
    is too near to 0; and it is a mean over all steps, where Lopez-Paz and Ranzato 2017 take the last one.
    """
    tasks = _tasks(matrix)
    changes = matrix - np.diagonal(matrix)
    return _over_pairs([changes[step, : max(step - 1, 0)].sum() for step in range(tasks)])


def continuum_forward_transfer(matrix: FloatArray) -> FloatArray:
    """Forward transfer (T,) in percent after each task, as continuum 1.2.7 computes it.

    ``FWT = [ sum_i sum_{j<i} R[i, j] ] / (T(T-1)/2)``, T the tasks so far; 0 after the first. Wrong: that is the mean
    accuracy on *old* tasks. Forward transfer is about tasks that have not been learnt yet
    (:func:`mcil.metrics.forward_transfer`).
    """
    return _over_pairs([matrix[step, :step].sum() for step in range(_tasks(matrix))])


def continuum_forgetting(matrix: FloatArray) -> FloatArray:
    """Forgetting (T,) in points after each task, as continuum 1.2.7 computes it.

    ``F = [ sum_{j=0}^{T-3} ( max_{j<=l<=T-3} R[l, j] - R[T-1, j] ) ] / (T-1)``, T the tasks so far; 0 up to the
    second. Wrong: the last old task is left out but counted below the line, and the best accuracy is not looked for
    after the last task but one. Meant is :func:`mcil.metrics.forgetting_by_step` (Chaudhry et al. 2018).
    """
    forgotten = []
    for last in range(_tasks(matrix)):
        drops = [matrix[old : last - 1, old].max() - matrix[last, old] for old in range(last - 1)]
        forgotten.append(sum(drops) / max(last, 1))
    return np.array(forgotten)


def released_metric1(steps: FloatArray, matrix: FloatArray, similarity: FloatArray) -> float:
    """The first metric of MCIL-AudioCLIP in percent, with the roundings of its released code.

    ``1/2 * mean_t a_t + 1/2 * mean_t [ (1 - s_t) * (100 - F_t) ]``: the mean accuracy is rounded to 2 decimals and each
    forgetting F_t (:func:`continuum_forgetting`) to 4; the release prints the result to 4. Wrong: it rewards tasks that
    are unlike, which is a property of the data; with pretrained features s_t is near 1, so that half the mean accuracy
    is all that is left; the first task (s = 1) always adds 0; and F_t is not the forgetting.

    Args:
        steps: step accuracies (T,) in percent.
        matrix: accuracy matrix (T,T) in percent.
        similarity: s_t (T,), the mean of :func:`task_similarity` of the text and of the image features. In the release
            the latter are means over the last test batch only.
    """
    _check_steps(matrix, steps=steps, similarity=similarity)
    forgetting = _rounded(continuum_forgetting(matrix), 4)
    accuracy = round(float(np.mean(steps)), 2)
    return accuracy / 2 + float(np.mean((1 - similarity) * (100 - forgetting))) / 2


def released_metric2(steps: FloatArray, matrix: FloatArray, visual: float, audio: float) -> float:
    """The second metric of MCIL-AudioCLIP, a number about 0 to 1, with the roundings of its released code.

    ``1/2 * [ 1/2 * mean_t a_t + 1/2 * mean_t (BWT_t + FWT_t) ] + 1/2 * [ 1/2 * visual + 1/2 * audio ]``, accuracy and
    transfers (:func:`continuum_backward_transfer`, :func:`continuum_forward_transfer`) as shares of 1, rounded to 4
    decimals; the release prints the result to 4. Wrong: the second half is a constant, 0.5, whatever the learner does
    (:func:`normalised_mutual_information`), and the transfers are not what they are called.

    Args:
        steps: step accuracies (T,) in percent.
        matrix: accuracy matrix (T,T) in percent.
        visual: normalised mutual information of the image features and the fused ones; in the release, of the last
            test batch after the last task.
        audio: that of the audio features and the fused ones.
    """
    _check_steps(matrix, steps=steps)
    backward = _rounded(continuum_backward_transfer(matrix) / 100, 4)
    forward = _rounded(continuum_forward_transfer(matrix) / 100, 4)
    learnt = round(float(np.mean(steps)) / 100, 4) / 2 + float(np.mean(backward + forward)) / 2
    return learnt / 2 + (visual + audio) / 4


def normalised_mutual_information(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """What MCIL-AudioCLIP calls normalised mutual information of features (B,D); tensors on the CPU will do.

    ``I / sqrt( H(P) * H(Q) )`` with ``P = softmax(x)``, ``Q = softmax(y)``, ``J = softmax(x * y)`` over D,
    ``I = sum J * (log J - log P - log Q)`` and ``H(P) = -sum P * log P``, all summed over B and D. Wrong: J is no joint
    distribution, and softmax makes unit vectors of many dimensions all but uniform. Then I and H are B log D, and the
    figure is 1 whatever the features are: 1.0005 for D = 512.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape or not x.size:
        raise ValueError(f"both features must be (B,D), not {x.shape} and {y.shape}")
    log_p, log_q, log_joint = _log_softmax(x), _log_softmax(y), _log_softmax(x * y)
    information = (np.exp(log_joint) * (log_joint - log_p - log_q)).sum()
    entropies = [-(np.exp(logs) * logs).sum() for logs in (log_p, log_q)]
    return float(information / np.sqrt(entropies[0] * entropies[1]))


def task_similarity(means: npt.ArrayLike) -> FloatArray:
    """How alike each task is to the one before: (T,) from 0 (opposite) to 1 (the same), for mean features (T,D).

    ``s_t = ( cos(m_t, m_{t-1}) + 1 ) / 2``, and 1 for the first task. It describes data, not a learner: m_t may be the
    mean of a task's stored or fused features, or of its classes' text. NaN where a mean is zero.

    Source: the released code of MCIL-AudioCLIP. Features of one encoder mostly share a direction, so expect values
    near 1 unless the mean over all tasks is taken off first.
    """
    vectors = np.asarray(means, dtype=np.float64)
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"the mean features must be (T,D), not {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    cosines = ratio((vectors[1:] * vectors[:-1]).sum(axis=1), norms[1:] * norms[:-1])
    return np.concatenate([[1.0], (cosines + 1) / 2])


def _tasks(matrix: FloatArray) -> int:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"the accuracy matrix must be (T,T), not {matrix.shape}")
    return len(matrix)


def _check_steps(matrix: FloatArray, **by_step: FloatArray) -> None:
    tasks = _tasks(matrix)
    for name, values in by_step.items():
        if values.shape != (tasks,):
            raise ValueError(f"{name} must be (T,) with T = {tasks}, not {values.shape}")


def _over_pairs(rows: Sequence[float]) -> FloatArray:
    """Sums over the steps so far (T,), divided by the number of pairs of tasks so far; 0 after the first task."""
    tasks = np.arange(1, len(rows) + 1)
    sums: FloatArray = np.cumsum(rows) / np.maximum(tasks * (tasks - 1) / 2, 1)
    return sums


def _rounded(values: FloatArray, digits: int) -> FloatArray:
    """Each value as Python rounds it; NumPy does not always round to the nearest decimal."""
    return np.array([round(value, digits) for value in values.tolist()])


def _log_softmax(values: FloatArray) -> FloatArray:
    shifted = values - values.max(axis=1, keepdims=True)
    logs: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
