"""Recognition by text: what is aligned when, against plain loops and a regression written down once more."""

import copy
import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tiny
from mcil.errors import McilError
from mcil.learner import Learner
from mcil.methods import METHODS, create_method
from mcil.models.zero_shot import TextRegression, ZeroShotNet
from mcil.types import Batch, Modality, concatenate

NAME = "zero-shot"
TASKS, STARTS = ("abc", "de", "f"), (0, 3, 5, 6)
WIDTH = tiny.TEXT


def learner(alignment: str = "first-task", **changes: Any) -> Learner:
    options = {"alignment": alignment} | changes.pop("options", {})
    return Learner(NAME, options, **{"training": tiny.TRAINING} | changes)


def taught(alignment: str = "first-task", *, tasks: int = 3, text: Tensor | None = None, **changes: Any) -> Learner:
    made = learner(alignment, **changes)
    for task in range(tasks):
        learn_task(made, task, text=text)
    return made


def learn_task(made: Learner, task: int, text: Tensor | None = None, seed: int = 1) -> None:
    first, last = STARTS[task], STARTS[task + 1]
    text = tiny.text(0, tiny.CLASSES) if text is None else text
    train = tiny.clips(first, last, seed=seed)
    if made.method.alignment == "none":
        train = of_text_width(train)
    made.learn(train, TASKS[task], text=text[first:last])


def of_text_width(clips: Batch) -> Batch:
    """Return clips whose features have the width of the text."""
    assert clips.audio is not None
    assert clips.visual is not None
    return dataclasses.replace(clips, audio=F.pad(clips.audio, (0, 2), value=0.5), visual=clips.visual[..., :WIDTH])


def net(made: Learner) -> ZeroShotNet:
    assert isinstance(made.network, ZeroShotNet)
    return made.network


def unit(vector: Any) -> Any:
    return vector / np.sqrt((vector**2).sum())


def prototypes(text: Tensor) -> np.ndarray[Any, Any]:
    """The mean of a class's prompts, each of length 1, at length 1; class by class."""
    return np.stack([unit(np.mean([unit(prompt) for prompt in prompts], axis=0)) for prompts in text.double().numpy()])


def pooled(clips: Batch) -> dict[str, np.ndarray[Any, Any]]:
    assert clips.audio is not None
    assert clips.visual is not None
    return {"audio": clips.audio.double().numpy(), "visual": clips.visual.double().mean(dim=(1, 2)).numpy()}


