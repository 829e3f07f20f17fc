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
    feature_discrepancy,
    feature_distillation,
    instance_similarity,
    logit_replay,
    nca,
    separated_cross_entropy,
    sigmoid_distillation,
    task_distillation,
    weighted_contrastive,
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


def naive_weighted(logits: Tensor, labels: list[int], similarity: list[list[float]], reading: str) -> float:
    rows, total = [log_softmax(row) for row in logits.tolist()], 0.0
    for i, weights in enumerate(similarity):
        likely = [rows[i if reading == "classes" else j][labels[j]] for j in range(len(rows))]
        total += sum(w * value for w, value in zip(weights, likely, strict=True)) / sum(weights)
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


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def naive_sigmoid(student: Tensor, teacher: Tensor, squash: str) -> float:
    total = 0.0
    for score, target in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        p, q = sigmoid(target), sigmoid(sigmoid(score) if squash == "double" else score)
        total -= p * math.log(q) + (1 - p) * math.log(1 - q)
    return total / student.numel()


def naive_replay(logits: list[list[float]], stored: list[list[float]]) -> float:
    errors = [
        (now - then) ** 2
        for row, kept in zip(logits, stored, strict=True)
        for now, then in zip(row, kept, strict=False)
        if not math.isnan(then)
    ]
    return sum(errors) / len(errors) if errors else 0.0


def naive_nca(logits: list[list[float]], labels: list[int], margin: float, form: str) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        others = [score for number, score in enumerate(row) if number != label]
        if form == "paper":
            total += max(0.0, math.log(sum(map(math.exp, others))) - (row[label] - margin)) if others else 0.0
        else:
            scores = [score - margin - max(other - margin for other in row) for score in row]
            others = [score for number, score in enumerate(scores) if number != label]
            total -= scores[label] - math.log(1 + sum(map(math.exp, others)))
    return total / len(logits)


def naive_discrepancy(student: dict[str, Tensor], teacher: dict[str, Tensor], weights: dict[str, Tensor]) -> float:
    total = 0.0
    for name, features in student.items():
        for clip, (new, old) in enumerate(zip(features.tolist(), teacher[name].tolist(), strict=True)):
            distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(new, old, strict=True)))
            total += weights[name][clip].item() * distance / len(features)
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
@given(seeds, sizes, sizes, st.sampled_from(["single", "double"]))
def test_sigmoid_distillation_is_what_loops_compute(seed: int, clips: int, old: int, squash: str) -> None:
    student, teacher = normal(seed, clips, old), normal(seed + 1, clips, old)
    loss = sigmoid_distillation(student, teacher, squash)
    assert loss.item() == pytest.approx(naive_sigmoid(student, teacher, squash))


@quick
@given(seeds, sizes, sizes, st.integers(0, 3), st.floats(0, 1))
def test_logit_replay_is_what_loops_compute(seed: int, clips: int, known: int, new: int, share: float) -> None:
    logits, stored = normal(seed, clips, known + new), normal(seed + 1, clips, known)
    unknown = torch.rand(clips, known, generator=torch.Generator().manual_seed(seed)) < share
    stored[unknown] = math.nan
    logits.requires_grad_()
    loss = logit_replay(logits, stored)
    assert loss.item() == pytest.approx(naive_replay(logits.tolist(), stored.tolist()))
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[:, :known] == 0, unknown)
    assert logits.grad[:, known:].count_nonzero() == 0


@quick
@given(seeds, sizes, sizes, st.floats(0, 3), st.sampled_from(["code", "paper"]))
def test_nca_is_what_loops_compute(seed: int, clips: int, classes: int, margin: float, form: str) -> None:
    """Also with one class: there is nothing to be told apart from."""
    logits, labels = normal(seed, clips, classes), whole(seed, classes, clips)
    loss = nca(logits.requires_grad_(), labels, margin, form)
    assert loss.item() == pytest.approx(naive_nca(logits.tolist(), labels.tolist(), margin, form), abs=1e-12)
    assert torch.equal(nca(logits, labels, torch.tensor(margin, dtype=torch.float64), form), loss)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if classes == 1:
        assert loss.item() == 0


