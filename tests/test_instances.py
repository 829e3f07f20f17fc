"""Multiple-instance LDA: against loops over tokens, and what may change its answers and what may not."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

import tiny
from mcil.errors import McilError
from mcil.methods import ClosedForm, create_method
from mcil.models.closed_form import UNSEEN, ClosedFormNet
from mcil.models.instances import InstanceNet
from mcil.models.tokens import present
from mcil.types import Batch, Modality, Outputs

Array = np.ndarray[Any, Any]
Net = TypeVar("Net", bound=ClosedFormNet)
CLASSES, OTHERS, SOUND, LOOK, FRAMES, CELLS = 8, 1000, 6, 16, 2, 4
TOKENS = FRAMES * CELLS
CHANNELS = {"audio": SOUND, "visual": LOOK}
MODALITIES: tuple[Modality, ...] = ("audio-visual", "audio", "visual")


def scenes(count: int, seed: int, first: int = 0, last: int = CLASSES) -> tuple[Batch, Tensor]:
    """Return ``count`` clips of each class with things in 8 cells, one of them the class's, and (N,) where that is.

    The others are of other classes, and of 1000 that are no class. Two classes each sound alike and do not come
    together: so the sound leaves two, and which of them it is can be seen.
    """
    places = torch.Generator().manual_seed(5)
    looks = F.normalize(torch.randn(CLASSES + OTHERS, LOOK, generator=places), dim=1) * math.sqrt(LOOK)
    sounds = torch.randn(CLASSES // 2, SOUND, generator=places).repeat_interleave(2, dim=0)
    made = torch.Generator().manual_seed(seed)
    labels = torch.arange(first, last).repeat_interleave(count)
    shown = torch.randint(CLASSES + OTHERS - 2, (len(labels), TOKENS), generator=made)
    shown += 2 * (shown >= labels[:, None] // 2 * 2)
    where = torch.randint(TOKENS, (len(labels),), generator=made)
    shown[torch.arange(len(labels)), where] = labels
    visual = looks[shown] + 0.4 * torch.randn(len(labels), TOKENS, LOOK, generator=made)
    audio = sounds[labels] + 0.6 * torch.randn(len(labels), SOUND, generator=made)
    return Batch(audio, visual.reshape(-1, FRAMES, CELLS, LOOK), labels), where


def lacking(clips: Batch, share: float = 0.3, seed: int = 0) -> Batch:
    """Return the clips without a ``share`` of their tokens, and the first without any."""
    assert clips.visual is not None
    there = torch.rand(clips.visual.shape[:3], generator=torch.Generator().manual_seed(seed)) >= share
    there[0] = False
    return Batch(clips.audio, clips.visual * there[..., None], clips.labels)


def make(modality: Modality = "audio-visual", classes: int = CLASSES, **options: Any) -> InstanceNet:
    method = create_method("mil-lda", options)
    net = method.network(CHANNELS, classes, modality)
    assert isinstance(net, InstanceNet)
    return net


def fitted(net: Net, *tasks: Batch) -> Net:
    """Let ``net`` learn the clips, task by task."""
    for task in tasks:
        net.observe(task.audio, task.visual, task.labels)
        net.solve()
    return net


def says(net: ClosedFormNet, clips: Batch) -> Outputs:
    return net(clips.audio, clips.visual, need_attention=True)


def attention(outputs: Outputs) -> Tensor:
    """Return how likely each token (N,8) is the sounding one."""
    assert outputs.spatial_attention is not None
    assert outputs.temporal_attention is not None
    return (outputs.spatial_attention * outputs.temporal_attention[:, :, None])[..., 0].flatten(1)


def same(found: Outputs, expected: Outputs, tolerance: float = 1e-6) -> None:
    """Compare probabilities, and attention where there is any."""
    torch.testing.assert_close(found.logits.softmax(1), expected.logits.softmax(1), rtol=0, atol=tolerance)
    if expected.spatial_attention is not None:
        torch.testing.assert_close(attention(found), attention(expected), rtol=0, atol=tolerance)


def correct(net: ClosedFormNet, clips: Batch) -> float:
    return (says(net, clips).logits.argmax(1) == clips.labels).float().mean().item()


# The whole of it, token by token.


class Loops:
    """The equations of the class, over lists of tokens."""

    def __init__(self, rounds: int, background: float, shrinkage: float) -> None:
        self.rounds, self.background, self.shrinkage = rounds, background, shrinkage
        self.everything: list[Array] = []
        self.earlier: list[tuple[Array, int, float]] = []  # tokens, their classes and how likely they sound
        self.seen: set[int] = set()

    def learn(self, clips: Batch) -> None:
        assert clips.visual is not None
        tokens = [[token for token in clip.reshape(-1, LOOK) if token.any()] for clip in clips.visual.double().numpy()]
        labels = clips.labels.tolist()
        self.seen |= set(labels)
        self.everything += [token for clip in tokens for token in clip]
        weights = [[1 / len(clip)] * len(clip) for clip in tokens]
        for _ in range(self.rounds):
            self.fit(self.weighed(tokens, labels, weights))
            weights = []
            for clip, label in zip(tokens, labels, strict=True):
                likely = [self.posterior(token)[label] for token in clip]
                weights.append([each / sum(likely) for each in likely])
        self.earlier = self.weighed(tokens, labels, weights)
        self.fit(self.earlier)

    def weighed(
        self, tokens: list[list[Array]], labels: list[int], weights: list[list[float]]
    ) -> list[tuple[Array, int, float]]:
        found = list(self.earlier)
        for clip, label, own in zip(tokens, labels, weights, strict=True):
            found += [(t, label, w) for t, w in zip(clip, own, strict=True) if w > 1e-3 / len(clip)]
        return found

    def fit(self, weighed: list[tuple[Array, int, float]]) -> None:
        self.means = {}
        for label in self.seen:
            own = [(token, weight) for token, of, weight in weighed if of == label]
            self.means[label] = sum(weight * token for token, weight in own) / sum(weight for _, weight in own)
        scatter = np.zeros((LOOK, LOOK))
        for token, label, weight in weighed:
            scatter += weight * np.outer(token - self.means[label], token - self.means[label])
        covariance = scatter / sum(weight for *_, weight in weighed)
        scale = np.trace(covariance) / LOOK
        self.precision = np.linalg.inv((1 - self.shrinkage) * covariance + self.shrinkage * scale * np.eye(LOOK))

    def density(self, token: Array, centre: Array) -> float:
        """The normal density, without the factor that all share."""
        return float(np.exp(-(token - centre) @ self.precision @ (token - centre) / 2))

    def posterior(self, token: Array) -> dict[int, float]:
        """The probability of each seen class."""
        density = {label: self.density(token, mean) for label, mean in self.means.items()}
        rest = self.background * self.density(token, np.mean(self.everything, axis=0))
        return {label: each / (sum(density.values()) + rest) for label, each in density.items()}

    def scores(self, clip: Tensor) -> tuple[Array, Array]:
        """The mean posterior (C) of a picture's tokens, and how likely each token (S,C) sounds, given the class."""
        found = [self.posterior(token) for token in clip.double().numpy().reshape(-1, LOOK) if token.any()]
        table = np.array([[one[label] for label in sorted(one)] for one in found])
        return table.mean(axis=0), table / table.sum(axis=0)


