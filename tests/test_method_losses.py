"""What each method's losses add up to, in the published code's batches and in loops."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import golden
import tiny
from mcil.learner import Learner
from mcil.methods import GradientMethod, create_method
from mcil.models import Network
from mcil.types import Batch, Modality, Outputs, Step, Teacher


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


# SAM-Audio-guided learning: 4 new clips and 3 exemplars, 3 tasks of 2, 3 and 2 classes.

NEW, KEPT, SIZES, OLD = 4, 3, (2, 3, 2), 5
NAMES = ("fused", "audio", "visual")


def guided_outputs(seed: int, classes: int, clips: int = NEW + KEPT) -> Outputs:
    made = torch.Generator().manual_seed(seed)
    audio, visual = (F.normalize(torch.randn(clips, 6, generator=made), dim=1) for _ in range(2))
    return Outputs(
        torch.randn(clips, classes, generator=made),
        torch.randn(clips, 6, generator=made),
        audio,
        visual,
        spatial_attention=torch.randn(clips, 2, 4, 3, generator=made).softmax(dim=2),
        temporal_attention=torch.randn(clips, 2, 1, generator=made).softmax(dim=1),
    )


def features_of(outputs: Outputs) -> dict[str, torch.Tensor]:
    assert outputs.audio is not None
    assert outputs.visual is not None
    return {"fused": F.normalize(outputs.fused, dim=1), "audio": outputs.audio, "visual": outputs.visual}


def guided_step(student: Outputs | None = None, teacher: Outputs | None = None) -> Step:
    """Return a step whose teacher says of exemplars where it looked."""
    told = guided_outputs(1, OLD) if teacher is None else teacher
    assert told.spatial_attention is not None
    assert told.temporal_attention is not None
    attention = (told.spatial_attention[NEW:], told.temporal_attention[NEW:])
    taught = Teacher(told.logits[:, :OLD], features_of(told), None, *attention)
    labels = torch.tensor([5, 6, 6, 5, 0, 4, 2])
    return Step(guided_outputs(0, OLD + 2) if student is None else student, labels, KEPT, taught, SIZES)


def guided_losses(step: Step | None = None, **options: Any) -> dict[str, torch.Tensor]:
    return gradient_method("sam-audio-cil", **options).losses(guided_step() if step is None else step)


def cosine_apart(clips: slice, names: tuple[str, ...] = NAMES, form: str = "cosine") -> float:
    """Return the distance of student's and teacher's features, clip by clip and feature by feature."""
    ours, theirs = features_of(guided_outputs(0, OLD + 2)), features_of(guided_outputs(1, OLD))
    apart = []
    for name in names:
        for new, old in zip(ours[name][clips].tolist(), theirs[name][clips].tolist(), strict=True):
            if form == "cosine":
                apart.append(1 - sum(a * b for a, b in zip(new, old, strict=True)))
            else:
                apart.append(sum((a - b) ** 2 for a, b in zip(new, old, strict=True)))
    return sum(apart) / len(apart)


def softened(scores: list[float], temperature: float) -> list[float]:
    total = sum(math.exp(score / temperature) for score in scores)
    return [math.exp(score / temperature) / total for score in scores]


def held_logits(clips: slice, bounds: list[tuple[int, int]], temperature: float) -> float:
    """Return T^2 KL(teacher || student) over the classes within each of ``bounds``, summed; mean over the clips."""
    ours, theirs = guided_outputs(0, OLD + 2).logits[clips].tolist(), guided_outputs(1, OLD).logits[clips].tolist()
    total = 0.0
    for new, old in zip(ours, theirs, strict=True):
        for first, last in bounds:
            p, q = softened(old[first:last], temperature), softened(new[first:last], temperature)
            total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(ours)


ALL, EXEMPLARS = slice(0, None), slice(NEW, None)
GUIDED_OPTIONS: list[tuple[dict[str, Any], dict[str, float]]] = [
    # What an option makes of the terms; the others stay as they are.
    ({}, {}),
    ({"feature_weight": 3.0}, {"features": 3 * cosine_apart(ALL)}),
    ({"feature_loss": "mse"}, {"features": cosine_apart(ALL, form="mse")}),
    ({"features": "fused"}, {"features": cosine_apart(ALL, ("fused",))}),
    ({"feature_clips": "exemplars"}, {"features": cosine_apart(EXEMPLARS)}),
    ({"logit_weight": 1.0}, {"logits": held_logits(ALL, [(0, 5)], 2)}),
    ({"logits": "task-wise"}, {"logits": held_logits(ALL, [(0, 2), (2, 5)], 2) / 4}),
    ({"logit_clips": "exemplars"}, {"logits": held_logits(EXEMPLARS, [(0, 5)], 2) / 4}),
    ({"distillation_temperature": 3.0}, {"logits": held_logits(ALL, [(0, 5)], 3) / 4}),
    (
        {"adaptive": True},  # 5 old classes, 2 new ones
        {
            "features": math.sqrt(5 / 2) * cosine_apart(ALL),
            "logits": math.sqrt(5 / 2) * held_logits(ALL, [(0, 5)], 2) / 4,
        },
    ),
]


@pytest.mark.parametrize(("options", "changed"), GUIDED_OPTIONS, ids=lambda value: ",".join(value) or "none")
def test_each_option_of_guided_learning_changes_just_what_it_says(
    options: dict[str, Any], changed: dict[str, float]
) -> None:
    step = guided_step()
    likelihood = step.outputs.logits.log_softmax(dim=1)
    expected = {
        "classification": -sum(row[label].item() for row, label in zip(likelihood, step.labels, strict=True)) / 7,
        "features": cosine_apart(ALL),
        "logits": held_logits(ALL, [(0, 5)], 2) / 4,
    }
    found = {name: loss.item() for name, loss in guided_losses(**options).items()}
    assert found == pytest.approx(expected | changed, rel=1e-5)


def test_guided_learning_may_keep_old_and_new_classes_apart() -> None:
    whole, apart, step = guided_losses(), guided_losses(cross_entropy="separated"), guided_step()
    logits, total = step.outputs.logits, 0.0
    for row, label in zip(logits.tolist(), step.labels.tolist(), strict=True):
        first, last = (0, OLD) if label < OLD else (OLD, OLD + 2)
        total -= math.log(softened(row[first:last], 1)[label - first])
    assert apart["classification"].item() == pytest.approx(total / 7, rel=1e-5)
    assert apart.keys() == whole.keys()
    assert all(torch.equal(apart[name], whole[name]) for name in ("features", "logits"))


def test_guided_learning_may_hold_the_attention_on_exemplars() -> None:
    assert not gradient_method("sam-audio-cil").uses_teacher_attention
    assert gradient_method("sam-audio-cil", attention_weight=0.5).uses_teacher_attention
    whole, held = guided_losses(), guided_losses(attention_weight=0.5)
    assert all(torch.equal(held[name], whole[name]) for name in whole)
    ours, theirs = guided_outputs(0, OLD + 2), guided_outputs(1, OLD)
    for name, dim in (("spatial_attention", 2), ("temporal_attention", 1)):
        new, old = (getattr(outputs, name)[NEW:].movedim(dim, -1).reshape(-1).tolist() for outputs in (ours, theirs))
        expected = sum(q * math.log(q / p) for p, q in zip(new, old, strict=True)) / KEPT
        assert held[name].item() == pytest.approx(0.5 * expected, rel=1e-4)
    assert held.keys() == whole.keys() | {"spatial_attention", "temporal_attention"}
    adaptive = guided_losses(attention_weight=0.5, adaptive=True)
    assert torch.equal(adaptive["spatial_attention"], held["spatial_attention"])
    # A fusion without attention has no maps.
    blind = {"spatial_attention": None, "temporal_attention": None}
    step = guided_step()
    assert step.teacher is not None
    step = step._replace(outputs=ours._replace(**blind), teacher=step.teacher._replace(**blind))
    assert guided_losses(step, attention_weight=0.5).keys() == whole.keys()


def test_guided_learning_computes_no_term_of_weight_0_or_without_clips() -> None:
    assert guided_losses(feature_weight=0).keys() == {"classification", "logits"}
    assert guided_losses(logit_weight=0).keys() == {"classification", "features"}
    without = guided_step()._replace(exemplars=0)
    assert guided_losses(without, attention_weight=1.0).keys() == {"classification", "features", "logits"}
    only = {"feature_clips": "exemplars", "logit_clips": "exemplars"}
    assert guided_losses(without, **only).keys() == {"classification"}
    first = guided_step()._replace(teacher=None, exemplars=0, task_sizes=(7,))
    begun = guided_losses(first, cross_entropy="separated")
    assert begun.keys() == {"classification"}
    assert torch.equal(begun["classification"], F.cross_entropy(first.outputs.logits, first.labels))


HELD = ("features", "logits")


@pytest.mark.parametrize("options", [{}, {"feature_loss": "mse", "logits": "task-wise"}], ids=["defaults", "others"])
def test_guided_learning_holds_nothing_where_nothing_moved(options: dict[str, Any]) -> None:
    """And the student only is moved, whatever the new classes score, and wherever all old logits begin."""
    student = guided_outputs(0, OLD + 2)
    unmoved = guided_losses(guided_step(teacher=student), attention_weight=1.0, **options)
    for name in (*HELD, "spatial_attention", "temporal_attention"):
        assert unmoved[name].item() == pytest.approx(0, abs=1e-6)
    perturbed = student._replace(
        **{name: getattr(student, name) + 0.1 * torch.randn(7, 6) for name in NAMES},
        logits=student.logits + 0.1 * torch.randn(student.logits.shape),
    )
    moved = guided_losses(guided_step(perturbed, student), **options)
    assert all(moved[name].item() > 1e-5 for name in HELD)

    changed = perturbed.logits.clone()
    changed[:, OLD:] += 5
    changed[:, :OLD] -= 3
    again = guided_losses(guided_step(perturbed._replace(logits=changed), student), **options)
    for name in HELD:
        torch.testing.assert_close(again[name], moved[name])


def test_no_gradient_of_guided_learning_reaches_the_teacher() -> None:
    """What it says of clips is all that losses see of it, and it says it without gradients."""
    method, clips = gradient_method("sam-audio-cil", width=8, heads=2, attention_weight=1.0), tiny.clips(0, 5, 2)
    channels = {"audio": tiny.AUDIO, "visual": tiny.VISUAL}
    teaching, student = (method.network(channels, 5, "audio-visual") for _ in range(2))
    assert isinstance(teaching, Network)
    assert isinstance(student, Network)
    stemmed = Batch(*teaching.stem(clips.audio, clips.visual), clips.labels)
    with torch.no_grad():
        teacher = method.teach(teaching, stemmed, need_attention=True)
    assert teacher.features is not None
    assert teacher.features.keys() == set(NAMES)
    torch.testing.assert_close(teacher.features["fused"].norm(dim=1), torch.ones(10))
    student.grow(6)
    outputs = student(stemmed.audio, stemmed.visual)
    losses = method.losses(Step(outputs, clips.labels, 10, teacher, (5, 1)))
    assert len(losses) == 5
    torch.stack(list(losses.values())).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.count_nonzero() for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teaching.parameters())


@pytest.mark.parametrize("fusion", ["guided", "context", "naive", "audio", "visual", "avcil"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_guided_learning_learns_with_every_fusion_from_clips_that_lack_one_modality(fusion: str, head: str) -> None:
    options = {"fusion": fusion, "head": head, "width": 16, "heads": 4, "attention_weight": 0.5, "join": "concat"}
    training = dataclasses.replace(tiny.TRAINING, epochs=2, modality_dropout=0.6)
    learner = Learner("sam-audio-cil", options, memory=12, training=training)
    events: list[dict[str, Any]] = []
    for first, last in ((0, 3), (3, 5)):
        clips = tiny.in_steps(tiny.clips(first, last))
        learner.learn(
            clips, "abcde"[first:last], tiny.in_steps(tiny.clips(first, last, 3, seed=2)), on_event=events.append
        )
    assert {"features", "logits"} <= events[-1]["losses"].keys()
    assert all(math.isfinite(loss) for event in events for loss in event["losses"].values())
    test = tiny.in_steps(tiny.clips(0, 5, seed=3))
    assert learner.predict(test.audio, test.visual).probabilities.isfinite().all()
