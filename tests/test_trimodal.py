"""MCIL-AudioCLIP, repaired: what it learns from, how it scores, what never changes, and what each option does."""

import copy
import dataclasses
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from mcil.errors import McilError
from mcil.learner import Learner
from mcil.losses import instance_similarity, weighted_contrastive
from mcil.methods import METHODS, GradientMethod, create_method
from mcil.models.trimodal import TrimodalNet
from mcil.types import Batch, Outputs, Step, Teacher

NAME, MEMORY_NAME = "mcil-audioclip", "mcil-audioclip-memory"
TRAINING = dataclasses.replace(tiny.TRAINING, epochs=2)
TASKS = ("abc", "de", "f")
STARTS = (0, 3, 5, 6)
STEADY = {"bottleneck": 8, "dropout": 0.0, "noisy": False}


def learner(name: str = NAME, *, options: dict[str, Any] | None = None, **changes: Any) -> Learner:
    return Learner(name, {"bottleneck": 8} | (options or {}), **{"training": TRAINING, "memory": 12} | changes)


def learn_next(made: Learner, text: Tensor | None = None, width: int | None = None) -> list[dict[str, Any]]:
    """Let a learner learn the next of the tasks abc, de, f, and return what it told."""
    told: list[dict[str, Any]] = []
    task = len(made.task_sizes)
    first, last = STARTS[task], STARTS[task + 1]
    text = tiny.text(0, tiny.CLASSES) if text is None else text
    train, validation = (of_width(clips, width) for clips in (tiny.clips(first, last), tiny.clips(first, last, 3, 2)))
    made.learn(train, TASKS[task], validation, None, told.append, text[first:last])
    return told


def taught(name: str = NAME, *, tasks: int = 3, text: Tensor | None = None, **changes: Any) -> Learner:
    made = learner(name, **changes)
    for _ in range(tasks):
        learn_next(made, text)
    return made


def of_width(clips: Batch, width: int | None) -> Batch:
    """Return clips whose features all have ``width`` channels."""
    if width is None:
        return clips
    cut = [None if each is None else F.pad(each, (0, width - each.shape[-1])) for each in (clips.audio, clips.visual)]
    return dataclasses.replace(clips, audio=cut[0], visual=cut[1])