@pytest.mark.parametrize("rounds", [1, 3])
def test_it_is_what_loops_over_tokens_find_in_two_tasks(rounds: int) -> None:
    """With tokens that are absent, and by the picture alone, so that nothing of the sound is in the scores."""
    options = {"background": 2.5, "shrinkage": 0.2}
    tasks = [scenes(7, seed=1, last=3)[0], scenes(4, seed=2, first=3, last=5)[0]]
    tasks = [lacking(task, seed=seed) for seed, task in enumerate(tasks)]
    # No clip without any token: loops have no place for one.
    tasks = [task.select(torch.arange(1, len(task))) for task in tasks]
    test, _ = scenes(2, seed=3)
    assert test.visual is not None
    loops, net = Loops(rounds, **options), make("visual", classes=3, rounds=rounds, **options)
    for task, classes in zip(tasks, (3, 5), strict=True):
        net.grow(classes)
        fitted(net, task)
        loops.learn(task)
        logits = net(None, test.visual).logits
        for clip, scores in zip(test.visual, logits, strict=True):
            expected, _ = loops.scores(clip)
            np.testing.assert_allclose(scores.double().numpy(), np.log(expected), rtol=1e-4, atol=1e-4)


def test_attention_is_that_of_each_class_by_how_likely_the_class_is() -> None:
    train, _ = scenes(5, seed=1, last=4)
    net, loops = fitted(make(classes=4, rounds=2), train), Loops(2, 4.0, 0.1)
    loops.learn(train)
    test, _ = scenes(2, seed=3, last=4)
    assert test.visual is not None
    outputs = says(net, test)
    for clip, scores, found in zip(test.visual, outputs.logits, attention(outputs), strict=True):
        _, likely = loops.scores(clip)
        expected = likely @ scores.double().softmax(0).numpy()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5)