@quick
@given(seeds, sizes, sizes, st.lists(st.sampled_from(["audio", "visual", "pooled"]), min_size=1, unique=True))
def test_feature_discrepancy_is_what_loops_compute(seed: int, clips: int, width: int, names: list[str]) -> None:
    student = {name: unit(seed + number, clips, width) for number, name in enumerate(names)}
    teacher = {name: unit(seed + 10 + number, clips, width) for number, name in enumerate(names)}
    weights = {name: normal(seed + 20 + number, clips).abs() for number, name in enumerate(names)}
    ones = {name: torch.ones(clips) for name in names}
    weighted = feature_discrepancy(student, teacher, weights)
    assert weighted.item() == pytest.approx(naive_discrepancy(student, teacher, weights), abs=1e-12)
    plain = feature_discrepancy(student, teacher)
    assert plain.item() == pytest.approx(naive_discrepancy(student, teacher, ones), abs=1e-12)


def naive_feature_distillation(student: dict[str, Tensor], teacher: dict[str, Tensor], form: str) -> float:
    total = 0.0
    for name, features in student.items():
        for new, old in zip(features.tolist(), teacher[name].tolist(), strict=True):
            lengths = [math.sqrt(sum(value * value for value in vector)) for vector in (new, old)]
            new, old = [value / lengths[0] for value in new], [value / lengths[1] for value in old]
            if form == "cosine":
                apart = 1 - sum(a * b for a, b in zip(new, old, strict=True))
            else:
                apart = sum((a - b) ** 2 for a, b in zip(new, old, strict=True))
            total += apart / len(features) / len(student)
    return total


@quick
@given(seeds, sizes, sizes, st.lists(st.sampled_from(["audio", "visual", "fused"]), min_size=1, unique=True))
def test_feature_distillation_is_what_loops_compute(seed: int, clips: int, width: int, names: list[str]) -> None:
    student = {name: normal(seed + number, clips, width) for number, name in enumerate(names)}
    teacher = {name: normal(seed + 10 + number, clips, width) for number, name in enumerate(names)}
    losses = {}
    for form in ("cosine", "mse"):
        losses[form] = feature_distillation(student, teacher, form)
        assert losses[form].item() == pytest.approx(naive_feature_distillation(student, teacher, form), abs=1e-12)
        longer = {name: 7 * feature for name, feature in student.items()}
        torch.testing.assert_close(feature_distillation(longer, teacher, form), losses[form])
        assert feature_distillation(student, student, form).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(losses["mse"], 2 * losses["cosine"])


@pytest.mark.parametrize("form", ["cosine", "mse"])
def test_features_of_which_nothing_is_left_have_finite_gradients(form: str) -> None:
    """A rectifier may leave a vector of zeros; it has the cosine 0 with everything."""
    scores = normal(0, 4, 3)
    scores[0] = -1
    student, teacher = scores.requires_grad_(), normal(1, 4, 3).relu()
    teacher[1] = 0
    loss = feature_distillation({"audio": student.relu()}, {"audio": teacher}, form)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    zeros = {"audio": torch.zeros(2, 3)}
    assert feature_distillation(zeros, {"audio": normal(0, 2, 3)}).item() == 1


@quick
@given(seeds, sizes, sizes, st.sampled_from(["classes", "clips"]))
def test_weighted_contrastive_is_what_loops_compute(seed: int, clips: int, classes: int, reading: str) -> None:
    logits, labels = 5 * normal(seed, clips, classes), whole(seed, classes, clips)
    weights = normal(seed + 1, clips, clips).abs() + 0.01
    expected = naive_weighted(logits, labels.tolist(), weights.tolist(), reading)
    assert weighted_contrastive(logits, labels, weights, reading).item() == pytest.approx(expected, abs=1e-9)


@quick
@given(seeds, st.floats(0.01, 100))
def test_equal_weights_over_clips_are_the_cross_entropy_and_so_are_those_of_each_clip_alone(
    seed: int, weight: float
) -> None:
    logits, labels = normal(seed, 6, 4), whole(seed, 4, 6)
    plain, equal, alone = F.cross_entropy(logits, labels), torch.full((6, 6), weight).double(), weight * torch.eye(6)
    torch.testing.assert_close(weighted_contrastive(logits, labels, equal, "clips"), plain)
    for reading in ("classes", "clips"):
        torch.testing.assert_close(weighted_contrastive(logits, labels, alone.double(), reading), plain)


