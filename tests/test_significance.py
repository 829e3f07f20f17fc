"""The paired tests against loops that follow the formulas word by word, and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mcil import metrics
from mcil.metrics import clip_contributions, paired_t_test, sign_flip_test

SIZES = (2, 1, 3)
finite = st.floats(-100, 100, allow_nan=False)


def predictions(seed: int, clips: int = 4, skill: float = 0.6) -> pl.DataFrame:
    """Predictions of ``clips`` clips of each class after each task, given both modalities."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(sum(SIZES)), clips)
    parts = []
    for step, seen in enumerate(np.cumsum(SIZES)):
        rows = np.flatnonzero(labels < seen)
        right = random.random(len(rows)) < skill
        parts.append(
            pl.DataFrame(
                {
                    "after_task": np.full(len(rows), step),
                    "inputs": ["audio-visual"] * len(rows),
                    "row": rows + 7,
                    "clip": [str(row) for row in rows],
                    "label": labels[rows],
                    "prediction": np.where(right, labels[rows], (labels[rows] + 1) % seen),
                    "confidence": random.random(len(rows)),
                },
                schema_overrides=metrics.COLUMNS,
            )
        )
    return pl.concat(parts)


def accuracy(table: pl.DataFrame) -> float:
    return float(metrics.mean_accuracy(metrics.step_accuracy(table, SIZES)))


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=8))
def test_the_t_test_is_the_formula(pairs: list[tuple[float, float]]) -> None:
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    found = paired_t_test(first, second)
    differences = [one - other for one, other in pairs]
    mean = sum(differences) / len(pairs)
    assert found.n == len(pairs)
    assert found.difference == pytest.approx(mean, abs=1e-9)
    if max(differences) - min(differences) < 1e-6:
        return  # below, s would be rounding
    s = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(pairs) - 1))
    t = mean / (s / math.sqrt(len(pairs)))
    assert found.statistic == pytest.approx(t, rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), len(pairs) - 1), rel=1e-6, abs=1e-12)


def test_the_t_test_has_no_value_where_nothing_varies() -> None:
    for first, second in (([70.0], [60.0]), ([70.0, 71.0, 72.0], [60.0, 61.0, 62.0]), ([5.0, 5.0], [5.0, 5.0])):
        found = paired_t_test(first, second)
        assert math.isnan(found.p)
        assert math.isnan(found.statistic)
        assert found.difference == pytest.approx(first[0] - second[0])
    for empty in (([], []), ([1.0], [])):
        with pytest.raises(ValueError, match=r"pairs|inhomogeneous"):
            paired_t_test(*empty)


def test_contributions_are_the_formula_and_add_up_to_the_difference() -> None:
    first, second = [predictions(seed, skill=0.8) for seed in (0, 1)], [predictions(seed + 9) for seed in (0, 1)]
    found = clip_contributions(first, second, SIZES)
    rows = sorted(set(first[0]["row"]))
    expected = dict.fromkeys(rows, 0.0)
    for one, other in zip(first, second, strict=True):
        for step in range(len(SIZES)):
            here, there = (table.filter(pl.col("after_task") == step) for table in (one, other))
            answers = dict(zip(there["row"], there["prediction"], strict=True))
            for row, label, answer in zip(here["row"], here["label"], here["prediction"], strict=True):
                gain = int(answer == label) - int(answers[row] == label)
                expected[row] += 100 * gain / len(here) / len(SIZES) / len(first)
    np.testing.assert_allclose(found, [expected[row] for row in rows], atol=1e-12)
    difference = np.mean([accuracy(one) - accuracy(other) for one, other in zip(first, second, strict=True)])
    assert found.sum() == pytest.approx(difference)


def test_a_step_without_test_clips_counts_in_neither_mean() -> None:
    first, second = (predictions(seed).filter(pl.col("label") >= 2) for seed in (0, 1))  # nothing is tested at step 1
    found = clip_contributions([first], [second], SIZES)
    assert found.sum() == pytest.approx(accuracy(first) - accuracy(second))


def test_clips_must_be_the_same() -> None:
    table = predictions(0)
    for other in (table.head(-1), table.with_columns(pl.col("row") + 1)):
        with pytest.raises(ValueError, match="different clips"):
            clip_contributions([table], [other], SIZES)
    with pytest.raises(ValueError, match="pairs"):
        clip_contributions([], [], SIZES)
    more = predictions(0, clips=5)
    with pytest.raises(ValueError, match="different clips"):
        clip_contributions([table, more], [table, more], SIZES)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_permutation_test_comes_near_all_flips(whole: list[int]) -> None:
    contributions = np.array(whole) / 7
    found = sign_flip_test(contributions)
    sums = [
        abs(sum(s * c for s, c in zip(signs, whole, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(whole))
    ]
    exact = sum(value >= abs(sum(whole)) for value in sums) / len(sums)
    assert found.difference == pytest.approx(contributions.sum())
    assert found.n == len(whole)
    assert found.p == pytest.approx(exact, abs=0.03)  # six standard deviations of 10000 draws
    assert 0 < found.p <= 1


def test_the_permutation_test_agrees_with_scipy() -> None:
    contributions = np.random.default_rng(3).normal(0.02, 0.1, 60)
    theirs = stats.permutation_test(
        (contributions,), np.sum, permutation_type="samples", n_resamples=9999, vectorized=True, rng=1
    )
    assert sign_flip_test(contributions).p == pytest.approx(theirs.pvalue, abs=0.03)


def test_the_permutation_test_is_repeatable_and_never_certain() -> None:
    contributions = np.full(50, 0.1)
    assert sign_flip_test(contributions) == sign_flip_test(contributions)
    assert sign_flip_test(contributions).p == pytest.approx(1 / 10_001)
    assert sign_flip_test(np.zeros(5)).p == 1.0
    assert sign_flip_test(-contributions).difference == pytest.approx(-5.0)
    varied = np.random.default_rng(0).normal(0.02, 0.1, 40)
    assert sign_flip_test(varied, seed=1).p != sign_flip_test(varied, seed=2).p
    with pytest.raises(ValueError, match="pairs"):
        sign_flip_test(np.zeros(0))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    contributions = np.random.default_rng(0).normal(0.02, 0.1, 40)
    whole = sign_flip_test(contributions)
    monkeypatch.setattr("mcil.metrics.significance._BLOCK", 40 * 37)
    assert sign_flip_test(contributions).p == pytest.approx(whole.p, abs=0.02)
