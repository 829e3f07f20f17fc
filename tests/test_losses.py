"""The losses against loops in plain Python, their properties, and the published code's values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import golden
from mcil.losses import (
    attention_distillation,
    class_similarity,
    instance_similarity,
    separated_cross_entropy,
    task_distillation,
)

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 5)
quick = settings(max_examples=25, deadline=None)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(normal(seed, *shape), dim=-1)


def whole(seed: int, high: int, size: int) -> Tensor:
    return torch.randint(high, (size,), generator=torch.Generator().manual_seed(seed))


# Loops in plain Python, as the formulas read.


def log_softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.log(math.exp(score) / total) for score in scores]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive_similarity(audio: list[list[float]], visual: list[list[float]], tau: float) -> list[list[float]]:
    return [log_softmax([sum(x * y for x, y in zip(a, v, strict=True)) / tau for v in visual]) for a in audio]


def naive_instance(audio: Tensor, visual: Tensor, tau: float) -> float:
    rows = naive_similarity(audio.tolist(), visual.tolist(), tau)
    return -sum(row[i] for i, row in enumerate(rows)) / len(rows)


def naive_class(audio: Tensor, visual: Tensor, labels: list[int], tau: float, normalize: str) -> float:
    rows = naive_similarity(audio.tolist(), visual.tolist(), tau)
    total = 0.0
    for i, row in enumerate(rows):
        positives = [row[j] for j in range(len(rows)) if labels[j] == labels[i]]
        total += sum(positives) / (len(rows) if normalize == "batch" else len(positives))
    return -total / len(rows)


def naive_attention(student: Tensor, teacher: Tensor, dim: int) -> float:
    width = student.shape[dim]
    old = teacher.movedim(dim, -1).reshape(-1, width).tolist()
    new = student.movedim(dim, -1).reshape(-1, width).tolist()
    return sum(kl(p, q) for p, q in zip(old, new, strict=True)) / len(student)


def naive_separated(logits: Tensor, labels: list[int], old_classes: int) -> float:
    parts: dict[bool, list[float]] = {True: [], False: []}
    for row, label in zip(logits.tolist(), labels, strict=True):
        old = label < old_classes
        own, target = (row[:old_classes], label) if old else (row[old_classes:], label - old_classes)
        parts[old].append(-log_softmax(own)[target])
    total = 0.0
    for part in parts.values():
        if part:
            total += sum(part) / len(part) * (len(part) / len(labels))
    return total


def naive_task(student: Tensor, teacher: Tensor, task_sizes: list[int], temperature: float) -> float:
    bounds = [sum(task_sizes[:task]) for task in range(len(task_sizes) + 1)]
    total = 0.0
    for start, end in pairwise(bounds):
        for new, old in zip(student.tolist(), teacher.tolist(), strict=True):
            p = [math.exp(x) for x in log_softmax([score / temperature for score in old[start:end]])]
            q = [math.exp(x) for x in log_softmax([score / temperature for score in new[start:end]])]
            total += kl(p, q) * temperature**2 / len(student)
    return total


@quick
@given(seeds, sizes, sizes, st.sampled_from([0.05, 0.3, 1.0]))
def test_similarities_are_what_loops_compute(seed: int, clips: int, width: int, tau: float) -> None:
    audio, visual, labels = unit(seed, clips, width), unit(seed + 1, clips, width), whole(seed, 3, clips)
    assert instance_similarity(audio, visual, tau).item() == pytest.approx(naive_instance(audio, visual, tau))
    for normalize in ("batch", "positives"):
        loss = class_similarity(audio, visual, labels, tau, normalize)
        assert loss.item() == pytest.approx(naive_class(audio, visual, labels.tolist(), tau, normalize))


@quick
@given(seeds, sizes, sizes, sizes, sizes)
def test_attention_distillation_is_what_loops_compute(
    seed: int, clips: int, frames: int, patches: int, width: int
) -> None:
    shape = (clips, frames, patches, width)
    student, teacher = normal(seed, *shape).softmax(2), normal(seed + 1, *shape).softmax(2)
    expected = naive_attention(student, teacher, 2)
    assert attention_distillation(student, teacher, -2).item() == pytest.approx(expected, abs=1e-12)
    student, teacher = normal(seed, clips, frames, width).softmax(1), normal(seed + 1, clips, frames, width).softmax(1)
    expected = naive_attention(student, teacher, 1)
    assert attention_distillation(student, teacher, -2).item() == pytest.approx(expected, abs=1e-12)


@quick
@given(seeds, sizes, sizes, st.integers(0, 5))
def test_separated_cross_entropy_is_what_loops_compute(seed: int, clips: int, new: int, old: int) -> None:
    logits, labels = normal(seed, clips, old + new), whole(seed, old + new, clips)
    expected = naive_separated(logits, labels.tolist(), old)
    assert separated_cross_entropy(logits, labels, old).item() == pytest.approx(expected, abs=1e-12)


@quick
@given(seeds, sizes, st.lists(sizes, min_size=1, max_size=4), st.integers(0, 3), st.sampled_from([1.0, 2.0]))
def test_task_distillation_is_what_loops_compute(
    seed: int, clips: int, task_sizes: list[int], new: int, temperature: float
) -> None:
    student, teacher = normal(seed, clips, sum(task_sizes) + new), normal(seed + 1, clips, sum(task_sizes))
    expected = naive_task(student, teacher, task_sizes, temperature)
    loss = task_distillation(student, teacher, task_sizes, temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@quick
@given(seeds, st.floats(-50, 50), st.floats(-50, 50))
def test_shifting_logits_changes_nothing(seed: int, shift_old: float, shift_new: float) -> None:
    """Old and new classes do not compete, nor do tasks: each may be shifted by itself."""
    logits, labels, teacher = normal(seed, 4, 5), whole(seed, 5, 4), normal(seed + 1, 4, 3)
    shifted = logits + torch.tensor([shift_old] * 3 + [shift_new] * 2)
    torch.testing.assert_close(separated_cross_entropy(shifted, labels, 3), separated_cross_entropy(logits, labels, 3))
    by_task = logits + torch.tensor([shift_old, shift_new, shift_new, 7.0, -7.0])
    torch.testing.assert_close(
        task_distillation(by_task, teacher, [1, 2], 2.0), task_distillation(logits, teacher, [1, 2], 2.0)
    )


@quick
@given(seeds)
def test_divergences_are_positive_and_vanish_when_student_is_teacher(seed: int) -> None:
    student, teacher = normal(seed, 3, 5), normal(seed + 1, 3, 4)
    assert task_distillation(student, teacher, [3, 1], 2.0) > 0
    assert task_distillation(teacher, teacher, [3, 1], 2.0).item() == pytest.approx(0, abs=1e-12)
    student, teacher = normal(seed, 3, 4, 2).softmax(1), normal(seed + 1, 3, 4, 2).softmax(1)
    assert attention_distillation(student, teacher, 1) > 0
    assert attention_distillation(teacher, teacher, 1).item() == pytest.approx(0, abs=1e-12)


@quick
@given(seeds, st.permutations(range(6)))
def test_the_order_of_the_batch_does_not_matter(seed: int, order: list[int]) -> None:
    audio, visual, labels = unit(seed, 6, 4), unit(seed + 1, 6, 4), whole(seed, 5, 6)
    maps, old_maps = normal(seed, 6, 3, 2).softmax(1), normal(seed + 1, 6, 3, 2).softmax(1)
    logits, old_logits = normal(seed, 6, 5), normal(seed + 1, 6, 3)

    def losses(rows: list[int]) -> Tensor:
        return torch.stack(
            [
                instance_similarity(audio[rows], visual[rows], 0.1),
                class_similarity(audio[rows], visual[rows], labels[rows], 0.1),
                class_similarity(audio[rows], visual[rows], labels[rows], 0.1, "positives"),
                attention_distillation(maps[rows], old_maps[rows], 1),
                separated_cross_entropy(logits[rows], labels[rows], 3),
                task_distillation(logits[rows], old_logits[rows], [2, 1], 2.0),
            ]
        )

    torch.testing.assert_close(losses(order), losses(list(range(6))))


def test_gradients_are_those_of_finite_differences() -> None:
    audio, visual, labels = normal(0, 4, 3).requires_grad_(), normal(1, 4, 3).requires_grad_(), whole(0, 3, 4)
    scores, teacher = normal(2, 2, 3, 2).requires_grad_(), normal(3, 2, 3, 2).softmax(1)
    logits, old_logits = normal(4, 4, 5).requires_grad_(), normal(5, 4, 3)
    new_labels = torch.tensor([0, 4, 3, 2])
    check = torch.autograd.gradcheck
    assert check(lambda a, v: instance_similarity(a, v, 0.5), (audio, visual))
    assert check(lambda a, v: class_similarity(a, v, labels, 0.5), (audio, visual))
    assert check(lambda a, v: class_similarity(a, v, labels, 0.5, "positives"), (audio, visual))
    assert check(lambda x: attention_distillation(x.softmax(1), teacher, 1), (scores,))
    assert check(lambda x: separated_cross_entropy(x, new_labels, 3), (logits,))
    assert check(lambda x: task_distillation(x, old_logits, [1, 2], 2.0), (logits,))


@pytest.mark.parametrize("label", [0, 4])
def test_either_part_of_the_batch_may_be_empty(label: int) -> None:
    logits, labels = normal(0, 3, 5).requires_grad_(), torch.full((3,), label)
    own = slice(0, 3) if label < 3 else slice(3, 5)
    loss = separated_cross_entropy(logits, labels, 3)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, own], labels - (own.start or 0)))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    assert (gradient[:, own] != 0).all()
    assert gradient.count_nonzero() == gradient[:, own].numel()


def test_without_exemplars_or_old_tasks_distillation_is_zero() -> None:
    nothing = torch.zeros(0, 4, 3, 2, requires_grad=True)
    loss = attention_distillation(nothing, torch.zeros(0, 4, 3, 2), -2)
    loss.backward()
    assert loss.item() == 0
    assert task_distillation(normal(0, 3, 5), torch.zeros(3, 0), [], 2.0).item() == 0


def test_attention_that_vanishes_keeps_loss_and_gradient_finite() -> None:
    student = torch.tensor([[[1.0], [0.0], [0.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.0], [1.0], [0.0]]])
    loss = attention_distillation(student, teacher, 1)
    loss.backward()
    assert loss > 0
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_rounded_attention_maps_stay_distributions() -> None:
    """Halves do not sum to one exactly; many channels must not add these errors up to a loss below zero."""
    scores = normal(0, 2, 3, 50, 64).float()
    exact, rounded = scores.softmax(2), scores.softmax(2).to(torch.bfloat16)
    assert 0 <= attention_distillation(exact, rounded, 2) < 1e-2
    assert attention_distillation(rounded, rounded, 2).abs() < 1e-3


def test_losses_are_float32_under_autocast_and_from_narrow_types() -> None:
    audio, visual, labels = unit(0, 8, 16).float(), unit(1, 8, 16).float(), whole(0, 5, 8)
    logits, teacher = normal(0, 8, 5).float(), normal(1, 8, 3).float()
    exact = instance_similarity(audio, visual, 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert instance_similarity(audio, visual, 0.05).equal(exact)
        narrow = [
            instance_similarity(audio.bfloat16(), visual.bfloat16(), 0.05),
            class_similarity(audio.bfloat16(), visual, labels, 0.05),
            attention_distillation(logits.softmax(1).bfloat16(), logits.softmax(1), 1),
            separated_cross_entropy(logits.bfloat16(), labels, 3),
            task_distillation(logits.bfloat16(), teacher.half(), [3], 2.0),
        ]
    assert [loss.dtype for loss in narrow] == [torch.float32] * 5
    torch.testing.assert_close(narrow[0], exact, rtol=0.05, atol=0.0)


def test_wrong_shapes_and_options_are_refused() -> None:
    audio, labels = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"must both be \(B,D\)"):
        instance_similarity(audio, torch.zeros(5, 3), 0.1)
    with pytest.raises(ValueError, match=r"labels \(3,\) must be"):
        class_similarity(audio, audio, labels[:3], 0.1)
    with pytest.raises(ValueError, match="'batch' or 'positives'"):
        class_similarity(audio, audio, labels, 0.1, "rows")
    with pytest.raises(ValueError, match="differ"):
        attention_distillation(torch.ones(2, 3, 4), torch.ones(2, 3), -2)
    with pytest.raises(ValueError, match=r"labels \(3,\)"):
        separated_cross_entropy(audio, labels[:3], 1)
    with pytest.raises(ValueError, match="between 0 and 3"):
        separated_cross_entropy(audio, labels, 4)
    for student, teacher in ((audio, audio[:, :2]), (audio[:2], audio), (audio[:, :2], audio), (audio[0], audio)):
        with pytest.raises(ValueError, match="with 3 old classes"):
            task_distillation(student, teacher, [1, 2], 2.0)


@pytest.fixture(params=[1, 2])
def published(request: pytest.FixtureRequest) -> golden.Golden:
    """The published code's own forward values go in, so that losses are tested apart from the network."""
    return golden.load(request.param)


