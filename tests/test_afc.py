"""AFC: against the published code's values, and the proxies that new classes start with."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import golden
from mcil.methods import create_method
from mcil.methods.afc import AfcLsc, compared_features
from mcil.models import AudioVisualNet, ProxyClassifier
from mcil.types import Batch, Modality, Step, Teacher


def method(**options: Any) -> AfcLsc:
    return cast(AfcLsc, create_method("afc-lsc", options))


@pytest.fixture(params=[1, 2])
def published(request: pytest.FixtureRequest) -> golden.Golden:
    return golden.load(request.param)


def clips_of(data: golden.Golden) -> Batch:
    return Batch(**data.batch, labels=data["labels"])


def taught(data: golden.Golden) -> Teacher:
    with torch.no_grad():
        return method().teach(data.afc_network("afc_old"), clips_of(data), False)


def step_of(data: golden.Golden, network: AudioVisualNet) -> Step:
    sizes = (*data.old_task_sizes, data.meta["classes_per_task"])
    return Step(network(**data.batch), data["labels"], data.meta["exemplars"], taught(data), sizes)


def test_the_settings_of_the_published_code_are_the_defaults(published: golden.Golden) -> None:
    meta, defaults = published.meta, method()
    assert (defaults.margin, defaults.proxies) == (meta["afc_margin"], meta["afc_proxies"])
    assert defaults.discrepancy_weight == meta["afc_lambda"]


def test_logits_match_the_published_code(published: golden.Golden) -> None:
    for prefix, expected in (("afc_new", "afc_logits"), ("afc_old", "afc_old_logits")):
        outputs = published.afc_network(prefix)(**published.batch)
        assert outputs.scale is not None
        golden.assert_matches(outputs.logits / outputs.scale, published[expected])  # theirs are not scaled yet


def test_importance_matches_the_published_code(published: golden.Golden) -> None:
    importance = taught(published).importance
    assert importance is not None
    lengths = {name: published[f"afc_importance_{name}"] for name in ("audio", "visual", "pooled")}
    assert importance.keys() == lengths.keys()
    total = torch.stack(list(lengths.values())).sum(dim=0)  # theirs are not shares yet
    for name, length in lengths.items():
        golden.assert_matches(importance[name], length / total)


def test_losses_and_gradients_match_the_published_code(published: golden.Golden) -> None:
    network = published.afc_network("afc_new")
    losses = method().losses(step_of(published, network))
    assert set(losses) == {"classification", "discrepancy"}
    golden.assert_matches(losses["classification"], published["loss_afc_classification"])
    weight = published.meta["afc_lambda"] * math.sqrt(published.meta["step"] + 1)
    golden.assert_matches(losses["discrepancy"], weight * published["loss_afc_discrepancy"])
    total = torch.stack(list(losses.values())).sum()
    golden.assert_matches(total, published["loss_afc"])
    total.backward()
    gradients = {golden.AFC_NAMES.get(name, name): value for name, value in published.weights("afc_grad").items()}
    assert gradients.keys() == dict(network.named_parameters()).keys()
    for name, weights in network.named_parameters():
        assert weights.grad is not None
        golden.assert_matches(weights.grad, gradients[name])


def test_shares_of_importance_sum_to_one() -> None:
    importance = taught(golden.load(1)).importance
    assert importance is not None
    shares = torch.stack(list(importance.values()))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(shares.shape[1]))


def test_a_teacher_that_is_its_student_costs_nothing_and_moves_nothing() -> None:
    data = golden.load(1)
    network = data.afc_network("afc_old")
    loss = method().losses(step_of(data, network))["discrepancy"]
    loss.backward()
    assert loss.item() == 0
    assert all(weights.grad is None or weights.grad.count_nonzero() == 0 for weights in network.parameters())


@pytest.mark.parametrize(("modality", "features"), [("audio", {"audio"}), ("visual", {"visual"})])
def test_one_modality_compares_one_feature_without_importance(modality: Modality, features: set[str]) -> None:
    data, afc = golden.load(1), method()
    network = afc.network({"audio": 16, "visual": 16}, 6, modality)
    teacher = afc.teach(network, clips_of(data), False)
    assert teacher.features is not None
    assert set(teacher.features) == features
    assert teacher.importance is None
    step = Step(network(**data.batch), data["labels"], 0, teacher, (3, 3))
    assert set(afc.losses(step)) == {"classification", "discrepancy"}


def test_compared_features_are_unit_vectors() -> None:
    data = golden.load(1)
    features = compared_features(data.afc_network("afc_new")(**data.batch))
    assert set(features) == {"audio", "visual", "pooled"}
    for feature in features.values():
        torch.testing.assert_close(feature.norm(dim=1), torch.ones(len(feature)))


def test_the_forms_of_the_loss_differ_and_the_first_task_has_one_term() -> None:
    data = golden.load(1)
    step = step_of(data, data.afc_network("afc_new"))
    first = step._replace(teacher=None, task_sizes=(6,))
    code, paper = (method(nca=form).losses(first) for form in ("code", "paper"))
    assert set(code) == set(paper) == {"classification"}
    assert not torch.isclose(code["classification"], paper["classification"])
    less, more = (method(nca="paper", margin=margin).losses(first)["classification"] for margin in (9.4, 10.0))
    assert step.outputs.scale is not None
    torch.testing.assert_close(more - less, 0.6 * step.outputs.scale)  # so far up no clip is at the floor of 0


# Imprinting.


def grown(width: int, proxies: int, new: int, seed: int) -> tuple[AfcLsc, AudioVisualNet, ProxyClassifier]:
    """Return a network of two old classes and ``new`` new ones; its old proxies are of different lengths."""
    torch.manual_seed(seed)
    afc = method(proxies=proxies)
    network = afc.network({"audio": width}, 2, "audio")
    network.grow(2 + new)
    assert isinstance(network.classifier, ProxyClassifier)
    return afc, network, network.classifier


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(4, 6), st.integers(0, 99))
def test_classes_of_few_clips_start_with_a_proxy_at_each(counts: list[int], proxies: int, seed: int) -> None:
    afc, network, classifier = grown(5, proxies, len(counts), seed)
    labels = torch.tensor([2 + index for index, count in enumerate(counts) for _ in range(count)])
    order = torch.randperm(len(labels))
    features, labels = torch.randn(len(labels), 5)[order], labels[order]
    old = classifier.old.clone()
    afc.imprint(network, features, labels, seed)
    assert torch.equal(classifier.old, old)
    new = classifier.new.detach().reshape(len(counts), proxies, 5)
    torch.testing.assert_close(new.norm(dim=2), old.norm(dim=1).mean().expand(len(counts), proxies))
    for index, count in enumerate(counts):
        own = F.normalize(features[labels == 2 + index], dim=1)
        nearest = torch.cdist(F.normalize(new[index], dim=1), own).min(dim=1)
        assert nearest.values.max() < 1e-5
        assert set(nearest.indices.tolist()) == set(range(count))  # each clip has one, or more


def test_classes_of_many_clips_start_with_means_of_clusters() -> None:
    """A fixed point of k-means: each centre is the mean of the clips that are nearer to it than to the others."""
    afc, network, classifier = grown(3, 4, 1, 0)
    features = torch.randn(40, 3) + torch.tensor([4.0, 0.0, 0.0])
    afc.imprint(network, features, torch.full((40,), 2), 0)
    centres = (classifier.new / classifier.old.norm(dim=1).mean()).detach()
    unit = F.normalize(features, dim=1)
    nearest = torch.cdist(unit, centres).argmin(dim=1)
    assert set(nearest.tolist()) == {0, 1, 2, 3}
    for number in range(4):
        torch.testing.assert_close(unit[nearest == number].mean(dim=0), centres[number], rtol=1e-4, atol=1e-5)


def test_imprinting_depends_on_its_seed_only() -> None:
    def imprinted(seed: int, disturb: int) -> Tensor:
        afc, network, classifier = grown(4, 3, 1, 7)
        features = torch.randn(30, 4)
        torch.manual_seed(disturb)
        afc.imprint(network, features, torch.full((30,), 2), seed)
        return classifier.new.detach()

    assert torch.equal(imprinted(2**62 + 5, 1), imprinted(2**62 + 5, 2))


def test_training_leaves_old_proxies_where_they_are() -> None:
    data = golden.load(1)
    _, network, classifier = grown(16, 10, 4, 0)
    assert not classifier.old.requires_grad
    outputs = network(audio=data["audio"])
    method().losses(Step(outputs, data["labels"], 0, None, (2, 4)))["classification"].backward()
    assert classifier.old.grad is None
    assert classifier.new.grad is not None
    assert classifier.factor.grad is not None