@quick
@given(seeds)
def test_only_clips_that_look_alike_share_in_each_other_s_class(seed: int) -> None:
    """With weights within the own class alone the label of every other clip is the own one."""
    logits, labels = normal(seed, 6, 4), whole(seed, 4, 6)
    own = (labels[:, None] == labels).double()
    torch.testing.assert_close(weighted_contrastive(logits, labels, own, "classes"), F.cross_entropy(logits, labels))
    scaled = own * torch.arange(1, 7)[:, None]
    torch.testing.assert_close(
        weighted_contrastive(logits, labels, scaled, "clips"), weighted_contrastive(logits, labels, own, "clips")
    )


@pytest.mark.parametrize("reading", ["classes", "clips"])
def test_no_gradient_flows_into_what_looks_alike(reading: str) -> None:
    logits, weights = normal(0, 4, 3).requires_grad_(), normal(1, 4, 4).abs().requires_grad_()
    weighted_contrastive(logits, whole(0, 3, 4), weights, reading).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() > 0
    assert weights.grad is None


def test_the_margin_of_the_published_nca_cancels_and_that_of_the_paper_counts() -> None:
    logits, labels = normal(0, 4, 5), whole(0, 5, 4)
    assert torch.equal(nca(logits, labels, 0.0), nca(logits, labels, 3.0))
    # With margins of 10 and more no clip is at the floor of 0.
    torch.testing.assert_close(nca(logits, labels, 13.0, "paper"), nca(logits, labels, 10.0, "paper") + 3)
    assert nca(logits, labels, -100.0, "paper") == 0


def test_features_that_have_not_moved_cost_nothing_and_have_a_gradient() -> None:
    """The length of a vector has no derivative at zero, where every student begins."""
    features = unit(0, 4, 3).requires_grad_()
    loss = feature_discrepancy({"audio": features}, {"audio": features.detach()})
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert gradient.count_nonzero() == 0


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
    student, teacher = normal(seed, 3, 4), normal(seed + 1, 3, 4)
    assert sigmoid_distillation(student, teacher) > sigmoid_distillation(teacher, teacher)


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
                sigmoid_distillation(logits[rows, :3], old_logits[rows]),
                logit_replay(logits[rows], old_logits[rows]),
                nca(logits[rows], labels[rows], 0.6),
                nca(logits[rows], labels[rows], 0.6, "paper"),
                feature_discrepancy({"audio": audio[rows]}, {"audio": visual[rows]}, {"audio": logits[rows, 0]}),
                feature_distillation({"audio": audio[rows]}, {"audio": visual[rows]}),
                weighted_contrastive(logits[rows], labels[rows], (visual[rows] @ visual[rows].T + 1) / 2),
                weighted_contrastive(logits[rows], labels[rows], (visual[rows] @ visual[rows].T + 1) / 2, "clips"),
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
    assert check(lambda x: sigmoid_distillation(x[:, :3], old_logits), (logits,))
    assert check(lambda x: sigmoid_distillation(x[:, :3], old_logits, "double"), (logits,))
    assert check(lambda x: logit_replay(x, old_logits), (logits,))
    assert check(lambda x: nca(x, new_labels, 0.6), (logits,))
    assert check(lambda x: nca(x, new_labels, 0.6, "paper"), (logits,))
    assert check(lambda x: feature_discrepancy({"audio": x}, {"audio": visual.detach()}), (audio,))
    for form in ("cosine", "mse"):
        assert check(
            lambda x, form=form: feature_distillation({"audio": x}, {"audio": visual.detach()}, form), (audio,)
        )
    weights = normal(6, 4, 4).abs()
    assert check(lambda x: weighted_contrastive(x, new_labels, weights), (logits,))
    assert check(lambda x: weighted_contrastive(x, new_labels, weights, "clips"), (logits,))


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