def test_similarities_match_the_published_code(published: golden.Golden) -> None:
    audio, visual, tau = published["f_audio"], published["f_visual"], published.meta["tau"]
    golden.assert_matches(instance_similarity(audio, visual, tau), published["loss_instance"])
    labels = published["labels"]
    golden.assert_matches(class_similarity(audio, visual, labels, tau), published["loss_class"])
    by_positives = class_similarity(audio, visual, labels, tau, normalize="positives")
    golden.assert_matches(by_positives, published["loss_class_eq7"])


def test_attention_distillation_matches_the_published_code(published: golden.Golden) -> None:
    exemplars = slice(published.meta["new"], None)
    for name in ("spatial", "temporal"):
        student, teacher = published[f"{name}_attention"], published[f"old_{name}_attention"]
        loss = attention_distillation(student[exemplars], teacher[exemplars], -2)
        golden.assert_matches(loss, published[f"loss_vad_{name}"])


def test_classification_and_task_distillation_match_the_published_code(published: golden.Golden) -> None:
    logits, teacher, labels = published["logits"], published["old_logits"], published["labels"]
    old, temperature = published.old_classes, published.meta["kd_temperature"]
    separated = separated_cross_entropy(logits, labels, old)
    golden.assert_matches(separated, published["loss_separated_softmax"])
    distillation = task_distillation(logits, teacher, published.old_task_sizes, temperature)
    golden.assert_matches(distillation, published["loss_task_kd"])
    new = slice(0, published.meta["new"])
    learning_without_forgetting = separated_cross_entropy(logits[new], labels[new], old) + task_distillation(
        logits[new], teacher[new], published.old_task_sizes, temperature
    )
    golden.assert_matches(learning_without_forgetting, published["loss_lwf"])
