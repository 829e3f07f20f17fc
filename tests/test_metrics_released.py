"""The metrics of two releases: against values of their code, and loops that follow their formulas word by word."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mcil import metrics
from mcil.metrics import released
from mcil.metrics.outcomes import FloatArray

NAN = math.nan
PERCENT = st.floats(0, 100)
Figure = Callable[[FloatArray], FloatArray]


def lower(rows: list[list[float]]) -> FloatArray:
    """A matrix (T,T) from the rows up to the diagonal; NaN above."""
    return np.array([[*row, *[NAN] * (len(rows) - len(row))] for row in rows])


@st.composite
def matrices(draw: st.DrawFn, max_tasks: int = 6) -> FloatArray:
    tasks = draw(st.integers(1, max_tasks))
    return lower([draw(st.lists(PERCENT, min_size=row + 1, max_size=row + 1)) for row in range(tasks)])


def of_tasks(matrix: FloatArray, values: st.SearchStrategy[float]) -> st.SearchStrategy[FloatArray]:
    return st.lists(values, min_size=len(matrix), max_size=len(matrix)).map(np.array)


# The references. ``r[i][j]`` is the accuracy on task j after task i, and ``k`` the number of tasks so far.


def naive_backward(r: FloatArray, k: int) -> float:
    total = 0.0
    for i in range(1, k):
        for j in range(i - 1):
            total += r[i][j] - r[j][j]
    return total / (k * (k - 1) / 2) if k > 1 else 0.0


def naive_forward(r: FloatArray, k: int) -> float:
    total = 0.0
    for i in range(k):
        for j in range(i):
            total += r[i][j]
    return total / (k * (k - 1) / 2) if k > 1 else 0.0


def naive_forgetting(r: FloatArray, k: int) -> float:
    total = 0.0
    for j in range(k - 2):
        best = -1.0
        for step in range(j, k - 2):
            best = max(best, r[step][j])
        total += best - r[k - 1][j]
    return total / (k - 1) if k > 1 else 0.0


REFERENCES = [
    (released.continuum_backward_transfer, naive_backward),
    (released.continuum_forward_transfer, naive_forward),
    (released.continuum_forgetting, naive_forgetting),
]


@pytest.mark.parametrize(("figure", "naive"), REFERENCES)
@given(matrices())
def test_continuum(figure: Figure, naive: Callable[[FloatArray, int], float], matrix: FloatArray) -> None:
    expected = [naive(matrix, tasks) for tasks in range(1, len(matrix) + 1)]
    np.testing.assert_allclose(figure(matrix), expected, atol=1e-9)


WORKED = 100 * lower([[0.9], [0.7, 0.8], [0.6, 0.5, 0.9], [0.5, 0.6, 0.7, 0.4]])
WORKED_STEPS = 100 * np.array([0.9, 0.75, 2 / 3, 0.55])

# Computed by continuum 1.2.7 itself: how many clips of five tasks of unequal size were right after each task.
SIZES = [3, 7, 2, 5, 4]
HITS = [[1], [3, 6], [0, 5, 2], [1, 4, 1, 4], [1, 3, 1, 3, 4]]
FORGETTING = [0, 0, 0.166667, 0.317460, 0.398810]
BACKWARD = [0, 0, -0.111111, -0.103175, -0.154762]
FORWARD = [0, 1, 0.571429, 0.519841, 0.498095]


@pytest.mark.parametrize(
    ("matrix", "forgetting", "backward", "forward"),
    [
        (WORKED, [0, 0, 0.15, 0.2], [0, 0, -0.1, -0.15], [0, 0.7, 0.6, 0.6]),
        (
            100 * lower([[hit / SIZES[task] for task, hit in enumerate(row)] for row in HITS]),
            FORGETTING,
            BACKWARD,
            FORWARD,
        ),
    ],
)
def test_continuum_gives_what_its_code_gave(
    matrix: FloatArray, forgetting: list[float], backward: list[float], forward: list[float]
) -> None:
    for figure, expected in (
        (released.continuum_forgetting, forgetting),
        (released.continuum_backward_transfer, backward),
        (released.continuum_forward_transfer, forward),
    ):
        np.testing.assert_allclose(figure(matrix), 100 * np.array(expected), atol=1e-4)


def test_continuum_is_not_the_textbook() -> None:
    """The second task is forgotten altogether, and nothing of it shows."""
    matrix = lower([[90], [90, 80], [90, 0, 70.0]])
    assert released.continuum_forgetting(matrix)[-1] == released.continuum_backward_transfer(matrix)[-1] == 0
    assert metrics.final_forgetting(matrix) == -metrics.backward_transfer(matrix) == 40


def test_both_metrics_of_the_worked_example() -> None:
    similarity = np.array([1, 0.9, 0.8, 0.7])
    assert released.released_metric1(WORKED_STEPS, WORKED, similarity) == pytest.approx(35.835 + 6.375)
    assert released.released_metric2(WORKED_STEPS, WORKED, 1.0005, 1.0005) == pytest.approx(0.2823 + 0.50025)


@given(matrices(), st.data())
def test_metric1(matrix: FloatArray, data: st.DataObject) -> None:
    steps, similarity = data.draw(of_tasks(matrix, PERCENT)), data.draw(of_tasks(matrix, st.floats(0, 1)))
    tasks = len(matrix)
    weighted = 0.0
    for task in range(tasks):
        weighted += (1 - similarity[task]) * (100 - round(naive_forgetting(matrix, task + 1), 4))
    expected = round(sum(steps) / tasks, 2) / 2 + weighted / tasks / 2
    # A value that lies between two decimals may be rounded to either.
    assert released.released_metric1(steps, matrix, similarity) == pytest.approx(expected, abs=0.0051)


@given(matrices(), st.floats(0, 2), st.floats(0, 2), st.data())
def test_metric2(matrix: FloatArray, visual: float, audio: float, data: st.DataObject) -> None:
    steps, tasks = data.draw(of_tasks(matrix, PERCENT)), len(matrix)
    transfer = 0.0
    for task in range(tasks):
        transfer += round(naive_backward(matrix, task + 1) / 100, 4) + round(naive_forward(matrix, task + 1) / 100, 4)
    learnt = round(sum(steps) / 100 / tasks, 4) / 2 + transfer / tasks / 2
    actual = released.released_metric2(steps, matrix, visual, audio)
    assert actual == pytest.approx(learnt / 2 + (visual / 2 + audio / 2) / 2, abs=1e-4)


def test_accuracies_are_rounded_as_the_release_does() -> None:
    matrix = lower([[33.333333]])
    assert released.released_metric1(np.array([33.3349]), matrix, np.ones(1)) == 33.33 / 2
    assert released.released_metric2(np.array([33.336]), matrix, 0.0, 0.0) == 0.3334 / 4


def filled(name: str, shape: tuple[int, int]) -> FloatArray:
    """Numbers in [-1, 1) that depend on the name only: a hash of each position (the finish of MurmurHash3)."""
    h = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()) * 0x9E3779B1 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return (h / 2**31 - 1).reshape(shape)


def unit(values: FloatArray) -> FloatArray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_mutual_information_gives_what_the_release_gave() -> None:
    np.testing.assert_allclose(filled("x", (1, 4))[0], [-0.80068488, 0.58285544, -0.32303749, 0.97030606], atol=1e-8)
    visual, audio = unit(filled("img", (6, 512))), unit(filled("aud", (6, 512)))
    assert released.normalised_mutual_information(visual, visual) == pytest.approx(1.0004690, abs=1e-6)
    assert released.normalised_mutual_information(audio, visual) == pytest.approx(1.0004696, abs=1e-6)
    tensors = torch.from_numpy(audio).float(), torch.from_numpy(visual).float()
    assert released.normalised_mutual_information(*tensors) == pytest.approx(1.0004696, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(["other", "same", "opposite", "one place"]))
def test_mutual_information_of_unit_vectors_is_a_constant(seed: int, clips: int, how: str) -> None:
    random = np.random.default_rng(seed)
    first = unit(random.normal(size=(clips, 512)))
    one_place = np.eye(512)[random.integers(512, size=clips)]
    second = {"other": unit(random.normal(size=(clips, 512))), "same": first, "opposite": -first}.get(how, one_place)
    assert released.normalised_mutual_information(first, second) == pytest.approx(1.0005, abs=3e-4)


@given(arrays.arrays(np.float64, (2, 3, 4), elements=st.floats(-5, 5)))
def test_mutual_information(features: FloatArray) -> None:
    def softmax(row: list[float]) -> list[float]:
        total = sum(math.exp(value) for value in row)
        return [math.exp(value) / total for value in row]

    information = first_entropy = second_entropy = 0.0
    for x, y in zip(features[0].tolist(), features[1].tolist(), strict=True):
        joint = softmax([a * b for a, b in zip(x, y, strict=True)])
        for p, q, j in zip(softmax(x), softmax(y), joint, strict=True):
            information += j * (math.log(j) - math.log(p) - math.log(q))
            first_entropy -= p * math.log(p)
            second_entropy -= q * math.log(q)
    expected = information / math.sqrt(first_entropy * second_entropy)
    assert released.normalised_mutual_information(*features) == pytest.approx(expected, rel=1e-9)


@given(arrays.arrays(np.float64, (5, 3), elements=st.floats(-10, 10)), st.floats(0.1, 10))
def test_task_similarity(means: FloatArray, scale: float) -> None:
    means[np.abs(means).max(axis=1) < 1e-3] = 1.0
    expected = [1.0]
    for before, own in zip(means[:-1].tolist(), means[1:].tolist(), strict=True):
        dot = sum(a * b for a, b in zip(before, own, strict=True))
        expected.append((dot / math.hypot(*before) / math.hypot(*own) + 1) / 2)
    np.testing.assert_allclose(released.task_similarity(means), expected, atol=1e-9)
    np.testing.assert_allclose(released.task_similarity(torch.from_numpy(means * scale)), expected, atol=1e-9)


def test_task_similarity_of_equal_opposite_and_unrelated_tasks() -> None:
    means = [[1.0, 0], [2, 0], [-3, 0], [0, 1], [0, 0]]
    np.testing.assert_allclose(released.task_similarity(means), [1, 1, 0, 0.5, NAN])


@given(st.integers(1, 5).flatmap(lambda tasks: arrays.arrays(np.float64, (2, tasks + 1, tasks), elements=PERCENT)))
def test_forward_transfer(values: FloatArray) -> None:
    matrix, before = values[:, 1:], values[:, 0]
    tasks = matrix.shape[1]
    expected = []
    for one, own in zip(matrix, before, strict=True):
        gains = [one[task - 1][task] - own[task] for task in range(1, tasks)]
        expected.append(sum(gains) / len(gains) if gains else NAN)
    np.testing.assert_allclose(metrics.forward_transfer(matrix, before), expected, atol=1e-9)
    np.testing.assert_allclose(metrics.forward_transfer(matrix[0], before[0]), expected[0], atol=1e-9)


def test_forward_transfer_of_a_learner_that_reads_no_text_is_not_a_number() -> None:
    assert np.isnan(metrics.forward_transfer(WORKED, np.zeros(4)))


@pytest.mark.parametrize("shape", [(3, 2), (3,), (0, 0), (2, 2, 2)])
def test_matrices_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    wrong, steps = np.zeros(shape), np.zeros(shape[:1])
    for figure, _ in REFERENCES:
        with pytest.raises(ValueError, match=r"must be \(T,T\)"):
            figure(wrong)
    with pytest.raises(ValueError, match=r"must be \(T,T\)"):
        released.released_metric1(steps, wrong, steps)
    with pytest.raises(ValueError, match=r"must be \(T,T\)"):
        released.released_metric2(steps, wrong, 1.0, 1.0)


def test_figures_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"similarity must be \(T,\) with T = 4, not \(3,\)"):
        released.released_metric1(WORKED_STEPS, WORKED, np.ones(3))
    for steps in (WORKED_STEPS[:3], WORKED):
        with pytest.raises(ValueError, match=r"steps must be \(T,\) with T = 4"):
            released.released_metric2(steps, WORKED, 1.0, 1.0)
    for first, second in (((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3))):
        with pytest.raises(ValueError, match=r"must be \(B,D\)"):
            released.normalised_mutual_information(np.ones(first), np.ones(second))
    for shape in ((3,), (0, 3), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"must be \(T,D\)"):
            released.task_similarity(np.ones(shape))


def test_a_task_that_was_never_tested_makes_what_depends_on_it_not_a_number() -> None:
    matrix = WORKED.copy()
    matrix[1:, 1] = NAN
    for figure, _ in REFERENCES:
        assert np.isnan(figure(matrix)[-1])
        np.testing.assert_allclose(figure(matrix)[:2], figure(WORKED)[:2])