def lda_of_sounds(net: InstanceNet, train: Batch, test: Batch) -> Array:
    """Return the logits (N,C) of linear discriminant analysis with the share of the identity that ``net`` chose."""
    assert net.sound is not None
    assert train.audio is not None
    assert test.audio is not None
    x, z, y = train.audio.double().numpy(), test.audio.double().numpy(), train.labels.numpy()
    x, z = (x - x.mean(0)) / x.std(0), (z - x.mean(0)) / x.std(0)
    means = np.stack([x[y == label].mean(0) for label in range(y.max() + 1)])
    share = float(net.sound.share)
    scatter = (x - means[y]).T @ (x - means[y]) / (len(x) - len(means))
    inverse = np.linalg.inv((1 - share) * scatter + share * np.eye(SOUND))
    logits: Array = z @ inverse @ means.T - np.einsum("cd,de,ce->c", means, inverse, means) / 2
    return logits


def test_of_one_token_it_is_linear_discriminant_analysis_of_picture_and_of_sound() -> None:
    """scikit-learn's for the picture: classes of as many clips, so that its covariance is the same."""
    (train, where), (test, there) = scenes(12, seed=1), scenes(3, seed=2)
    sounding = []
    for clips, place in ((train, where), (test, there)):
        assert clips.visual is not None
        tokens = clips.visual.flatten(1, 2)[torch.arange(len(clips)), place]
        sounding.append(Batch(clips.audio, tokens[:, None, None], clips.labels))
    train, test = sounding
    assert train.visual is not None
    assert test.visual is not None
    net = fitted(make(shrinkage=0.3), train)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=np.full(CLASSES, 1 / CLASSES))
    reference.fit(train.visual[:, 0, 0].double().numpy(), train.labels.numpy())
    seen = reference.decision_function(test.visual[:, 0, 0].double().numpy())
    outputs = says(net, test)
    for found, expected in (
        (net(None, test.visual).logits, seen),
        (net(test.audio, None).logits, lda_of_sounds(net, train, test)),
        (outputs.logits, seen + lda_of_sounds(net, train, test)),
    ):
        less = found.double().numpy()
        np.testing.assert_allclose(
            less - less.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), rtol=1e-4, atol=1e-4
        )
    torch.testing.assert_close(attention(outputs), torch.ones(len(test), 1))


# Whether it finds the thing that sounds.


def in_tasks(net: Net, size: int = 4) -> Net:
    """Let ``net`` learn scenes of ``size`` classes after those of others."""
    for first in range(0, CLASSES, size):
        net.grow(first + size)
        fitted(net, scenes(60, seed=first, first=first, last=first + size)[0])
    return net


