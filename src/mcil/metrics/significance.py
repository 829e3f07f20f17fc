"""Whether two methods that were tested on the same clips with the same seeds differ: paired tests.

Two tests answer two questions, and neither answers the other's. :func:`paired_t_test` asks whether the difference
would be there with other *seeds*, :func:`sign_flip_test` whether it would be there with other *test clips*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from mcil.metrics.outcomes import FloatArray, mean, outcomes, ratio

FLIPS = 10_000
_BLOCK = 4_000_000  # signs drawn at once: bounds the memory to about 50 MB


class PairedTest(NamedTuple):
    """A paired comparison: mean ``difference`` (first minus second), ``statistic``, two-sided ``p``, ``n`` pairs.

    ``statistic`` is Student's t, or for the permutation test the difference itself.
    """

    difference: float
    statistic: float
    p: float
    n: int


def paired_t_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Student's paired t-test of two methods' figures (n,), pair by pair of the same seed; two-sided.

    With differences ``d_i = first_i - second_i``, their mean ``m`` and sample standard deviation ``s``:
    ``t = m / (s / sqrt(n))``, and p is the probability that a t-distributed variable with n - 1 degrees of freedom is
    at least as far from 0. It takes the differences to be independent and about normal, which few seeds cannot show.
    Statistic and p are NaN where they have no value: with fewer than two pairs, or differences that do not vary.

    Raises:
        ValueError: there are not as many figures of one as of the other, or none.
    """
    pairs = np.array([first, second], dtype=np.float64)
    if pairs.ndim != 2 or not pairs.shape[1]:
        raise ValueError("a paired test needs pairs")
    differences = pairs[0] - pairs[1]
    n, difference = len(differences), float(differences.mean())
    if n < 2 or np.ptp(differences) <= 1e-12 * np.abs(pairs).max():
        return PairedTest(difference, math.nan, math.nan, n)
    found = stats.ttest_rel(pairs[0], pairs[1])
    return PairedTest(difference, float(found.statistic), float(found.pvalue), n)


def clip_contributions(
    first: Sequence[pl.DataFrame], second: Sequence[pl.DataFrame], task_sizes: Sequence[int]
) -> FloatArray:
    """What each test clip adds to the difference of two methods' mean accuracy, averaged over seeds: (N,), in points.

    ``c_n = 100 / (R * T) * sum_r sum_t (h_rtn - h'_rtn) / N_rt``, where h and h' are 1 where the first and the second
    method with seed r recognise clip n after task t (0 where n is not tested then), N_rt is the number of clips tested
    then, T the number of steps with test clips and R that of seeds. The sum over the clips is the difference of the
    mean accuracies, averaged over the seeds.

    Args:
        first: predictions of the first method, one table for each seed, of one kind of inputs.
        second: those of the second method, with the same seeds in the same order.
        task_sizes: number of classes of each task.

    Raises:
        ValueError: the tables are not of the same clips after the same tasks, or there are none.
    """
    if not first:
        raise ValueError("a paired test needs pairs")
    parts = [_contributions(one, other, task_sizes) for one, other in zip(first, second, strict=True)]
    if len({part.shape for part in parts}) > 1:
        raise ValueError("the seeds were tested on different clips")
    mean: FloatArray = np.mean(parts, axis=0)
    return mean


def _contributions(first: pl.DataFrame, second: pl.DataFrame, task_sizes: Sequence[int]) -> FloatArray:
    keys = ["after_task", "row"]
    if not first.select(keys).sort(keys).equals(second.select(keys).sort(keys)):
        raise ValueError("the two methods were tested on different clips")
    one, other = outcomes(first, task_sizes), outcomes(second, task_sizes)
    return 100 * mean(ratio(one.hit - other.hit, one.tested.sum(axis=1, keepdims=True)), axis=0)


def sign_flip_test(contributions: FloatArray, flips: int = FLIPS, seed: int = 0) -> PairedTest:
    """Permutation test over the N test clips of a difference that is the sum of ``contributions`` (N,); two-sided.

    If the methods were alike, a clip could as well have favoured the other one: each contribution could have the other
    sign. With random signs s of all clips, drawn ``flips`` times, ``p = (1 + #{ |sum_n s_n c_n| >= |sum_n c_n| }) /
    (1 + flips)``, so p is never 0. It takes the clips to be independent, and the learners as they are: it knows nothing
    of other seeds. ``n`` counts all clips, also those that both methods treat alike.

    Source: Fisher, "The Design of Experiments", 1935, section 21; the ones added: Phipson and Smyth, "Permutation
    P-values Should Never Be Zero", 2010.

    Raises:
        ValueError: there are no clips.
    """
    if not len(contributions):
        raise ValueError("a paired test needs pairs")
    difference = float(contributions.sum())
    moving = contributions[contributions != 0]
    limit = abs(difference) - 1e-9 * float(np.abs(moving).sum())  # equal sums differ in their last digits
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(1, len(moving)))
    reached = 0
    for start in range(0, flips, block):
        signs: npt.NDArray[np.int8] = random.integers(0, 2, (min(block, flips - start), len(moving)), dtype=np.int8)
        # A sum with random signs: everything, less twice what is flipped.
        sums = moving.sum() - 2 * (signs @ moving)
        reached += int((np.abs(sums) >= limit).sum())
    return PairedTest(difference, difference, (1 + reached) / (1 + flips), len(contributions))