def clips_of(first: int = 0, last: int = 6, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return audio, visual and labels of clips that nobody has learnt."""
    clips = tiny.clips(first, last, seed=seed)
    assert clips.audio is not None
    assert clips.visual is not None
    return clips.audio, clips.visual, clips.labels


def clips_between(first: int, last: int) -> tuple[Tensor, Tensor]:
    """Return audio and visual of clips that are half of one class and half of another, so that nothing is sure."""
    audio, visual, labels = clips_of(first, last)
    other = torch.arange(len(labels)).roll(len(labels) // (last - first))
    return (audio + audio[other]) / 2, (visual + visual[other]) / 2


def net(made: Learner) -> TrimodalNet:
    assert isinstance(made.network, TrimodalNet)
    return made.network.eval()


@torch.no_grad()
def outputs(made: Learner, audio: Tensor | None, visual: Tensor | None) -> Outputs:
    assert made.scaler is not None
    network = net(made)
    result: Outputs = network(*network.stem(*made.scaler(audio, visual)))
    return result


def copied(made: Learner) -> Learner:
    """Return a learner with a network of its own."""
    other = copy.copy(made)
    other.network = copy.deepcopy(made.network)
    return other


def without_prior(made: Learner) -> Learner:
    """Return what the experts alone say."""
    other = copied(made)
    net(other).prior = None
    return other


@pytest.fixture(scope="module")
def stages() -> list[Learner]:
    """A learner as it was after each of three tasks."""
    made, kept = learner(training=dataclasses.replace(tiny.TRAINING, epochs=10)), []
    for _ in TASKS:
        learn_next(made)
        kept.append(copy.copy(made))
        kept[-1].network = copy.deepcopy(made.network)
    return kept


@pytest.fixture(scope="module")
def learnt(stages: list[Learner]) -> Learner:
    return stages[-1]


# what it learns from


def test_it_tells_all_classes_apart_after_three_unequal_tasks(learnt: Learner) -> None:
    audio, visual, labels = clips_of()
    right = learnt.predict(audio, visual).labels == labels
    assert right.float().mean() > 0.8
    for first, last in ((0, 3), (3, 5)):
        own = (labels >= first) & (labels < last)
        among = outputs(learnt, audio, visual).logits[own, first:last].argmax(dim=1) + first
        assert (among == labels[own]).float().mean() > 0.8


def test_shuffling_sounds_or_pictures_takes_from_what_it_knows(learnt: Learner) -> None:
    audio, visual, labels = clips_of()
    turn = torch.arange(len(labels)).roll(20)
    whole = learnt.predict(audio, visual)
    for shuffled in (learnt.predict(audio[turn], visual), learnt.predict(audio, visual[turn])):
        assert (shuffled.labels == labels).float().mean() < (whole.labels == labels).float().mean()
    both = learnt.predict(audio[turn], visual[turn])
    torch.testing.assert_close(both.probabilities, whole.probabilities[turn])


def test_shuffling_prompts_among_classes_shuffles_what_clips_are_called(stages: list[Learner]) -> None:
    audio, visual = clips_between(0, 3)
    for made in (stages[1], stages[2]):  # the prototypes of the first task are kept then
        swapped, experts = copied(made), without_prior(made)
        net(swapped).prototypes[:3] = net(made).prototypes[[1, 2, 0]]
        assert (swapped.predict(audio, visual).labels != made.predict(audio, visual).labels).any()
        before, after = experts.predict(audio, visual).probabilities, without_prior(swapped).predict(audio, visual)
        torch.testing.assert_close(after.probabilities[:, :3], before[:, [1, 2, 0]])
        torch.testing.assert_close(after.probabilities[:, 3:], before[:, 3:])


def test_shuffled_sounds_pictures_or_prompts_cost_the_experts_accuracy(learnt: Learner) -> None:
    """Of ordinary clips, with nothing but the experts to say what they are."""
    experts, (audio, visual, labels) = without_prior(learnt), clips_of()
    swapped, turn = copied(experts), torch.arange(len(labels)).roll(20)
    net(swapped).prototypes[:5] = net(experts).prototypes[[1, 2, 0, 4, 3]]  # the third task is of one class

    def accuracy(made: Learner, audio: Tensor, visual: Tensor) -> float:
        return float((made.predict(audio, visual).labels == labels).float().mean())

    whole = accuracy(experts, audio, visual)
    assert accuracy(experts, audio[turn], visual) <= whole - 0.1
    assert accuracy(experts, audio, visual[turn]) <= whole - 0.1
    assert accuracy(swapped, audio, visual) <= whole - 0.1


def test_other_text_makes_other_predictions() -> None:
    audio, visual = clips_between(0, 5)
    plain = taught(tasks=2).predict(audio, visual).probabilities
    other = taught(tasks=2, text=tiny.text(0, 6)[[1, 2, 0, 4, 3, 5]]).predict(audio, visual).probabilities
    assert (plain - other).abs().max() > 1e-3


def test_a_missing_modality_is_done_without(learnt: Learner) -> None:
    unsure = clips_between(0, 6)
    both, sound, sight = (learnt.predict(*given) for given in (unsure, (unsure[0], None), (None, unsure[1])))
    for one, other in ((both, sound), (both, sight), (sound, sight)):
        assert (one.probabilities - other.probabilities).abs().max() > 1e-2
    audio, visual, labels = clips_of()
    for alone in (learnt.predict(audio, None), learnt.predict(None, visual)):
        assert (alone.labels == labels).float().mean() > 0.4
    assert torch.equal(outputs(learnt, audio, None).fused, outputs(learnt, audio, visual).audio)
    assert torch.equal(outputs(learnt, None, visual).fused, outputs(learnt, audio, visual).visual)


def test_predictions_do_not_depend_on_what_else_is_predicted(learnt: Learner) -> None:
    audio, visual, _ = clips_of()
    together = learnt.predict(audio, visual).probabilities
    for clip in (0, 20, 47):
        alone = learnt.predict(audio[clip : clip + 1], visual[clip : clip + 1]).probabilities[0]
        torch.testing.assert_close(alone, together[clip], rtol=1e-3, atol=1e-6)


# how it scores


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


@torch.no_grad()
def log_probabilities(made: Learner, audio: Tensor, visual: Tensor) -> Tensor:
    """Score one clip, (D_a) and (L,S,D_v), by the equations, from the network's parts."""
    assert made.scaler is not None
    scaled = made.scaler(audio[None], visual[None])
    assert scaled[0] is not None
    assert scaled[1] is not None
    network, modalities = net(made), {"audio": scaled[0][:, None], "visual": scaled[1].flatten(1, 2)}
    assert network.prior is not None
    means = {name: tokens.mean(dim=1) for name, tokens in modalities.items()}
    classes = network.prior(means["audio"], means["visual"][:, None, None]).logits[0].log_softmax(dim=0)
    prompts = tiny.text(5, 6)
    prototypes = [*network.prototypes, unit(torch.stack([unit(prompt) for prompt in prompts[0]]).mean(dim=0))]
    found = []
    for task, (first, last) in enumerate(pairwise(STARTS)):
        embedded = {}
        for name, tokens in modalities.items():
            (mixture,) = network.adapters[name].mixtures
            adapted = tokens + mixture(tokens, tokens.mean(dim=1), task)
            embedded[name] = unit(network.towers[name].projection(adapted[0].mean(dim=0)))
        fused = network.fusions[task](embedded["visual"][None], embedded["audio"][None]).feature[0]
        scores = [network.log_scale.exp() * (unit(fused) @ prototypes[label]) for label in range(first, last)]
        found.append(classes[first:last] + torch.stack(scores).log_softmax(dim=0))
    return torch.cat(found)


def test_logits_multiply_the_prior_and_the_experts_as_a_loop_over_clips_does(learnt: Learner) -> None:
    audio, visual, _ = clips_of()
    # Also of clips between two classes, of one task and of two: of the others the prior is sure.
    share, pairs = torch.linspace(0, 1, 30), ((0, 8), (0, 24))
    audio = torch.cat([audio[::5], *(torch.lerp(audio[i], audio[j], share[:, None]) for i, j in pairs)])
    mixed = [torch.lerp(visual[i], visual[j], share[:, None, None, None]) for i, j in pairs]
    visual = torch.cat([visual[::5], *mixed])
    logits = outputs(learnt, audio, visual).logits
    for clip in range(len(logits)):
        expected = log_probabilities(learnt, audio[clip], visual[clip])
        torch.testing.assert_close(logits[clip], expected, rtol=1e-3, atol=1e-3)


def test_without_a_prior_scores_of_all_tasks_compete_as_they_are() -> None:
    made, (audio, visual, _) = taught(options={"prior": "none"}), clips_of()
    said, network = outputs(made, audio, visual), net(made)
    assert said.scale is not None
    assert said.prototypes is not None
    torch.testing.assert_close(said.logits[:, 5:], said.scale * said.fused @ said.prototypes.T)
    assert said.logits.abs().max() <= float(said.scale) * 1.001
    torch.testing.assert_close(network.prototypes.norm(dim=1), torch.ones(5))


def test_raw_prototypes_are_plain_means_and_the_first_prompt_can_stand_alone() -> None:
    text = tiny.text(0, 3)
    for options, expected in (
        ({}, F.normalize(F.normalize(text, dim=2).mean(dim=1), dim=1)),
        ({"prototype": "raw"}, text.mean(dim=1)),
        ({"prompts": "first"}, F.normalize(text[:, 0], dim=1)),
        ({"prompts": "first", "prototype": "raw"}, text[:, 0]),
    ):
        made = taught(tasks=1, options=options)
        prototypes = outputs(made, *clips_of(0, 3)[:2]).prototypes
        torch.testing.assert_close(prototypes, expected)


@pytest.mark.parametrize("name", [NAME, MEMORY_NAME])
def test_in_training_old_classes_are_scored_only_where_there_are_exemplars(name: str) -> None:
    made, (audio, visual, _) = taught(name, tasks=2), clips_of(3, 5)
    assert made.scaler is not None
    network = net(made).train()
    logits = network(*network.stem(*made.scaler(audio, visual))).logits
    assert logits.shape == (16, 5)
    assert logits[:, 3:].isfinite().all()
    assert logits[:, :3].isnan().all() if name == NAME else logits.isfinite().all()


# what never changes


@pytest.mark.parametrize("adapters", ["all", "clips", "text", "none"])
def test_scores_of_old_classes_within_their_task_are_the_same_bits_after_later_tasks(adapters: str) -> None:
    made, (audio, visual, _) = learner(options={"prior": "none", "adapters": adapters}), clips_of()
    seen: list[Tensor] = []
    for _ in TASKS:
        learn_next(made)
        seen.append(outputs(made, audio, visual).logits)
        for sound, sight in ((audio, visual), (audio, None), (None, visual)):
            assert outputs(made, sound, sight).logits.isfinite().all()
    assert torch.equal(seen[1][:, :3], seen[0])
    assert torch.equal(seen[2][:, :5], seen[1])


def test_where_what_tasks_share_is_always_trained_scores_of_old_classes_move() -> None:
    made, (audio, visual, _) = learner(options={"prior": "none", "shared": "always"}), clips_of()
    learn_next(made)
    before = outputs(made, audio, visual).logits
    learn_next(made)
    assert (outputs(made, audio, visual).logits[:, :3] - before).abs().max() > 0.1


def test_what_experts_say_of_old_classes_stays_and_the_prior_compares_them_with_new_ones(stages: list[Learner]) -> None:
    audio, visual, _ = clips_of()
    first = [outputs(without_prior(made), audio, visual).logits[:, :3] for made in stages]
    assert torch.equal(first[1], first[0])
    assert torch.equal(first[2], first[0])
    shares = [made.predict(audio, visual).probabilities[:, :3].sum(dim=1) for made in stages]
    assert (shares[1] - shares[0]).abs().max() > 0.5


@pytest.mark.parametrize("shared", ["first-task", "always"])
@pytest.mark.parametrize("adapters", ["all", "clips"])
def test_prototypes_of_old_classes_are_kept_to_the_bit(adapters: str, shared: str) -> None:
    made = learner(options={"adapters": adapters, "shared": shared})
    known = torch.zeros(0, tiny.TEXT)
    for last in STARTS[1:]:
        learn_next(made)
        assert torch.equal(net(made).prototypes, known)
        own = outputs(made, *clips_of(0, 1)[:2]).prototypes
        assert own is not None
        known = torch.cat([known, own])
        assert len(known) == last


def test_fusions_and_thresholds_of_old_tasks_stay(stages: list[Learner]) -> None:
    for before, after in pairwise(stages):
        old = {name: value for name, value in net(before).state_dict().items() if name.startswith("fusions.")}
        new = net(after).state_dict()
        assert all(torch.equal(new[name], value) for name, value in old.items())
    thresholds = {float(new[f"fusions.{task}.threshold"]) for task in range(3)}
    assert len(thresholds) == 3


@pytest.mark.parametrize("shared", ["first-task", "always"])
def test_after_the_first_task_what_tasks_share_is_trained_only_where_that_is_wanted(shared: str) -> None:
    made = taught(tasks=1, options={"shared": shared})
    before = copy.deepcopy(net(made).state_dict())
    learn_next(made)
    after = net(made).state_dict()
    for name in ("log_scale", "towers.audio.projection.weight", "towers.visual.projection.bias"):
        assert torch.equal(before[name], after[name]) is (shared == "first-task"), name


@pytest.mark.parametrize(
    ("adapters", "towers"),
    [("all", {"audio", "visual", "text"}), ("clips", {"audio", "visual"}), ("text", {"text"}), ("none", set())],
)
def test_adapters_are_learnt_in_the_towers_that_are_named(adapters: str, towers: set[str]) -> None:
    made = taught(tasks=2, options={"adapters": adapters})
    state = net(made).state_dict()
    assert {name.split(".")[1] for name in state if name.startswith("adapters.")} == towers
    for tower in towers:
        for task in range(2):
            ups = [state[f"adapters.{tower}.places.0.experts.{4 * task + expert}.up.weight"] for expert in range(4)]
            assert any(up.any() for up in ups)
    plain = F.normalize(F.normalize(tiny.text(0, 3), dim=2).mean(dim=1), dim=1)
    moved = (net(made).prototypes - plain).abs().max()
    assert bool(moved > 1e-3) is ("text" in towers)


# options


def variants() -> list[tuple[str, Any]]:
    """Every value of an option with a list of values, and both of a switch."""
    found: list[tuple[str, Any]] = []
    for option, kind in get_type_hints(METHODS[MEMORY_NAME]).items():
        if option in ("backbone", "augment"):  # of towers: tests/test_trimodal_towers.py
            continue
        if get_origin(kind) is Literal:
            found += [(option, value) for value in get_args(kind)]
        elif kind is bool:
            found += [(option, True), (option, False)]
    return found


@pytest.mark.parametrize(("option", "value"), variants())
@pytest.mark.parametrize("modality", ["audio-visual", "audio"])
def test_every_value_of_an_option_can_be_learnt_with(option: str, value: Any, modality: str) -> None:
    name = NAME if option in {field.name for field in dataclasses.fields(METHODS[NAME])} else MEMORY_NAME
    training = dataclasses.replace(TRAINING, epochs=1)
    made, width = learner(name, options={option: value}, modality=modality, training=training), tiny.TEXT
    for _ in range(2):
        told = learn_next(made, width=None if option != "projection" else width)
        assert told
        assert all(math.isfinite(loss) for event in told for loss in event.get("losses", {}).values())
    test = of_width(tiny.clips(0, 5), None if option != "projection" else width)
    assert made.predict(test.audio, test.visual).probabilities.isfinite().all()


def test_there_are_values_to_try() -> None:
    assert {"adapters", "fusion", "masking", "prior", "shared", "weighting", "selection"} <= {
        option for option, _ in variants()
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"adapter": "all"}, "no option 'adapter'. Did you mean 'adapters'?"),
        ({"adapters": "audio"}, "option 'adapters' must be one of 'all', 'clips', 'text', 'none', but it is 'audio'"),
        ({"masking": None}, "must be one of 'calibrated', 'learned', 'fixed', 'none', but it is None"),
        ({"experts": 0}, "option 'experts' must be above 0, but it is 0"),
        ({"top_k": 0}, "option 'top_k' must be above 0, but it is 0"),
        ({"top_k": 5}, "option 'top_k' must be at most 'experts' (4), but it is 5"),
        ({"experts": 1}, "option 'top_k' must be at most 'experts' (1), but it is 2"),
        ({"experts": 1.5}, "option 'experts' must be of type int, but it is 1.5"),
        ({"masked_share": 1.5}, "option 'masked_share' must be at most 1, but it is 1.5"),
        ({"temperature": 0.0}, "option 'temperature' must be above 0, but it is 0.0"),
        ({"contrastive_weight": -1.0}, "option 'contrastive_weight' must be 0 or more, but it is -1.0"),
        ({"dropout": float("nan")}, "option 'dropout' must be 0 or more, but it is nan"),
        ({"noisy": 1}, "option 'noisy' must be of type bool, but it is 1"),
        ({"backbone": "clip"}, "options 'backbone' and 'weights' go together"),
        ({"weights": "here"}, "options 'backbone' and 'weights' go together"),
    ],
)
@pytest.mark.parametrize("name", [NAME, MEMORY_NAME])
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(McilError, match=re.escape(words)) as error:
        create_method(name, options)
    assert "\n" not in str(error.value)
    assert f"'{name}'" in str(error.value)