def test_it_finds_what_sounds() -> None:
    test, where = scenes(40, seed=9)
    found = attention(says(in_tasks(make(classes=0)), test))
    assert found[torch.arange(len(test)), where].mean() > 0.6  # of even attention 0.125


@pytest.mark.parametrize(("modality", "margin"), [("audio-visual", 0.05), ("visual", 0.1)])
def test_it_is_right_more_often_than_discriminants_of_the_mean_token(modality: Modality, margin: float) -> None:
    test, _ = scenes(40, seed=9)
    slda = create_method("slda")
    assert isinstance(slda, ClosedForm)
    ours, plain = (in_tasks(net) for net in (make(modality, classes=0), slda.network(CHANNELS, 0, modality)))
    assert correct(ours, test) > correct(plain, test) + margin


def test_what_the_sound_leaves_open_the_picture_says_and_the_other_way_round() -> None:
    train, test = scenes(30, seed=1)[0], scenes(20, seed=2)[0]
    net = fitted(make(), train)
    heard, seen = (
        (net(*given).logits.argmax(1) == test.labels).float().mean().item()
        for given in ((test.audio, None), (None, test.visual))
    )
    assert heard < 0.6  # two classes each sound alike
    assert correct(net, test) > max(heard, seen) + 0.05


# What changes nothing.


@given(data=st.data())
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("modality", MODALITIES)
def test_no_order_of_clips_and_no_batches_change_a_prediction(modality: Modality, data: st.DataObject) -> None:
    train, test = lacking(scenes(5, seed=1)[0]), scenes(3, seed=2)[0]
    expected = says(fitted(make(modality), train), test)
    net = make(modality)
    order = torch.tensor(data.draw(st.permutations(range(len(train)))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(train) - 1), max_size=4)))
    for rows in order.tensor_split(cuts):
        part = train.select(rows)
        net.observe(part.audio, part.visual, part.labels)
    net.solve()
    same(says(net, test), expected)
    back = torch.arange(len(test) - 1, -1, -1)
    same(says(net, test.select(back)), Outputs(*(None if each is None else each[back] for each in expected)))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(0, 3))