@quick
@given(seeds, st.sampled_from(["student", "teacher", "both"]))
def test_where_a_map_is_of_nothing_there_is_nothing_to_compare(seed: int, empty: str) -> None:
    """As where a clip has no picture: what is left is the loss of the others, over as many clips as there are."""
    scores, teacher = normal(seed, 3, 2, 4, 2).requires_grad_(), normal(seed + 1, 3, 2, 4, 2).softmax(2)
    student, rest = scores.softmax(2), [[0, 0, 2, 2], [0, 1, 0, 1]]
    expected = naive_attention(
        student[rest[0], rest[1]].unsqueeze(1).detach(), teacher[rest[0], rest[1]].unsqueeze(1), 2
    )
    there = torch.tensor([1.0, 0.0, 1.0])[:, None, None, None]
    if empty != "teacher":
        student = student * there
    if empty != "student":
        teacher = teacher * there
    loss = attention_distillation(student, teacher, 2)
    assert loss.item() == pytest.approx(expected * 4 / 3, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.isfinite().all()
    assert gradient[1].count_nonzero() == 0


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
            sigmoid_distillation(logits[:, :3].bfloat16(), teacher.half()),
            logit_replay(logits.bfloat16(), teacher.half()),
            nca(logits.bfloat16(), labels, 0.6),
            nca(logits.bfloat16(), labels, 0.6, "paper"),
            feature_discrepancy({"audio": audio.bfloat16()}, {"audio": visual.half()}),
            feature_distillation({"audio": audio.bfloat16()}, {"audio": visual.half()}),
            weighted_contrastive(logits.bfloat16(), labels, torch.ones(8, 8).bfloat16()),
            weighted_contrastive(logits.bfloat16(), labels, torch.ones(8, 8).bfloat16(), "clips"),
        ]
    assert [loss.dtype for loss in narrow] == [torch.float32] * 13
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
    with pytest.raises(ValueError, match=r"student \(4, 3\) and teacher \(4, 2\) differ"):
        sigmoid_distillation(audio, audio[:, :2])
    with pytest.raises(ValueError, match="'single' or 'double'"):
        sigmoid_distillation(audio, audio, "triple")
    for stored in (audio[:1], torch.zeros(4, 4), audio[0]):
        with pytest.raises(ValueError, match=r"stored logits .* must be \(B,3 or fewer\) with B = 4"):
            logit_replay(audio, stored)
    for wrong in (labels[:1], labels[:, None]):
        with pytest.raises(ValueError, match=r"logits \(4, 3\) must be \(B,C\) and labels"):
            nca(audio, wrong, 0.6)
    with pytest.raises(ValueError, match="'code' or 'paper'"):
        nca(audio, labels, 0.6, "book")
    for other in (audio[:1], audio[:, :1]):
        with pytest.raises(ValueError, match=r"visual features of student .* and teacher .* differ"):
            feature_discrepancy({"visual": audio}, {"visual": other})
    for one, other in ((audio, audio[:1]), (audio, audio[:, :1]), (audio[0], audio[0])):
        with pytest.raises(ValueError, match=r"visual features of student .* and teacher .* must both be \(B,D\)"):
            feature_distillation({"visual": one}, {"visual": other})
    with pytest.raises(ValueError, match="'cosine' or 'mse', not 'l1'"):
        feature_distillation({"visual": audio}, {"visual": audio}, "l1")
    for wrong, similarity in ((labels[:3], torch.ones(4, 4)), (labels, torch.ones(4, 3)), (labels, torch.ones(4))):
        with pytest.raises(ValueError, match=r"must be \(B,C\), \(B,\) and \(B,B\)"):
            weighted_contrastive(audio, wrong, similarity)
    with pytest.raises(ValueError, match="'classes' or 'clips', not 'rows'"):
        weighted_contrastive(audio, labels, torch.ones(4, 4), "rows")


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


def test_sigmoid_distillation_matches_the_published_code(published: golden.Golden) -> None:
    logits, labels, old = published["logits"], published["labels"], published.old_classes
    plain = F.cross_entropy(logits, labels)
    golden.assert_matches(plain, published["loss_icarl_step0"])
    for squash, name in (("double", "loss_icarl"), ("single", "loss_icarl_single_sigmoid")):
        distillation = sigmoid_distillation(logits[:, :old], published["old_logits"], squash)
        golden.assert_matches(plain + distillation, published[name])