def test_without_a_projection_widths_must_be_equal() -> None:
    with pytest.raises(McilError, match=r"the width of the text \(10\), not audio 8, visual 12$") as error:
        learn_next(learner(options={"projection": False}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: None, "reads text about the classes, and there is none; add it to the store with 'mcil text"),
        (lambda text: text[:1], r"must be \(n,P,...\) of the n = 2 new classes, not \(1, 3, 10\)"),
        (lambda text: text[:, 0], r"must be \(n,P,...\) of the n = 2 new classes, not \(2, 10\)"),
        (lambda text: text[..., :9], r"has shape \(3, 9\) a class, and this learner learnt from \(3, 10\)"),
        (lambda text: text[:, :2], r"has shape \(2, 10\) a class, and this learner learnt from \(3, 10\)"),
    ],
)
def test_text_that_is_missing_or_of_another_shape_is_one_line(change: Any, words: str, tmp_path: Path) -> None:
    made = taught(tasks=1)
    before = tiny.saved(made, tmp_path / "a")
    with pytest.raises(McilError, match=words) as error:
        made.learn(tiny.clips(3, 5), "de", tiny.clips(3, 5, 3), text=change(tiny.text(3, 5)))
    assert "\n" not in str(error.value)
    assert tiny.saved(made, tmp_path / "b") == before


