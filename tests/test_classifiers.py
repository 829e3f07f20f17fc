"""Classifiers of proxies and of exemplars' means: against loops, and the published code's decisions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import golden
from mcil.models import LinearClassifier, ProxyClassifier, class_means, nearest_mean_logits
from mcil.models.classifiers import CosineClassifier

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 5)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def squared_distance(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


@quick
@given(seeds, sizes, sizes, st.integers(1, 3), st.integers(0, 3), st.integers(1, 4))
def test_proxies_score_as_loops_do(seed: int, clips: int, width: int, classes: int, more: int, proxies: int) -> None:
    torch.manual_seed(seed)
    classifier = ProxyClassifier(width, classes, proxies).double()
    classifier.grow(classes + more)
    with torch.no_grad():
        classifier.factor.fill_(1.7)
    fused = normal(seed, clips, width)
    vectors = torch.cat([classifier.old, classifier.new]).tolist()
    expected = []
    for clip in fused.tolist():
        for number in range(classes + more):
            own = vectors[number * proxies : (number + 1) * proxies]
            similarity = [-squared_distance(unit(clip), unit(proxy)) for proxy in own]
            total = sum(math.exp(value) for value in similarity)
            expected.append(1.7 * sum(math.exp(value) / total * value for value in similarity))
    assert classifier(fused).flatten().tolist() == pytest.approx(expected)
    assert (classifier.classes, classifier.scale.item()) == (classes + more, 1.7)


@quick
@given(seeds, sizes, st.integers(1, 3), st.lists(st.integers(0, 2), min_size=1, max_size=3), st.integers(1, 4))
def test_growing_keeps_and_freezes_the_proxies_there_are(
    seed: int, width: int, classes: int, added: list[int], proxies: int
) -> None:
    torch.manual_seed(seed)
    classifier, fused = ProxyClassifier(width, classes, proxies), normal(seed, 3, width).float()
    for more in added:
        before, all_proxies = classifier(fused), torch.cat([classifier.old, classifier.new])
        classes += more
        classifier.grow(classes)
        assert classifier.classes == classes
        torch.testing.assert_close(classifier(fused)[:, : before.shape[1]], before)
        assert torch.equal(classifier.old, all_proxies)
        assert not classifier.old.requires_grad
        assert classifier.new.requires_grad
        assert classifier.new.shape == (more * proxies, width)


def test_new_proxies_are_drawn_from_the_global_generator() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        classifier = ProxyClassifier(4, 2, 3)
        classifier.grow(4)
        drawn.append(classifier.new)
    assert torch.equal(*drawn)
    assert drawn[0].count_nonzero() == drawn[0].numel()


def test_a_proxy_of_any_length_says_the_same() -> None:
    classifier, fused = ProxyClassifier(4, 2, 3), normal(0, 5, 4).float()
    before = classifier(fused)
    with torch.no_grad():
        classifier.new.mul_(torch.arange(1.0, 7.0)[:, None])
    torch.testing.assert_close(classifier(fused), before)
    torch.testing.assert_close(classifier(9 * fused), before)


def test_imprinting_gives_centres_the_mean_length_of_old_proxies() -> None:
    classifier = ProxyClassifier(3, 1, 2)
    classifier.grow(2)
    with torch.no_grad():
        classifier.old.copy_(torch.tensor([[3.0, 0.0, 4.0], [0.0, 1.0, 0.0]]))  # of lengths 5 and 1
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
    classifier.imprint(centres)
    torch.testing.assert_close(classifier.new, 3 * centres)
    assert classifier.new.requires_grad


def test_proxies_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    classifier = ProxyClassifier(3, 2, 2).double()
    assert torch.autograd.gradcheck(classifier, normal(0, 4, 3).requires_grad_())


def test_a_linear_classifier_has_no_scale() -> None:
    classifier = LinearClassifier(4, 3)
    assert classifier.scale is None
    classifier.grow(5)
    assert classifier.classes == classifier(torch.zeros(2, 4)).shape[1] == 5


@quick
@given(seeds, sizes, sizes, sizes, st.integers(0, 3))
def test_cosines_score_as_loops_do(seed: int, clips: int, width: int, classes: int, more: int) -> None:
    torch.manual_seed(seed)
    classifier = CosineClassifier(width, classes).double()
    classifier.grow(classes + more)
    with torch.no_grad():
        classifier.factor.fill_(1.7)
    fused = normal(seed, clips, width)
    expected = [
        1.7 * sum(a * b for a, b in zip(unit(clip), unit(row), strict=True))
        for clip in fused.tolist()
        for row in classifier.weight.tolist()
    ]
    assert classifier(fused).flatten().tolist() == pytest.approx(expected)
    assert classifier.scale.item() == pytest.approx(1.7)


@quick
@given(seeds, sizes, sizes, st.lists(sizes, max_size=3))
def test_a_cosine_classifier_that_grows_keeps_rows_scale_and_logits(
    seed: int, width: int, classes: int, added: list[int]
) -> None:
    torch.manual_seed(seed)
    classifier, fused = CosineClassifier(width, classes), normal(seed, 3, width).float()
    with torch.no_grad():
        classifier.factor.fill_(3)
    for more in added:
        before, rows = classifier(fused), classifier.weight.clone()
        classes += more
        classifier.grow(classes)
        assert classifier.classes == classes == classifier(fused).shape[1]
        torch.testing.assert_close(classifier(fused)[:, : before.shape[1]], before)
        assert torch.equal(classifier.weight[: len(rows)], rows)
        assert classifier.weight.requires_grad
        assert classifier.scale.item() == 3


def test_a_cosine_knows_no_length_and_learns_its_scale() -> None:
    torch.manual_seed(0)
    classifier, fused = CosineClassifier(4, 3).double(), normal(0, 5, 4)
    torch.testing.assert_close(classifier(9 * fused), classifier(fused))
    assert classifier(torch.zeros(1, 4).double()).count_nonzero() == 0
    assert torch.autograd.gradcheck(classifier, fused.requires_grad_())
    classifier(fused)[0, 0].backward()
    assert classifier.factor.grad is not None
    assert classifier.factor.grad != 0


@quick
@given(seeds, st.lists(sizes, min_size=1, max_size=4), sizes)
def test_class_means_are_what_loops_compute(seed: int, counts: list[int], width: int) -> None:
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    features, labels = normal(seed, len(labels), width), labels[order]
    expected = []
    for number, count in enumerate(counts):
        own = [unit(row) for row, label in zip(features.tolist(), labels.tolist(), strict=True) if label == number]
        expected += [sum(column) / count for column in zip(*own, strict=True)]
    assert class_means(features, labels, len(counts)).flatten().tolist() == pytest.approx(expected)


@quick
@given(seeds, sizes, sizes, sizes)
def test_nearest_mean_logits_are_what_loops_compute(seed: int, clips: int, classes: int, width: int) -> None:
    features, means = normal(seed, clips, width), normal(seed + 1, classes, width)
    expected = [-squared_distance(unit(row), mean) for row in features.tolist() for mean in means.tolist()]
    assert nearest_mean_logits(features, means).flatten().tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("number", [1, 2])
def test_nearest_means_decide_as_the_published_code_does(number: int) -> None:
    data = golden.load(number)
    logits = nearest_mean_logits(data["nme_queries"], data["nme_means"])
    assert torch.equal(logits.argmax(dim=1), data["nme_prediction"])
    queries = torch.nn.functional.normalize(data["nme_queries"], dim=1)
    golden.assert_matches((-logits).clamp_min(0).sqrt(), torch.cdist(queries, data["nme_means"]))