@settings(max_examples=10, deadline=None)
def test_absent_tokens_anywhere_change_nothing(seed: int, frames: int, cells: int) -> None:
    train, test = (lacking(scenes(4, seed=each)[0], seed=seed) for each in (1, 2))
    made = torch.Generator().manual_seed(seed)
    frame = torch.randperm(FRAMES + frames, generator=made)[:FRAMES].sort().values
    cell = torch.randperm(CELLS + cells, generator=made)[:CELLS].sort().values

    def padded(clips: Batch) -> Batch:
        assert clips.visual is not None
        more = torch.zeros(len(clips), FRAMES + frames, CELLS + cells, LOOK)
        more[:, frame[:, None], cell] = clips.visual
        return Batch(clips.audio, more, clips.labels)

    expected, found = says(fitted(make(), train), test), says(fitted(make(), padded(train)), padded(test))
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-4)
    maps = attention(found).reshape(len(test), FRAMES + frames, CELLS + cells)
    torch.testing.assert_close(maps[:, frame[:, None], cell].flatten(1), attention(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("numbers", [1, 700])
def test_what_is_computed_at_once_changes_nothing(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = lacking(scenes(5, seed=1)[0]), scenes(3, seed=2)[0]
    expected = says(fitted(make(), train), test)
    monkeypatch.setattr("mcil.models.instances._CHUNK", numbers)
    same(says(fitted(make(), train), test), expected)


def test_solving_again_without_new_clips_changes_nothing() -> None:
    net, test = fitted(make(), scenes(5, seed=1)[0]), scenes(3, seed=2)[0]
    before = says(net, test)
    net.solve()
    same(says(net, test), before)


def test_another_order_of_tasks_changes_little() -> None:
    """But something: what was thought of a task's tokens stays, whatever is learnt of later classes."""
    tasks = [scenes(60, seed=first, first=first, last=first + 4)[0] for first in (0, 4)]
    test, _ = scenes(40, seed=9)
    there, back = fitted(make(), *tasks), fitted(make(), *reversed(tasks))
    one, other = says(there, test).logits, says(back, test).logits
    assert abs(correct(there, test) - correct(back, test)) < 0.05
    assert (one.argmax(1) == other.argmax(1)).float().mean() > 0.8
    assert not torch.allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("modality", MODALITIES)
def test_growing_changes_no_logit_of_a_known_class_and_new_ones_are_not_predicted(modality: Modality) -> None:
    net, test = fitted(make(modality, classes=5), scenes(5, seed=1, last=5)[0]), scenes(3, seed=2)[0]
    before = says(net, test)
    net.grow(CLASSES)
    after = says(net, test)
    assert torch.equal(after.logits[:, :5], before.logits)
    assert (after.logits[:, 5:] == UNSEEN).all()
    if modality == "audio-visual":
        torch.testing.assert_close(attention(after), attention(before))
    with pytest.raises(ValueError, match="cannot be fewer"):
        net.grow(4)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_loaded_net_predicts_the_same_and_learns_on(modality: Modality) -> None:
    net, test = fitted(make(modality, classes=4), scenes(5, seed=1, last=4)[0]), scenes(3, seed=2)[0]
    again = make(modality, classes=4)
    again.load_state_dict({name: value.clone() for name, value in net.state_dict().items()})
    assert torch.equal(says(again, test).logits, says(net, test).logits)
    for one in (net, again):
        one.grow(CLASSES)
        fitted(one, scenes(5, seed=1, first=4)[0])
    assert torch.equal(says(again, test).logits, says(net, test).logits)


# What clips lack.


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_class_without_clips_is_never_predicted(modality: Modality) -> None:
    tasks = scenes(5, seed=1, last=2)[0], scenes(5, seed=2, first=4, last=6)[0]
    logits = says(fitted(make(modality), *tasks), scenes(3, seed=3)[0]).logits
    assert (logits[:, [2, 3, 6, 7]] == UNSEEN).all()
    assert (logits.softmax(1)[:, [2, 3, 6, 7]] == 0).all()


def test_a_picture_without_any_token_counts_as_one_that_is_not_given() -> None:
    net, test = fitted(make(), lacking(scenes(5, seed=1)[0])), scenes(3, seed=2)[0]
    assert test.visual is not None
    outputs = net(test.audio, torch.zeros_like(test.visual), need_attention=True)
    torch.testing.assert_close(outputs.logits, net(test.audio, None).logits)
    assert not attention(outputs).any()
    with pytest.raises(ValueError, match="needs audio or visual"):
        net(None, None)


def in_steps(clips: Batch, silent: Tensor) -> Batch:
    """Return the clips with sounds of three steps, the last of which is absent; all of them where ``silent``."""
    assert clips.audio is not None
    there = torch.tensor([1.0, 1.0, 0.0])[:, None] * ~silent[:, None, None]
    return Batch(clips.audio[:, None] * there, clips.visual, clips.labels)


def test_a_sound_without_any_step_is_not_learnt_and_counts_as_one_that_is_not_given() -> None:
    clips, test = scenes(6, seed=1)[0], scenes(3, seed=2)[0]
    silent = torch.arange(len(clips)) % 3 == 0
    train, mute = in_steps(clips, silent), in_steps(test, torch.ones(len(test), dtype=torch.bool))
    net = fitted(make(), train)
    assert torch.equal(says(net, mute).logits, net(None, mute.visual).logits)
    assert torch.equal(net(mute.audio, None).logits, torch.zeros(len(test), CLASSES))
    heard = fitted(make("audio"), train.select(torch.nonzero(~silent).squeeze(1)))
    spoken = in_steps(test, torch.zeros(len(test), dtype=torch.bool))
    assert torch.equal(net(spoken.audio, None).logits, says(heard, spoken).logits)


def test_vectors_of_zeros_are_sounds_like_any_others() -> None:
    clips = scenes(6, seed=1)[0]
    assert clips.audio is not None
    zeros = Batch(torch.zeros_like(clips.audio), clips.visual, clips.labels)
    net = fitted(make(), clips)
    assert not torch.allclose(says(net, zeros).logits, net(None, clips.visual).logits, atol=1e-2)


def test_a_class_that_was_never_heard_is_known_by_its_tokens() -> None:
    clips, test = scenes(10, seed=1)[0], scenes(10, seed=2)[0]
    net = fitted(make(), in_steps(clips, clips.labels == 3))
    own = in_steps(test.select(torch.nonzero(test.labels == 3).squeeze(1)), torch.zeros(10, dtype=torch.bool))
    assert (net(None, own.visual).logits.argmax(1) == 3).any()
    assert (says(net, own).logits[:, 3] > UNSEEN).all()
    deaf = fitted(make(), in_steps(clips, torch.ones(len(clips), dtype=torch.bool)))
    spoken = in_steps(test, torch.zeros(len(test), dtype=torch.bool))
    same(says(deaf, spoken), fitted(make("visual"), clips)(None, test.visual, need_attention=True))


def test_a_class_that_was_only_heard_is_known_by_its_sound() -> None:
    train, test = scenes(10, seed=1)[0], scenes(10, seed=2)[0]
    assert train.visual is not None
    train.visual[train.labels == 3] = 0
    net = fitted(make(), train)
    own = test.select(torch.nonzero(test.labels == 3).squeeze(1))
    assert (says(net, own).logits.argmax(1) // 2 == 1).float().mean() > 0.6  # class 2 sounds the same
    assert (net(own.audio, None).logits.argmax(1) // 2 == 1).float().mean() > 0.6


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_attention_sums_to_one_over_the_tokens_that_are_there(seed: int, share: float) -> None:
    net, test = fitted(make(), scenes(4, seed=1)[0]), lacking(scenes(2, seed=seed)[0], share, seed)
    assert test.visual is not None
    outputs, there = says(net, test), present(test.visual)
    assert outputs.spatial_attention is not None
    assert outputs.temporal_attention is not None
    frames = outputs.spatial_attention.sum(dim=2)[..., 0]
    torch.testing.assert_close(frames, there.any(dim=2).float())
    torch.testing.assert_close(attention(outputs).sum(dim=1), there.any(dim=(1, 2)).float())
    assert (attention(outputs)[~there.flatten(1)] == 0).all()
    assert net(test.audio, test.visual).spatial_attention is None


def test_without_sound_there_is_no_attention_that_it_guides() -> None:
    net, test = fitted(make("visual"), scenes(4, seed=1)[0]), scenes(2, seed=2)[0]
    assert says(net, test).spatial_attention is None


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("modality", MODALITIES)
def test_degenerate_clips_give_finite_scores(modality: Modality, scale: float) -> None:
    many, test = scenes(4, seed=1)[0], scenes(3, seed=2)[0]
    assert many.audio is not None
    assert many.visual is not None
    one, single = scenes(1, seed=1)[0], scenes(1, seed=1, last=1)[0]
    constant = Batch(many.audio, torch.full_like(many.visual, 7.3), many.labels)
    channel = Batch(many.audio, many.visual.index_fill(3, torch.tensor([0, 4]), -0.1), many.labels)
    nothing = Batch(torch.zeros_like(many.audio), torch.zeros_like(many.visual), many.labels)
    for train in (one, single, constant, channel, nothing, lacking(many, share=0.9), lacking(one, share=1.0)):
        assert train.audio is not None
        assert train.visual is not None
        net = fitted(make(modality), Batch(scale * train.audio, scale * train.visual, train.labels))
        fitted(net, Batch(train.audio, train.visual, train.labels))
        outputs = says(net, test)
        assert outputs.logits.isfinite().all()
        assert outputs.logits.softmax(1).isfinite().all()
        assert outputs.logits.argmax(1).max() <= train.labels.max()
        if modality == "audio-visual":
            torch.testing.assert_close(attention(outputs).sum(1), torch.ones(len(test)))


@pytest.mark.parametrize("modality", MODALITIES)
def test_half_precision_is_read_as_it_is_stored(modality: Modality) -> None:
    train, _ = scenes(4, seed=1)
    assert train.audio is not None
    assert train.visual is not None
    narrow = Batch(train.audio.half(), (100 * train.visual).half(), train.labels)
    assert narrow.audio is not None
    assert narrow.visual is not None
    wide = Batch(narrow.audio.float(), narrow.visual.float(), train.labels)
    found, expected = (says(fitted(make(modality), clips), clips) for clips in (narrow, wide))
    assert found.logits.dtype == torch.float32
    same(found, expected)


def test_what_cannot_be_learnt_from_is_refused_and_leaves_nothing_behind() -> None:
    net, (train, _) = make(), scenes(2, seed=1)
    with pytest.raises(ValueError, match="no clip was observed"):
        net.solve()
    with pytest.raises(ValueError, match="no clip was observed"):
        make("visual").solve()
    assert train.audio is not None
    assert train.visual is not None
    with pytest.raises(ValueError, match="needs visual to learn from"):
        net.observe(train.audio, None, train.labels)
    with pytest.raises(ValueError, match=r"visual must be \(B,L,S,D\) with D = 16, not \(16, 4, 16\)"):
        net.observe(train.audio, train.visual[:, 0], train.labels)
    with pytest.raises(ValueError, match=r"audio must be \(B,D\)"):
        net.observe(train.audio[:, 1:], train.visual, train.labels)
    for name in ("audio", "visual"):
        given = {"audio": train.audio.clone(), "visual": train.visual.clone()}
        given[name].view(-1)[7] = torch.nan
        with pytest.raises(McilError, match="not all finite") as error:
            net.observe(given["audio"], given["visual"], train.labels)
        assert "\n" not in str(error.value)
    test, _ = scenes(2, seed=2)
    same(says(fitted(net, train), test), says(fitted(make(), train), test), tolerance=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "'rounds' must be above 0"),
        ({"background": 0.0}, "'background' must be above 0"),
        ({"shrinkage": 0.0}, "'shrinkage' must be above 0"),
        ({"shrinkage": 1.5}, "'shrinkage' must be at most 1, but it is 1.5"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(McilError, match=message) as error:
        create_method("mil-lda", options)
    assert "\n" not in str(error.value)


def test_every_option_counts() -> None:
    train, test = scenes(6, seed=1)[0], scenes(3, seed=2)[0]
    plain = says(fitted(make(), train), test).logits
    for options in ({"rounds": 1}, {"background": 40.0}, {"shrinkage": 0.9}):
        assert not torch.allclose(says(fitted(make(**options), train), test).logits, plain, atol=1e-2)


def test_sounds_of_several_steps_are_read_as_their_mean() -> None:
    clips = tiny.in_steps(tiny.clips(0, 3))
    method = create_method("mil-lda")
    assert clips.audio is not None
    mean = Batch(clips.audio.sum(1) / present(clips.audio).sum(1, keepdim=True), clips.visual, clips.labels)
    nets = [method.network({"audio": tiny.AUDIO, "visual": tiny.VISUAL}, 3, "audio-visual") for _ in range(2)]
    for net, given_clips in zip(nets, (clips, mean), strict=True):
        assert isinstance(net, InstanceNet)
        fitted(net, given_clips)
    same(says(nets[0], clips), says(nets[1], mean), tolerance=1e-5)