def test_a_network_grows_by_classes_with_text_and_scores_what_it_is_given() -> None:
    made = create_method(NAME).network({"audio": 8, "visual": 12, "text": 10}, 0, "audio-visual")
    assert isinstance(made, TrimodalNet)
    made.grow(3, tiny.text(0, 3))
    for classes, text in ((2, tiny.text(0, 2)), (3, tiny.text(0, 0)), (5, None), (5, tiny.text(3, 6))):
        with pytest.raises(ValueError, match=f"growing from 3 to {classes} classes needs the text of the new ones"):
            made.grow(classes, text)
    with pytest.raises(ValueError, match="'audio-visual' needs at least one modality"):
        made(None, None)


@pytest.mark.parametrize(
    "options",
    [
        {"adapters": "all", "masking": "learned", "prior": "ncm", "prototype": "raw"},
        {"adapters": "text", "fusion": "concatenation", "prior": "none", "shared": "always"},
    ],
)
@pytest.mark.parametrize("name", [NAME, MEMORY_NAME])
def test_what_is_loaded_says_the_same_and_learns_on_the_same(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made, (audio, visual, _) = taught(name, tasks=2, options=options), clips_of()
    made.save(tmp_path / "a")
    loaded = Learner.load(tmp_path / "a")
    assert torch.equal(loaded.predict(audio, visual).probabilities, made.predict(audio, visual).probabilities)
    learn_next(made)
    learn_next(loaded)
    assert tiny.saved(made, tmp_path / "b") == tiny.saved(loaded, tmp_path / "c")


def test_later_tasks_with_nothing_left_to_train_are_learnt_from_their_text_alone() -> None:
    made = learner(options={"adapters": "none", "fusion": "sum"})
    told = [[event["event"] for event in learn_next(made)] for _ in TASKS]
    assert told == [["epoch"] * TRAINING.epochs, ["fit"], ["fit"]]
    audio, visual, labels = clips_of()
    assert (made.predict(audio, visual).labels == labels).float().mean() > 0.5


# losses


def made_step(exemplars: int = 0, audio: bool = True, visual: bool = True, teacher: bool = False) -> Step:
    """Return a step of 6 new clips of the classes 3, 4 after 3 old ones, and some exemplars."""
    random, clips = torch.Generator().manual_seed(0), 6 + exemplars
    views = [F.normalize(torch.randn(clips, 10, generator=random), dim=1) for _ in range(3)]
    logits = torch.randn(clips, 5, generator=random)
    if not exemplars and not teacher:
        logits[:, :3] = torch.nan
    labels = torch.tensor([3, 4, 3, 4, 4, 3, 0, 1, 2])[:clips]
    prototypes = F.normalize(torch.randn(2, 10, generator=random), dim=1)
    said = Outputs(
        logits,
        views[0],
        views[1] if audio else None,
        views[2] if visual else None,
        scale=torch.tensor(9.0),
        prototypes=prototypes,
    )
    before = Teacher(torch.randn(clips, 3, generator=random)) if teacher else None
    return Step(said, labels, exemplars, before, (3, 2))


def losses(name: str, step: Step, **options: Any) -> dict[str, Tensor]:
    method = create_method(name, options)
    assert isinstance(method, GradientMethod)
    return method.losses(step)


@pytest.mark.parametrize("exemplars", [0, 3])
@pytest.mark.parametrize("weighting", ["classes", "clips", "none"])
def test_losses_are_the_terms_that_the_options_weight(weighting: str, exemplars: int) -> None:
    step = made_step(exemplars)
    said, labels = step.outputs, step.labels[:6] - 3
    assert said.audio is not None
    assert said.visual is not None
    assert said.scale is not None
    assert said.prototypes is not None
    found = losses(
        MEMORY_NAME if exemplars else NAME,
        step,
        weighting=weighting,
        contrastive_weight=2.0,
        information_weight=3.0,
        modality_weight=5.0,
        temperature=0.2,
    )
    logits, sights = said.scale * said.fused[:6] @ said.prototypes.T, said.visual[:6]
    plain = F.cross_entropy(logits, labels)
    alike = (sights @ sights.T + 1) / 2
    contrastive = plain if weighting == "none" else weighted_contrastive(logits, labels, alike, weighting)
    agreement = sum(instance_similarity(said.fused[:6], view[:6], 0.2) for view in (said.audio, said.visual))
    alone = sum(F.cross_entropy(9 * view[:6] @ said.prototypes.T, labels) for view in (said.audio, said.visual))
    expected = {"contrastive": 2 * contrastive, "information": 3 * agreement, "modalities": 5 * alone}
    if exemplars:
        expected["replay"] = F.cross_entropy(said.logits, step.labels)
    assert set(found) == set(expected)
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value)


