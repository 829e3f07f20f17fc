"""Every figure against a loop that follows its formula word by word, on unequal tasks with missing clips."""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcil import metrics

NAN = math.nan


@dataclass(frozen=True)
class Case:
    """A run: ``answers[t][row]`` is what clip ``row`` was taken for after task t; ``labels[row]`` what it is."""

    sizes: list[int]
    labels: list[int]
    answers: list[dict[int, int]]

    @property
    def tasks(self) -> int:
        return len(self.sizes)

    def task_of(self, label: int) -> int:
        task = 0
        while label >= sum(self.sizes[: task + 1]):
            task += 1
        return task

    def table(self, inputs: str = "audio-visual") -> pl.DataFrame:
        rows = [
            (step, inputs, 100 + row, f"clip-{row}", self.labels[row], answer, 0.5)
            for step, answered in enumerate(self.answers)
            for row, answer in answered.items()
        ]
        return pl.DataFrame(rows, schema=metrics.COLUMNS, orient="row")


@st.composite
def cases(draw: st.DrawFn, max_tasks: int = 4) -> Case:
    """One to ``max_tasks`` tasks of one to three classes, none to four clips a class, any answers."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=max_tasks))
    clips = draw(st.lists(st.integers(0, 4), min_size=sum(sizes), max_size=sum(sizes)))
    labels = [label for label, count in enumerate(clips) for _ in range(count)]
    if not labels:
        labels = [0]
    answers = []
    for step in range(len(sizes)):
        seen = sum(sizes[: step + 1])
        rows = [row for row, label in enumerate(labels) if label < seen]
        answers.append({row: draw(st.integers(0, seen - 1)) for row in rows})
    return Case(sizes, labels, answers)


# The references: plain loops over clips, tasks and steps.


def naive_accuracy(case: Case, step: int, tasks: list[int]) -> float:
    right = total = 0
    for row, answer in case.answers[step].items():
        if case.task_of(case.labels[row]) in tasks:
            total += 1
            right += answer == case.labels[row]
    return 100 * right / total if total else NAN


def naive_mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else NAN


def naive_drop(case: Case, step: int, task: int) -> float:
    """Best accuracy on ``task`` before ``step``, minus the accuracy at ``step``."""
    best = -1.0
    for earlier in range(task, step):
        accuracy = naive_accuracy(case, earlier, [task])
        if math.isnan(accuracy):
            return NAN
        best = max(best, accuracy)
    return best - naive_accuracy(case, step, [task])


def naive_forgetting(case: Case, step: int) -> float:
    return naive_mean([naive_drop(case, step, task) for task in range(step)])


def same(actual: object, expected: object) -> None:
    np.testing.assert_allclose(np.array(actual, float), np.array(expected, float), atol=1e-9)


@given(cases())
def test_accuracy_matrix_and_steps(case: Case) -> None:
    expected = [
        [naive_accuracy(case, step, [task]) if task <= step else NAN for task in range(case.tasks)]
        for step in range(case.tasks)
    ]
    steps = [naive_accuracy(case, step, list(range(step + 1))) for step in range(case.tasks)]
    same(metrics.accuracy_matrix(case.table(), case.sizes), expected)
    actual = metrics.step_accuracy(case.table(), case.sizes)
    same(actual, steps)
    same(metrics.mean_accuracy(actual), naive_mean(steps))
    same(metrics.last_accuracy(actual), steps[-1])


@given(cases())
def test_forgetting_and_transfer(case: Case) -> None:
    last = case.tasks - 1
    matrix = metrics.accuracy_matrix(case.table(), case.sizes)
    by_step = [naive_forgetting(case, step) for step in range(1, case.tasks)]
    by_task = [naive_drop(case, last, task) for task in range(last)]
    transfer = [naive_accuracy(case, last, [task]) - naive_accuracy(case, task, [task]) for task in range(last)]
    same(metrics.forgetting_by_step(matrix), by_step)
    same(metrics.average_forgetting(matrix), naive_mean(by_step))
    same(metrics.forgetting_by_task(matrix), by_task)
    same(metrics.final_forgetting(matrix), naive_mean(by_task))
    same(metrics.backward_transfer(matrix), naive_mean(transfer))


@given(cases(), st.data())
def test_classes_and_confusions(case: Case, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, case.tasks - 1))
    classes = sum(case.sizes)
    counts = [[0] * classes for _ in range(classes)]
    for row, answer in case.answers[step].items():
        counts[case.labels[row]][answer] += 1
    recall = [100 * row[label] / sum(row) if sum(row) else NAN for label, row in enumerate(counts)]
    assert metrics.confusion_matrix(case.table(), case.sizes, step).tolist() == counts
    same(metrics.class_accuracy(case.table(), case.sizes, step), recall)
    if step == case.tasks - 1:
        same(metrics.class_accuracy(case.table(), case.sizes), recall)


@given(cases())
def test_functions_of_the_matrix_take_many_matrices_at_once(case: Case) -> None:
    matrix = metrics.accuracy_matrix(case.table(), case.sizes)
    stack = np.stack([matrix, matrix / 2])
    for figure in (
        metrics.average_forgetting,
        metrics.final_forgetting,
        metrics.forgetting_by_task,
        metrics.backward_transfer,
    ):
        same(figure(stack), [figure(matrix), figure(matrix / 2)])


@settings(max_examples=20, deadline=None)
@given(cases(max_tasks=3))
def test_bootstrap_is_what_drawing_clips_one_by_one_gives(case: Case) -> None:
    resamples, seed = 7, 3
    clips = sorted({row for answered in case.answers for row in answered})
    drawn = np.random.default_rng(seed).integers(len(clips), size=(resamples, len(clips)))
    values: dict[str, list[float]] = {name: [] for name in metrics.SCALARS}
    for chosen in drawn:
        rows = [clips[place] for place in chosen]
        again = Case(
            case.sizes,
            [case.labels[row] for row in rows],
            [{new: answered[row] for new, row in enumerate(rows) if row in answered} for answered in case.answers],
        )
        steps = [naive_accuracy(again, step, list(range(step + 1))) for step in range(case.tasks)]
        values["mean_accuracy"].append(naive_mean(steps))
        values["last_accuracy"].append(steps[-1])
        last = case.tasks - 1
        values["average_forgetting"].append(
            naive_mean([naive_forgetting(again, step) for step in range(1, case.tasks)])
        )
        values["final_forgetting"].append(naive_forgetting(again, last))
        values["backward_transfer"].append(
            naive_mean(
                [naive_accuracy(again, last, [task]) - naive_accuracy(again, task, [task]) for task in range(last)]
            )
        )
    actual = metrics.bootstrap_intervals(case.table(), case.sizes, resamples=resamples, level=80.0, seed=seed)
    assert set(actual) == set(values)
    for name, sample in values.items():
        known = [value for value in sample if not math.isnan(value)]
        same(actual[name], np.percentile(known, [10, 90]) if known else [NAN, NAN])


def big_table(clips: int = 1400, tasks: int = 5, skill: float = 0.8, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    labels = random.integers(tasks * 2, size=clips)
    parts = []
    for step in range(tasks):
        rows = np.flatnonzero(labels < 2 * (step + 1))
        guesses = random.integers(2 * (step + 1), size=len(rows))
        right = random.random(len(rows)) < skill
        parts.append(
            pl.DataFrame(
                {
                    "after_task": np.full(len(rows), step),
                    "inputs": ["audio"] * len(rows),
                    "row": rows,
                    "clip": [str(row) for row in rows],
                    "label": labels[rows],
                    "prediction": np.where(right, labels[rows], guesses),
                    "confidence": np.ones(len(rows), np.float32),
                },
                schema=metrics.COLUMNS,
            )
        )
    return pl.concat(parts)


def test_bootstrap_is_fast_and_as_wide_as_theory_says() -> None:
    table = big_table()
    start = time.process_time()
    intervals = metrics.bootstrap_intervals(table, [2] * 5)
    assert time.process_time() - start < 1.0
    accuracy = float(metrics.last_accuracy(metrics.step_accuracy(table, [2] * 5))) / 100
    half = 100 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / 1400)
    low, high = intervals["last_accuracy"]
    assert low == pytest.approx(100 * accuracy - half, abs=0.3)
    assert high == pytest.approx(100 * accuracy + half, abs=0.3)


def test_bootstrap_depends_on_its_seed_only() -> None:
    table = big_table(clips=60)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=1)
    first = metrics.bootstrap_intervals(table, [2] * 5, seed=4)
    assert first == metrics.bootstrap_intervals(shuffled, [2] * 5, seed=4)
    assert first != metrics.bootstrap_intervals(table, [2] * 5, seed=5)


def test_forgetting_of_a_matrix_worked_out_by_hand() -> None:
    matrix = np.array([[90, NAN, NAN], [95, 80, NAN], [50, 60, 70.0]])
    same(metrics.forgetting_by_step(matrix), [-5, (45 + 20) / 2])
    same(metrics.average_forgetting(matrix), (-5 + 32.5) / 2)
    same(metrics.final_forgetting(matrix), 32.5)
    same(metrics.forgetting_by_task(matrix), [45, 20])
    same(metrics.backward_transfer(matrix), (-40 - 20) / 2)


def test_step_accuracy_weighs_clips_not_tasks() -> None:
    case = Case([1, 2], [0, 1, 1, 2], [{0: 0}, {0: 1, 1: 1, 2: 1, 3: 2}])
    same(metrics.step_accuracy(case.table(), case.sizes), [100, 75])


def test_clips_of_a_task_not_learnt_yet_are_left_out() -> None:
    case = Case([1, 1], [0, 1], [{0: 0, 1: 0}, {0: 0, 1: 1}])
    same(metrics.accuracy_matrix(case.table(), case.sizes), [[100, NAN], [100, 100]])
    same(metrics.step_accuracy(case.table(), case.sizes), [100, 100])
    assert metrics.confusion_matrix(case.table(), case.sizes, 0).sum() == 1


def test_a_task_without_test_clips_is_left_out() -> None:
    case = Case([2, 1, 1], [0, 1, 3], [{0: 0, 1: 1}, {0: 2, 1: 1}, {0: 3, 1: 1, 2: 3}])
    matrix = metrics.accuracy_matrix(case.table(), case.sizes)
    same(matrix, [[100, NAN, NAN], [50, NAN, NAN], [50, NAN, 100]])
    same(metrics.average_forgetting(matrix), 50)
    same(metrics.final_forgetting(matrix), 50)
    same(metrics.class_accuracy(case.table(), case.sizes), [0, 100, NAN, 100])


def test_accuracy_by_inputs_and_summary() -> None:
    both = Case([1, 1], [0, 1], [{0: 0}, {0: 0, 1: 1}])
    alone = Case([1, 1], [0, 1], [{0: 0}, {0: 1, 1: 1}])
    table = pl.concat([both.table(), alone.table("audio")])
    by_inputs = metrics.input_accuracy(table, [1, 1])
    assert list(by_inputs) == ["audio-visual", "audio"]
    same(by_inputs["audio"], [100, 50])

    result = metrics.summary(table, [1, 1], "audio-visual")
    assert result == json.loads(json.dumps(result, allow_nan=False))
    assert result["mean_accuracy"] == 100
    assert result["accuracy_matrix"] == [[100, None], [100, 100]]
    assert result["step_accuracy"] == [100, 100]
    assert result["forgetting_by_task"] == [0]
    assert result["class_accuracy"] == [100, 100]
    assert result["input_accuracy"] == {"audio-visual": [100, 100], "audio": [100, 50]}
    assert set(result["intervals"]) == set(metrics.SCALARS) <= set(result)
    assert metrics.summary(table, [1, 1], "audio")["average_forgetting"] == 100


@given(cases(), st.data())
def test_drop_by_shuffling(case: Case, data: st.DataObject) -> None:
    """It is what the true inputs reach, less what shuffled ones do; one modality may have been shuffled, or none."""
    shuffled = {}
    for name in data.draw(st.sampled_from([["audio", "visual"], ["visual"], []])):
        answers = [
            {row: data.draw(st.integers(0, max(answered.values()))) for row in answered} for answered in case.answers
        ]
        shuffled[name] = Case(case.sizes, case.labels, answers)
    table = pl.concat([case.table(), *(other.table(f"{name}-shuffled") for name, other in shuffled.items())])
    drops = {
        name: [
            naive_accuracy(case, step, list(range(step + 1))) - naive_accuracy(other, step, list(range(step + 1)))
            for step in range(case.tasks)
        ]
        for name, other in shuffled.items()
    }
    actual = metrics.shuffle_drop(table, case.sizes, "audio-visual")
    assert set(actual) == set(drops)
    if not len(table):
        return
    said = metrics.summary(table, case.sizes, "audio-visual")
    alone = metrics.summary(case.table(), case.sizes, "audio-visual")
    for name, drop in drops.items():
        same(actual[name], drop)
        for key, expected in (("mean", naive_mean(drop)), ("last", drop[-1])):
            figure = said["shuffle_drop"][name][key]
            same(NAN if figure is None else figure, expected)
    # What was measured before is not disturbed by the shuffled rows.
    assert {name for name in said if said[name] != alone[name]} <= {"input_accuracy", "shuffle_drop"}
    assert said["input_accuracy"]["audio-visual"] == alone["input_accuracy"]["audio-visual"]


def test_summary_of_one_task_has_no_forgetting() -> None:
    case = Case([2], [0, 1], [{0: 0, 1: 0}])
    result = metrics.summary(case.table("visual"), [2], "visual")
    assert result["mean_accuracy"] == result["last_accuracy"] == 50
    for name in ("average_forgetting", "final_forgetting", "backward_transfer", "forgetting_by_task"):
        assert result[name] is None
    assert result["intervals"]["average_forgetting"] == [None, None]


def test_tables_that_do_not_fit_are_refused() -> None:
    case = Case([1, 1], [0, 1], [{0: 0}, {0: 0, 1: 1}])
    table = case.table()
    with pytest.raises(ValueError, match="no predictions from 'audio'"):
        metrics.summary(table, [1, 1], "audio")
    with pytest.raises(ValueError, match="mixed"):
        metrics.accuracy_matrix(pl.concat([table, case.table("audio")]), [1, 1])
    with pytest.raises(ValueError, match="twice"):
        metrics.step_accuracy(pl.concat([table, table]), [1, 1])
    with pytest.raises(ValueError, match="task sizes"):
        metrics.accuracy_matrix(table, [1])
    with pytest.raises(ValueError, match="'prediction'"):
        metrics.confusion_matrix(table.with_columns(prediction=pl.lit(2)), [1, 1])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_mean_and_spread(values: list[float]) -> None:
    spread = metrics.mean_and_spread([*values, None, NAN])
    assert spread.runs == len(values)
    assert spread.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert spread.deviation == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_spread_of_one_and_of_none() -> None:
    one = metrics.mean_and_spread([7.0])
    assert one.mean == 7.0
    assert math.isnan(one.deviation)
    assert metrics.mean_and_spread([None]).runs == 0
    assert math.isnan(metrics.mean_and_spread([]).mean)
