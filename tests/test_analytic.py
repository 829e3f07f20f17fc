"""A closed-form learner over guided attention: what is trained once stays, and the rest is what hands would fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mcil.errors import McilError
from mcil.learner import Learner
from mcil.methods import METHODS, ClosedForm, GradientMethod, create_method
from mcil.methods.sam_audio_analytic import LEARNERS
from mcil.models.analytic import AnalyticNet
from mcil.models.guided import GuidedNet
from mcil.models.tokens import mean_step, present
from mcil.types import Batch, Modality

WIDTH = 16
TRAINING = dataclasses.replace(tiny.TRAINING, protocol="last", epochs=2)
OPTIONS = {"width": WIDTH, "heads": 2}
TASKS = ((0, 3, "abc"), (3, 5, "de"), (5, 6, "f"))


def clips(first: int, last: int, seed: int = 1) -> Batch:
    """Return clips with sounds of up to 4 steps, some of whose tokens are absent."""
    made = tiny.in_steps(tiny.clips(first, last, seed=seed), seed=seed)
    assert made.visual is not None
    there = torch.rand(made.visual.shape[:3], generator=torch.Generator().manual_seed(seed)) >= 0.3
    return dataclasses.replace(made, visual=made.visual * there[..., None])


def learner(modality: Modality = "audio-visual", **options: Any) -> Learner:
    return Learner("sam-audio-analytic", OPTIONS | options, modality=modality, training=TRAINING)


def taught(tasks: int = 3, modality: Modality = "audio-visual", **options: Any) -> Learner:
    made = learner(modality, **options)
    for first, last, names in TASKS[:tasks]:
        made.learn(clips(first, last), names)
    return made


def network(made: Learner) -> AnalyticNet:
    assert isinstance(made.network, AnalyticNet)
    return made.network


def state(made: Learner, part: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network(made).state_dict().items() if name.startswith(part)}


def features(made: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what the learner is to read of clips (N,D_a), (N,D_v + d), one clip after the other.

    Sounds come in the bits that a mean over a whole batch has, since a hash of them says which fold a clip is in.
    """
    assert made.scaler is not None
    guided, sounds, pictures = network(made).guided, [], []
    for audio, visual in zip(*made.scaler(batch.audio, batch.visual), strict=True):
        steps, tokens = (one.reshape(-1, one.shape[-1]) for one in (audio, visual))
        steps, tokens = ([row for row in rows if row.any()] for rows in (steps, tokens))

        def normal(row: Tensor) -> Tensor:
            return (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()

        sounds.append(torch.stack([normal(row) for row in steps]).mean(dim=0))
        with torch.no_grad():
            pooled = guided(*guided.stem(audio[None], visual[None])).pooled
        assert pooled is not None
        mean = torch.stack([normal(row) for row in tokens]).mean(dim=0) if tokens else torch.zeros(tiny.VISUAL)
        pictures.append(torch.cat([mean, pooled[0]]))
    heard, _ = guided.stem(*made.scaler(batch.audio, batch.visual))
    assert heard is not None
    torch.testing.assert_close(mean_step(heard), torch.stack(sounds), rtol=0, atol=1e-5)
    return mean_step(heard), torch.stack(pictures)


def by_hand(made: Learner, name: str) -> Any:
    """Return the closed-form network fitted to the features of all tasks at once, with the same random projections."""
    method = create_method(name)
    assert isinstance(method, ClosedForm)
    net = method.network({"audio": tiny.AUDIO, "visual": tiny.VISUAL + WIDTH}, tiny.CLASSES, "audio-visual")
    drawn = {key: value for key, value in network(made).learner.state_dict().items() if key.startswith("features.")}
    net.load_state_dict(drawn, strict=False)
    for first, last, _ in TASKS:
        batch = clips(first, last)
        sound, picture = features(made, batch)
        net.observe(sound, picture[:, None, None], batch.labels)
    net.solve()
    return net


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_learner_is_the_closed_form_fitted_to_the_same_features(name: str) -> None:
    made = taught(learner=name)
    expected, found = by_hand(made, name).state_dict(), network(made).learner.state_dict()
    assert expected.keys() == found.keys()
    for key, value in found.items():
        scale = float(value.abs().max().clamp_min(1))
        torch.testing.assert_close(value / scale, expected[key] / scale, rtol=0, atol=1e-4, msg=key)
    test = clips(0, tiny.CLASSES, seed=3)
    sound, picture = features(made, test)
    logits = by_hand(made, name)(sound, picture[:, None, None]).logits
    probabilities = made.predict(test.audio, test.visual).probabilities
    torch.testing.assert_close(probabilities, logits.softmax(1), rtol=0, atol=1e-3)
    assert (probabilities.argmax(1) == test.labels).float().mean() > 0.5  # of six classes


@pytest.mark.parametrize("fusion", ["guided", "context", "naive"])
def test_what_the_first_task_trained_stays_to_the_bit(fusion: str) -> None:
    made = learner(fusion=fusion)
    made.learn(clips(0, 3), "abc")
    before = state(made, "guided")
    for first, last, names in TASKS[1:]:
        events: list[dict[str, Any]] = []
        made.learn(clips(first, last), names, on_event=events.append)
        assert [event["event"] for event in events] == ["fit"]
    after = state(made, "guided")
    assert after.keys() == before.keys()
    for name, value in before.items():
        rows = slice(0, 3) if "classifier" in name else slice(None)
        assert torch.equal(after[name][rows] if value.ndim else after[name], value), name
    assert not any(parameter.requires_grad for parameter in network(made).guided.parameters())


def test_the_first_task_is_trained() -> None:
    """With a rate of nearly nothing it stays where it began."""
    begun, trained = (
        Learner("sam-audio-analytic", OPTIONS, training=dataclasses.replace(TRAINING, learning_rate=rate))
        for rate in (1e-12, 0.01)
    )
    for made in (begun, trained):
        made.learn(clips(0, 3), "abc")
    name = "guided.visual_in.weight"
    assert not torch.allclose(state(begun, name)[name], state(trained, name)[name], atol=1e-3)


def test_what_is_fitted_later_does_not_depend_on_the_order_of_clips_or_of_later_tasks() -> None:
    """The class that comes first has the first number, so columns are compared by name."""
    there, back = learner(), learner()
    for made in (there, back):
        made.learn(clips(0, 3), "abc")
    there.learn(clips(3, 5), "de")
    there.learn(clips(5, 6), "f")
    turned = clips(5, 6).select(torch.arange(8).flip(0))
    back.learn(dataclasses.replace(turned, labels=turned.labels - 2), "f")
    turned = clips(3, 5).select(torch.randperm(16, generator=torch.Generator().manual_seed(0)))
    back.learn(dataclasses.replace(turned, labels=turned.labels + 1), "de")
    test = clips(0, tiny.CLASSES, seed=3)
    one, other = (made.predict(test.audio, test.visual).probabilities for made in (there, back))
    places = [back.class_names.index(name) for name in there.class_names]
    torch.testing.assert_close(other[:, places], one, rtol=0, atol=1e-5)


def test_attention_is_that_of_the_frozen_network_after_every_task() -> None:
    made, test = learner(), clips(0, tiny.CLASSES, seed=3)
    assert test.audio is not None
    assert test.visual is not None
    maps = []
    for first, last, names in TASKS:
        made.learn(clips(first, last), names)
        attention = made.attention(test.audio, test.visual)
        assert attention is not None
        maps.append(attention)
    there = present(test.visual)
    for attention in maps:
        torch.testing.assert_close(attention.spatial.sum(dim=2), there.any(dim=2).float())
        torch.testing.assert_close(attention.temporal.sum(dim=1), there.any(dim=(1, 2)).float())
        torch.testing.assert_close(attention.spatial, maps[0].spatial)
        torch.testing.assert_close(attention.temporal, maps[0].temporal)


def test_no_exemplar_is_kept(tmp_path: Path) -> None:
    method = METHODS["sam-audio-analytic"]
    assert issubclass(method, GradientMethod)
    assert method.trains_once
    assert not method.uses_memory
    assert not method.uses_teacher
    sizes = []
    for tasks in (1, 3):
        made = Learner("sam-audio-analytic", OPTIONS, memory=500, training=TRAINING)
        for first, last, names in TASKS[:tasks]:
            made.learn(clips(first, last), names)
        assert made.memory is None
        sizes.append(len(tiny.saved(made, tmp_path / str(tasks))))
    more = taught(1)
    more.learn(clips(3, 6), "def")
    assert len(tiny.saved(more, tmp_path / "more")) == pytest.approx(sizes[1], rel=0.01)  # whatever the tasks were


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_of_one_modality_the_learner_reads_that_one(modality: Modality) -> None:
    made = taught(modality=modality)
    guided = network(made).guided
    assert isinstance(guided, GuidedNet)
    assert guided.guidance == modality
    test = clips(0, tiny.CLASSES, seed=3)
    audio, visual = (test.audio, None) if modality == "audio" else (None, test.visual)
    assert (made.predict(audio, visual).labels == test.labels).float().mean() > 0.5


def test_without_sound_or_picture_predictions_are_probabilities() -> None:
    made, test = taught(), clips(0, tiny.CLASSES, seed=3)
    for audio, visual in ((test.audio, None), (None, test.visual)):
        probabilities = made.predict(audio, visual).probabilities
        assert probabilities.isfinite().all()
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(test)))


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_is_loaded_goes_on_in_closed_form(tasks: int, tmp_path: Path) -> None:
    made, test = taught(tasks), clips(0, tiny.CLASSES, seed=3)
    made.save(tmp_path)
    loaded = Learner.load(tmp_path)
    first, last, names = TASKS[tasks]
    for each in (made, loaded):
        each.learn(clips(first, last), names)
    one, other = (each.predict(test.audio, test.visual).probabilities for each in (made, loaded))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learner": "zero-shot"}, "'learner' must be one of"),
        ({"fusion": "audio"}, "'fusion' must be one of"),
        ({"heads": 3}, "'heads' must divide the width 512, but it is 3"),
        ({"width": 0}, "'width' must be above 0"),
        ({"dropout": 1.0}, "'dropout' must be below 1, but it is 1.0"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(McilError, match=message) as error:
        create_method("sam-audio-analytic", options)
    assert "\n" not in str(error.value)


def test_every_learner_that_is_offered_is_a_closed_form_of_that_name() -> None:
    assert {name: METHODS[name] for name in LEARNERS} == LEARNERS
