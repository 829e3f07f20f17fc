"""What each method's losses add up to, in the published code's batches and in loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import golden
import tiny
from mcil.learner import Learner
from mcil.methods import GradientMethod, create_method
from mcil.types import Modality, Outputs, Step, Teacher


def golden_step(data: golden.Golden, modality: Modality = "audio-visual") -> tuple[Step, torch.nn.Module]:
    """Return what a method sees in the golden batch, and the network that it trains."""
    if modality == "audio-visual":
        network, teaching = data.network("new"), data.network("old")
    else:
        network = data.network(f"{modality}_only", modality)
        teaching = data.network(f"{modality}_only", modality)
    exemplars = data.meta["exemplars"]
    with torch.no_grad():
        taught = teaching(**data.batch)
    spatial, temporal = (
        None if attention is None else attention[-exemplars:]
        for attention in (taught.spatial_attention, taught.temporal_attention)
    )
    logits = taught.logits[:, : data.old_classes]
    teacher = Teacher(logits, spatial_attention=spatial, temporal_attention=temporal)
    sizes = (*data.old_task_sizes, data.meta["classes_per_task"])
    return Step(network(**data.batch), data["labels"], exemplars, teacher, sizes), network


def golden_method(data: golden.Golden, **changes: Any) -> GradientMethod:
    options = {
        "temperature": data.meta["tau"],
        "instance_weight": data.meta["lam_instance"],
        "class_weight": data.meta["lam_class"],
        "spatial_share": data.meta["lam_vad"],
        "distillation_temperature": data.meta["kd_temperature"],
    }
    return gradient_method("av-cil", **options | changes)


def gradient_method(name: str, **options: Any) -> GradientMethod:
    method = create_method(name, options)
    assert isinstance(method, GradientMethod)
    return method


@pytest.mark.parametrize("number", [1, 2])
def test_av_cil_equals_the_published_total_and_its_gradients(number: int) -> None:
    data = golden.load(number)
    step, network = golden_step(data)
    total = torch.stack(list(golden_method(data).losses(step).values())).sum()
    golden.assert_matches(total, data["loss_total"])
    total.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        golden.assert_matches(parameter.grad, data[f"grad.{name}"])


def test_av_cil_names_its_terms() -> None:
    data = golden.load(2)
    step, _ = golden_step(data)
    terms = golden_method(data).losses(step)
    weights = {"class_similarity": ("loss_class", 1.0), "instance_similarity": ("loss_instance", 0.5)}
    weights |= {"classification": ("loss_separated_softmax", 1.0), "task_distillation": ("loss_task_kd", 1.0)}
    weights |= {f"{kind}_attention": (f"loss_vad_{kind}", 0.5) for kind in ("spatial", "temporal")}
    assert set(terms) == set(weights)
    for name, (value, weight) in weights.items():
        golden.assert_matches(terms[name], weight * data[value])
    paper = golden_method(data, class_normalization="positives").losses(step)
    golden.assert_matches(paper["class_similarity"], data["loss_class_eq7"])


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_av_cil_of_one_modality_has_no_cross_modal_terms(modality: Modality) -> None:
    data = golden.load(1)
    step, _ = golden_step(data, modality)
    golden.assert_matches(step.outputs.logits, data[f"{modality}_only_logits"])
    assert set(golden_method(data).losses(step)) == {"classification", "task_distillation"}


SWITCHES = {
    "task_distillation_weight": {"task_distillation"},
    "instance_weight": {"instance_similarity"},
    "class_weight": {"class_similarity"},
    "attention_weight": {"spatial_attention", "temporal_attention"},
}
BARE = dict.fromkeys(["instance_weight", "class_weight", "attention_weight"], 0)


@pytest.mark.parametrize("weight", SWITCHES)
def test_each_term_of_av_cil_can_be_switched_off_and_weighted(weight: str) -> None:
    data = golden.load(1)
    step, _ = golden_step(data)
    whole, without = golden_method(data).losses(step), golden_method(data, **{weight: 0}).losses(step)
    assert set(whole) - set(without) == SWITCHES[weight]
    assert all(torch.equal(without[name], whole[name]) for name in without)
    default = getattr(golden_method(data), weight)
    half = golden_method(data, **{weight: default / 2}).losses(step)
    for name in SWITCHES[weight]:
        golden.assert_matches(half[name], whole[name] / 2)


def test_attention_that_counts_nothing_is_not_asked_for() -> None:
    assert gradient_method("av-cil").uses_teacher_attention
    assert not gradient_method("av-cil", attention_weight=0).uses_teacher_attention


def test_without_separated_softmax_all_classes_compete() -> None:
    data = golden.load(2)
    step, _ = golden_step(data)
    losses = golden_method(data, separated_softmax=False, task_distillation_weight=0, **BARE).losses(step)
    assert set(losses) == {"classification"}
    assert torch.equal(losses["classification"], F.cross_entropy(step.outputs.logits, step.labels))


@pytest.mark.parametrize("number", [1, 2])
def test_av_cil_without_its_audio_visual_terms_is_ss_il(number: int) -> None:
    data = golden.load(number)
    step, _ = golden_step(data)
    bare, ss_il = golden_method(data, **BARE).losses(step), gradient_method("ss-il").losses(step)
    assert bare.keys() == ss_il.keys() == {"classification", "task_distillation"}
    assert all(torch.equal(bare[name], ss_il[name]) for name in bare)
    golden.assert_matches(ss_il["classification"], data["loss_separated_softmax"])
    golden.assert_matches(ss_il["task_distillation"], data["loss_task_kd"])


def test_av_cil_without_its_audio_visual_terms_learns_what_ss_il_learns() -> None:
    learners = [Learner("av-cil", BARE, memory=12, training=tiny.TRAINING)]
    learners.append(Learner("ss-il", memory=12, training=tiny.TRAINING))
    for first, last in ((0, 3), (3, 5), (5, 6)):
        for learner in learners:
            learner.learn(tiny.clips(first, last), "abcdef"[first:last], tiny.clips(first, last, 3, seed=2))
    bare, ss_il = (learner.network for learner in learners)
    assert bare is not None
    assert ss_il is not None
    assert all(torch.equal(a, b) for a, b in zip(bare.state_dict().values(), ss_il.state_dict().values(), strict=True))


def test_av_cil_begins_with_cross_entropy_alone() -> None:
    step, _ = golden_step(golden.load(1))
    first = gradient_method("av-cil").losses(step._replace(teacher=None, exemplars=0, task_sizes=(6,)))
    plain = torch.nn.functional.cross_entropy(step.outputs.logits, step.labels)
    assert set(first) == {"classification"}
    assert torch.equal(first["classification"], plain)


def test_av_cil_without_exemplars_in_the_batch_is_finite() -> None:
    step, _ = golden_step(golden.load(1))
    losses = gradient_method("av-cil").losses(step._replace(exemplars=0))
    assert "spatial_attention" not in losses
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("number", [1, 2])
def test_lwf_equals_the_published_total_on_new_clips(number: int) -> None:
    data = golden.load(number)
    new, old = data.meta["new"], data.old_classes
    sizes = (*data.old_task_sizes, data.meta["classes_per_task"])
    outputs = Outputs(data["logits"][:new], data["fused"][:new])
    step = Step(outputs, data["labels"][:new], 0, Teacher(data["old_logits"][:new, :old]), sizes)
    losses = gradient_method("lwf").losses(step)
    assert set(losses) == {"classification", "task_distillation"}
    golden.assert_matches(sum(losses.values()), data["loss_lwf"])
    first = gradient_method("lwf").losses(step._replace(teacher=None, task_sizes=(sum(sizes),)))
    assert set(first) == {"classification"}
    golden.assert_matches(first["classification"], F.cross_entropy(outputs.logits, step.labels))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["icarl-fc", "icarl-nme"])
def test_icarl_equals_the_published_total(name: str, number: int) -> None:
    data = golden.load(number)
    step, _ = golden_step(data)
    for distillation, total in (("double", "loss_icarl"), ("single", "loss_icarl_single_sigmoid")):
        losses = gradient_method(name, distillation=distillation).losses(step)
        assert set(losses) == {"classification", "distillation"}
        golden.assert_matches(sum(losses.values()), data[total])
    first = gradient_method(name).losses(step._replace(teacher=None))
    assert set(first) == {"classification"}
    golden.assert_matches(first["classification"], data["loss_icarl_step0"])


def replayed_step() -> Step:
    """Return a step of four new clips and two exemplars; of one's stored logits two are unknown, of the other one."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    stored = torch.full((6, 4), math.nan)
    stored[4, :2], stored[5, :3] = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0, 3.0])
    labels = torch.tensor([3, 4, 4, 3, 0, 2])
    return Step(Outputs(logits, logits), labels, 2, None, (3, 2), stored)