def nearest(embedded: dict[str, np.ndarray[Any, Any]], text: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Cosines (N,C) of the sum of a clip's embeddings, each of length 1, with each class's text, in plain loops."""
    clips = len(next(iter(embedded.values())))
    cosines = np.zeros((clips, len(text)))
    for clip in range(clips):
        vector = unit(sum(unit(embedding[clip]) for embedding in embedded.values()))
        for label in range(len(text)):
            cosines[clip, label] = float(vector @ text[label])
    return cosines


def ridge(features: Any, targets: Any, mean: Any, deviation: Any, penalty: float) -> Any:
    """Least squares on standardised, centred features, with a penalty on the weights but not on the intercept."""
    scaled = (features - mean) / deviation
    centre, level = scaled.mean(axis=0), targets.mean(axis=0)
    gram = (scaled - centre).T @ (scaled - centre) + penalty * len(scaled) * np.eye(scaled.shape[1])
    weights = np.linalg.inv(gram) @ (scaled - centre).T @ (targets - level)
    return lambda other: ((other - mean) / deviation - centre) @ weights + level


def expected(alignment: str, tasks: int, modalities: tuple[str, ...], test: Batch, penalty: float = 0.1) -> Any:
    """Cosines (N,C) after so many tasks, from all clips at once."""
    seen = STARTS[tasks]
    text = prototypes(tiny.text(0, seen))
    # The same clips as task by task.
    read = 1 if alignment == "first-task" else tasks
    parts = [tiny.clips(first, last) for first, last in pairwise(STARTS[: read + 1])]
    aligning = concatenate(parts)
    first, everything, asked = pooled(parts[0]), pooled(aligning), pooled(test)
    targets, embedded = text[aligning.labels.numpy()], {}
    for name in modalities:
        mean, deviation = first[name].mean(axis=0), first[name].std(axis=0)
        embedded[name] = ridge(everything[name], targets, mean, deviation, penalty)(asked[name])
    return nearest(embedded, text)


def assert_scored(said: Any, cosines: np.ndarray[Any, Any]) -> None:
    """Probabilities are the softmax of cosines times 1 / 0.07, and the greatest cosine names the class."""
    sharp = np.exp(cosines / 0.07)
    expected_probabilities = torch.from_numpy(sharp / sharp.sum(axis=1, keepdims=True)).float()
    torch.testing.assert_close(said.probabilities, expected_probabilities, rtol=1e-4, atol=1e-6)
    assert said.labels.tolist() == cosines.argmax(axis=1).tolist()


# without alignment


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio",), ("visual",)])
def test_without_alignment_the_most_similar_text_names_the_clip(modalities: tuple[str, ...]) -> None:
    made, test = taught("none"), of_text_width(tiny.clips(0, 6, seed=3))
    features = {name: array for name, array in pooled(test).items() if name in modalities}
    said = made.predict(*(test.audio if "audio" in features else None, test.visual if "visual" in features else None))
    assert_scored(said, nearest(features, prototypes(tiny.text(0, 6))))


def test_without_alignment_nothing_is_learnt_from_clips() -> None:
    made, other = taught("none"), learner("none")
    for task in range(3):
        learn_other = of_text_width(tiny.clips(STARTS[task], STARTS[task + 1], seed=9))
        other.learn(learn_other, TASKS[task], text=tiny.text(STARTS[task], STARTS[task + 1]))
    assert set(net(made).state_dict()) == {"prototypes"}
    assert torch.equal(net(made).prototypes, net(other).prototypes)
    torch.testing.assert_close(net(made).prototypes.double().numpy(), prototypes(tiny.text(0, 6)), rtol=0, atol=1e-6)


def test_without_alignment_clips_that_are_their_text_are_recognised() -> None:
    made, text = learner("none", modality="audio"), tiny.text(0, 6)
    for task, (first, last) in enumerate(pairwise(STARTS)):
        train = Batch(text[first:last, 0], None, torch.arange(first, last))
        made.learn(train, TASKS[task], text=text[first:last])
    assert made.predict(5 * text[:, 1]).labels.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("modality", "sizes"), [("audio-visual", "audio 8, visual 12"), ("audio", "audio 8"), ("visual", "visual 12")]
)
def test_without_alignment_other_widths_than_the_texts_are_one_line(modality: Modality, sizes: str) -> None:
    words = f"without alignment features must have the width of the text (10), not {sizes}; use encoders with a space"
    with pytest.raises(McilError, match=re.escape(words)) as error:
        learner("none", modality=modality).learn(tiny.clips(0, 3), "abc", text=tiny.text(0, 3))
    assert "\n" not in str(error.value)


# alignment


@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("alignment", ["first-task", "every-task"])
def test_probabilities_are_those_of_a_regression_written_down_once_more(alignment: str, tasks: int) -> None:
    made, test = taught(alignment, tasks=tasks), tiny.clips(0, STARTS[tasks], seed=3)
    for modalities in (("audio", "visual"), ("audio",), ("visual",)):
        said = made.predict(*(getattr(test, name) if name in modalities else None for name in ("audio", "visual")))
        assert_scored(said, expected(alignment, tasks, modalities, test))


@pytest.mark.parametrize("modality", ["audio", "visual"])
@pytest.mark.parametrize("alignment", ["first-task", "every-task"])
def test_one_modality_can_be_learnt_alone(alignment: str, modality: Modality) -> None:
    made, test = taught(alignment, modality=modality), tiny.clips(0, 6, seed=3)
    said = made.predict(test.audio, test.visual)
    assert_scored(said, expected(alignment, 3, (modality,), test))
    only = made.predict(*(getattr(test, name) if name == modality else None for name in ("audio", "visual")))
    assert torch.equal(only.probabilities, said.probabilities)


def test_aligned_by_every_task_it_knows_all_classes() -> None:
    made, test = taught("every-task"), tiny.clips(0, 6, seed=3)
    assert (made.predict(test.audio, test.visual).labels == test.labels).float().mean() > 0.9


def test_aligned_by_the_first_task_later_clips_teach_nothing() -> None:
    """Later classes are known by their text alone: other clips, even of other classes, change no bit."""
    made, other = taught(tasks=1), taught(tasks=1)
    before = {name: value.clone() for name, value in net(made).state_dict().items() if name != "prototypes"}
    assert before["regressions.audio.weights"].any()
    for task in (1, 2):
        learn_task(made, task)
        learn_task(other, task, seed=7)
        after = net(made).state_dict()
        assert after.keys() == {*before, "prototypes"}
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(torch.equal(value, net(other).state_dict()[name]) for name, value in after.items())
        text = prototypes(tiny.text(0, STARTS[task + 1]))
        torch.testing.assert_close(net(made).prototypes.double().numpy(), text, rtol=0, atol=1e-6)


def test_aligned_by_every_task_later_clips_teach() -> None:
    made = taught("every-task", tasks=1)
    before = copy.deepcopy(net(made).state_dict())
    learn_task(made, 1)
    after = net(made).state_dict()
    for name in ("audio", "visual"):
        assert not torch.equal(after[f"regressions.{name}.weights"], before[f"regressions.{name}.weights"])
        # Standardised by the first task.
        for statistic in ("mean", "scale"):
            assert torch.equal(after[f"regressions.{name}.{statistic}"], before[f"regressions.{name}.{statistic}"])


def test_text_of_old_classes_is_scored_the_same_after_later_tasks() -> None:
    made, test = taught(tasks=1), tiny.clips(0, 6, seed=3)
    scores = [net(made)(test.audio, test.visual).logits]
    for task in (1, 2):
        learn_task(made, task)
        scores.append(net(made)(test.audio, test.visual).logits)
    torch.testing.assert_close(scores[1][:, :3], scores[0])
    torch.testing.assert_close(scores[2][:, :5], scores[1])


def test_other_text_makes_other_predictions() -> None:
    test = tiny.clips(0, 6, seed=3)
    plain = taught().predict(test.audio, test.visual).probabilities
    other = taught(text=tiny.text(0, 6)[[0, 1, 2, 4, 3, 5]]).predict(test.audio, test.visual).probabilities
    # The texts of two later classes in each other's place: so are their scores.
    torch.testing.assert_close(other, plain[:, [0, 1, 2, 4, 3, 5]])


@given(st.permutations(range(24)), st.integers(1, 24))
def test_neither_the_order_of_clips_nor_that_of_batches_matters(order: list[int], size: int) -> None:
    clips, found = tiny.clips(0, 3), []
    for batches in (torch.arange(24)[None], torch.tensor(order).split(size)):
        network = ZeroShotNet({"audio": 8, "visual": 12, "text": 10}, "audio-visual", "every-task")
        network.grow(3, tiny.text(0, 3))
        for rows in batches:
            part = clips.select(rows)
            network.observe(part.audio, part.visual, part.labels)
        network.solve()
        found.append(network)
    one, other = (network(clips.audio, clips.visual).logits for network in found)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_batches_of_a_learner_do_not_matter() -> None:
    test, found = tiny.clips(0, 6, seed=3), []
    for size in (1, 5, 100):
        training = dataclasses.replace(tiny.TRAINING, evaluation_batch_size=size)
        found.append(taught("every-task", training=training).predict(test.audio, test.visual).probabilities)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_of_tasks_after_the_first_the_order_does_not_matter() -> None:
    text, found = tiny.text(0, 6), []
    for later in ((3, 4, 5), (5, 3, 4)):
        network = ZeroShotNet({"audio": 8, "visual": 12, "text": 10}, "audio-visual", "every-task")
        places = [0, 1, 2]
        for new in ((0, 1, 2), *((label,) for label in later)):
            places = [*new] if len(new) == 3 else [*places, *new]
            network.grow(len(places), text[list(new)])
            for label in new:
                own = tiny.clips(label, label + 1)
                network.observe(own.audio, own.visual, torch.full_like(own.labels, places.index(label)))
            network.solve()
        test = tiny.clips(0, 6, seed=3)
        found.append(network(test.audio, test.visual).logits[:, [places.index(label) for label in range(6)]])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("penalty", [0.001, 10.0])
def test_a_greater_penalty_shrinks_the_weights(penalty: float) -> None:
    plain, other = TextRegression(8, 10, 0.1), TextRegression(8, 10, penalty)
    random = torch.Generator().manual_seed(0)
    features, text = (torch.randn(40, count, generator=random, dtype=torch.float64) for count in (8, 10))
    for regression in (plain, other):
        regression.observe(features, text)
        regression.solve()
    sizes = [float(regression.weights[:-1].norm()) for regression in (plain, other)]
    assert (sizes[1] > sizes[0]) is (penalty < 0.1)
    # The intercept is not shrunk: the mean clip has the mean text.
    torch.testing.assert_close(other(features).mean(dim=0), text.mean(dim=0))


def test_a_feature_that_does_not_vary_is_no_trouble() -> None:
    made, train = learner(), tiny.clips(0, 3)
    assert train.audio is not None
    train.audio[:, 0] = 3.0
    made.learn(train, "abc", text=tiny.text(0, 3))
    test = tiny.clips(0, 3, seed=3)
    assert made.predict(test.audio, test.visual).probabilities.isfinite().all()


# what is kept, and what is refused


@pytest.mark.parametrize("modality", ["audio-visual", "audio"])
@pytest.mark.parametrize("alignment", ["first-task", "every-task"])
def test_what_is_loaded_says_the_same_and_learns_on_the_same(
    alignment: str, modality: Modality, tmp_path: Path
) -> None:
    made, test = taught(alignment, tasks=2, modality=modality), tiny.clips(0, 6, seed=3)
    made.save(tmp_path / "a")
    loaded = Learner.load(tmp_path / "a")
    for _ in range(2):
        one, other = (each.predict(test.audio, test.visual).probabilities for each in (made, loaded))
        assert torch.equal(one, other)
        if len(made.task_sizes) < 3:
            learn_task(made, 2)
            learn_task(loaded, 2)
    assert tiny.saved(made, tmp_path / "b") == tiny.saved(loaded, tmp_path / "c")


def test_a_learner_of_one_task_that_is_loaded_learns_from_no_later_one(tmp_path: Path) -> None:
    taught(tasks=1).save(tmp_path)
    loaded = Learner.load(tmp_path)
    before = {name: value.clone() for name, value in net(loaded).state_dict().items() if name != "prototypes"}
    learn_task(loaded, 1)
    assert all(torch.equal(net(loaded).state_dict()[name], value) for name, value in before.items())


def test_embeddings_are_unit_vectors_in_the_space_of_the_text() -> None:
    made, test = taught(), tiny.clips(0, 6, seed=3)
    said = net(made)(test.audio, test.visual)
    for view in (said.fused, said.audio, said.visual, said.prototypes):
        assert view is not None
        assert view.shape[1] == tiny.TEXT
        torch.testing.assert_close(view.norm(dim=1), torch.ones(len(view)))
    torch.testing.assert_close(said.logits, said.fused @ said.prototypes.T / 0.07)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": 0}, "method 'zero-shot': option 'penalty' must be above 0, but it is 0"),
        ({"penalty": -0.5}, "option 'penalty' must be above 0, but it is -0.5"),
        ({"penalty": float("nan")}, "option 'penalty' must be above 0, but it is nan"),
        ({"penalty": "much"}, "option 'penalty' must be of type float, but it is 'much'"),
        ({"alignment": "first"}, "must be one of 'none', 'first-task', 'every-task', but it is 'first'"),
        ({"aligment": "none"}, "no option 'aligment'. Did you mean 'alignment'? It has: alignment, penalty"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(McilError, match=re.escape(words)) as error:
        create_method(NAME, options)
    assert "\n" not in str(error.value)


def test_it_keeps_no_clips_and_needs_text() -> None:
    kind = METHODS[NAME]
    assert (kind.closed_form, kind.uses_memory, kind.uses_text) == (True, False, True)
    with pytest.raises(McilError, match="reads text about the classes, and there is none") as error:
        learner().learn(tiny.clips(0, 3), "abc")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", [0, 1])
def test_clips_with_numbers_that_are_none_are_one_line(task: int) -> None:
    made = taught(tasks=task)
    train = tiny.clips(STARTS[task], STARTS[task + 1])
    assert train.audio is not None
    train.audio[2, 3] = torch.nan
    with pytest.raises(McilError, match="are not all finite; extract them again") as error:
        made.learn(train, TASKS[task], text=tiny.text(STARTS[task], STARTS[task + 1]))
    assert "\n" not in str(error.value)


def test_a_network_needs_what_it_reads() -> None:
    network = ZeroShotNet({"audio": 8, "visual": 12, "text": 10}, "audio-visual")
    network.grow(3, tiny.text(0, 3))
    clips = tiny.clips(0, 3)
    with pytest.raises(ValueError, match="needs visual to learn from"):
        network.observe(clips.audio, None, clips.labels)
    with pytest.raises(ValueError, match="needs audio or visual"):
        network(None, None)
    for text in (None, tiny.text(0, 1)):
        with pytest.raises(ValueError, match="5 classes in all need the text of 2 new ones"):
            network.grow(5, text)