def test_terms_fall_away_with_their_weight_and_with_a_modality() -> None:
    assert set(losses(NAME, made_step(), information_weight=0.0)) == {"contrastive", "modalities"}
    assert set(losses(NAME, made_step(), modality_weight=0.0)) == {"contrastive", "information"}
    for absent in ("audio", "visual"):
        assert set(losses(NAME, made_step(**{absent: False}))) == {"contrastive"}
    assert "distillation" not in losses(NAME, made_step(teacher=True))
    assert losses(NAME, made_step(teacher=True), distillation_weight=1.0)["distillation"] > 0


@pytest.mark.parametrize("shared", ["first-task", "always"])
def test_distillation_changes_what_is_learnt_only_where_what_tasks_share_is_always_trained(shared: str) -> None:
    """Otherwise nothing that scores old classes is trained any more; the term is there, without a gradient."""
    states = []
    for weight in (0.0, 5.0):
        options = STEADY | {"shared": shared, "distillation_weight": weight}
        made = learner(options=options)
        learn_next(made)
        told = learn_next(made)
        assert all(("distillation" in event["losses"]) is (weight > 0) for event in told)
        states.append(net(made).state_dict())
    difference = max(float((states[0][name].float() - value.float()).abs().max()) for name, value in states[1].items())
    assert difference < 1e-5 if shared == "first-task" else difference > 1e-3