def test_experience_replay_takes_the_mean_of_new_clips_and_that_of_exemplars() -> None:
    step = replayed_step()
    clips = [-step.outputs.logits.log_softmax(1)[clip, label].item() for clip, label in enumerate(step.labels.tolist())]
    losses = gradient_method("er", replay_weight=0.25).losses(step)
    assert losses["classification"].item() == pytest.approx(sum(clips[:4]) / 4)
    assert losses["replay"].item() == pytest.approx(0.25 * sum(clips[4:]) / 2)
    without = step._replace(exemplars=0)
    assert set(gradient_method("er").losses(without)) == {"classification"}
    assert gradient_method("er").losses(without)["classification"].item() == pytest.approx(sum(clips) / 6)


def test_dark_experience_replay_holds_exemplars_at_their_stored_logits() -> None:
    step = replayed_step()
    plain = gradient_method("er", replay_weight=0.5).losses(step)
    losses = gradient_method("der++").losses(step)
    assert losses.keys() == {"classification", "replay", "logit_replay"}
    assert torch.equal(losses["classification"], plain["classification"])
    assert torch.equal(losses["replay"], plain["replay"])
    logits = step.outputs.logits.tolist()
    known = [(4, 0, 1.0), (4, 1, -2.0), (5, 0, 0.5), (5, 1, 0.0), (5, 2, 3.0)]
    expected = sum((logits[clip][label] - then) ** 2 for clip, label, then in known) / 5
    assert losses["logit_replay"].item() == pytest.approx(0.5 * expected)
    doubled = gradient_method("der++", logit_weight=1.0, replay_weight=1.0).losses(step)
    for name in ("replay", "logit_replay"):
        torch.testing.assert_close(doubled[name], 2 * losses[name])
    assert set(gradient_method("der++").losses(step._replace(exemplars=0))) == {"classification"}