def test_distillation_holds_old_scores_where_they_would_move() -> None:
    """On the clips of the new task, which are all that there is to see."""
    audio, visual, _ = clips_of(3, 5, seed=1)
    training, moved = dataclasses.replace(tiny.TRAINING, epochs=10, learning_rate=0.003, protocol="last"), []
    for weight in (0.0, 20.0):
        options = STEADY | {"shared": "always", "prior": "none", "distillation_weight": weight}
        made = learner(options=options, training=training)
        learn_next(made)
        before = outputs(made, audio, visual).logits.log_softmax(dim=1)
        learn_next(made)
        after = outputs(made, audio, visual).logits[:, :3].log_softmax(dim=1)
        moved.append(F.kl_div(after, before, reduction="batchmean", log_target=True))
    assert moved[1] < moved[0] / 2


def test_exemplars_are_kept_and_compete_with_new_classes() -> None:
    made = learner(MEMORY_NAME, memory=12)
    assert set(learn_next(made)[0]["losses"]) == {"contrastive", "information", "modalities"}
    assert all("replay" in event["losses"] for event in learn_next(made))
    assert made.memory is not None
    assert [len(clips) for clips in made.memory.classes] == [12 // 5] * 5
    assert learner().memory is None


# what it tells


def test_its_figures_say_what_is_masked_and_how_experts_are_used(learnt: Learner) -> None:
    assert learnt.scaler is not None
    audio, visual, labels = clips_of()
    parts = [Batch(audio[rows], visual[rows], labels[rows]) for rows in torch.arange(len(labels)).split(20)]
    network = net(learnt)
    staged = [Batch(*network.stem(*learnt.scaler(part.audio, part.visual)), part.labels) for part in parts]
    figures = network.figures(staged)
    assert 0 < figures["unmasked"] <= 1
    assert set(figures["load"]) == {"audio", "visual"}
    for places in figures["load"].values():
        assert [len(shares) for shares in places] == [12]
        assert [sum(shares) for shares in places] == pytest.approx([1.0])
    means = torch.stack([outputs(learnt, part.audio, part.visual).visual.sum(dim=0) for part in parts]).sum(dim=0)
    torch.testing.assert_close(torch.tensor(figures["visual_mean"]), means / len(labels))
    assert len(figures["text_mean"]) == tiny.TEXT
    json.dumps(figures)
