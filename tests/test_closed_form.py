"""Closed-form methods: against naive references, and their promises about order, files and what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcil.errors import McilError
from mcil.methods import METHODS, ClosedForm, create_method
from mcil.models.closed_form import UNSEEN, ClosedFormNet
from mcil.models.closed_form_features import ClipFeatures
from mcil.models.closed_form_ridge import RidgeNet
from mcil.models.closed_form_sums import LeastSquares, Sums
from mcil.types import Batch, Modality
from tests import tiny

NAMES = sorted(name for name in METHODS.names() if issubclass(METHODS[name], ClosedForm))
MODALITIES: tuple[Modality, ...] = ("audio-visual", "audio", "visual")
CHANNELS = {"audio": tiny.AUDIO, "visual": tiny.VISUAL}
OPTIONS = {"ranpac": {"width": 40}, "acil": {"width": 40}, "acil-av": {"width": 40}}
TEST = tiny.clips(0, tiny.CLASSES, seed=2)


def make(name: str, modality: Modality = "audio-visual", classes: int = tiny.CLASSES, **options: Any) -> ClosedFormNet:
    method = create_method(name, OPTIONS.get(name, {}) | options)
    assert isinstance(method, ClosedForm)
    torch.manual_seed(0)  # of the random projections
    return method.network(CHANNELS, classes, modality)


def fitted(net: ClosedFormNet, *batches: Batch) -> ClosedFormNet:
    for batch in batches:
        net.observe(batch.audio, batch.visual, batch.labels)
    net.solve()
    return net


def vectors(batch: Batch) -> np.ndarray[Any, Any]:
    """Return the sound and the mean token side by side, in float64."""
    assert batch.audio is not None
    assert batch.visual is not None
    return np.concatenate([batch.audio.double().numpy(), batch.visual.double().mean((1, 2)).numpy()], axis=1)


def standardised(train: Batch, test: Batch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x, z = vectors(train), vectors(test)
    return (x - x.mean(0)) / x.std(0), (z - x.mean(0)) / x.std(0)


def differences(logits: Tensor) -> np.ndarray[Any, Any]:
    """Return logits less their mean over classes: what a softmax reads."""
    array = logits.double().numpy()
    return array - array.mean(axis=1, keepdims=True)


def assert_same_but_for_scale(found: Tensor, expected: np.ndarray[Any, Any]) -> None:
    ours, theirs = differences(found), expected - expected.mean(axis=1, keepdims=True)
    factor = (ours * theirs).sum() / (theirs**2).sum()
    assert factor > 0
    np.testing.assert_allclose(ours, factor * theirs, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_learns_from_every_modality(name: str, modality: Modality) -> None:
    net = fitted(make(name, modality), tiny.clips(0, tiny.CLASSES))
    outputs = net(audio=TEST.audio, visual=TEST.visual)
    assert outputs.logits.shape == (len(TEST), tiny.CLASSES)
    assert outputs.logits.dtype == torch.float32
    assert outputs.fused.shape == (len(TEST), net.width)
    assert (outputs.logits.argmax(1) == TEST.labels).float().mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_guided_tokens_are_those_that_the_sound_attends_to(name: str) -> None:
    """Sounds that come with other clips' tokens change the guided ones; shuffled patches change nothing."""
    net = fitted(make(name, tokens="guided"), tiny.clips(0, tiny.CLASSES))
    assert net.width > make(name).width
    assert TEST.audio is not None
    assert TEST.visual is not None
    plain = net(TEST.audio, TEST.visual)
    assert (plain.logits.argmax(1) == TEST.labels).float().mean() > 0.8
    shuffled = net(TEST.audio, TEST.visual.flip(2)).logits
    torch.testing.assert_close(shuffled, plain.logits, rtol=1e-4, atol=1e-4)
    for alone in (net(TEST.audio, None), net(None, TEST.visual)):
        assert alone.logits.isfinite().all()
    for modality in ("audio", "visual"):
        assert make(name, modality, tokens="guided").width == make(name, modality).width


def test_guided_pooling_is_attention_with_random_projections() -> None:
    torch.manual_seed(0)
    features = ClipFeatures(CHANNELS, "audio-visual", ("guided",))
    assert TEST.audio is not None
    assert TEST.visual is not None
    found = features({"audio": TEST.audio, "visual": TEST.visual})["guided"]
    clip, width = 3, tiny.VISUAL

    def normalised(vector: Tensor) -> Tensor:
        return (vector - vector.mean()) / vector.var(correction=0).sqrt()

    sound = torch.tanh(normalised(TEST.audio[clip].double()) @ features.get_buffer("attention_audio"))
    tokens = TEST.visual[clip].double()
    frames, weights = [], []
    for frame in tokens:
        look = torch.stack([torch.tanh(normalised(t) @ features.get_buffer("attention_visual")) for t in frame])
        attention = (look * sound).softmax(0)
        frames.append((attention * frame).sum(0))
        weights.append((attention * look).sum(0) * sound)
    expected = (torch.stack(weights).softmax(0) * torch.stack(frames)).sum(0)
    assert expected.shape == (width,)
    torch.testing.assert_close(found[clip], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_each_modality_counts_where_both_are_read(name: str) -> None:
    net = fitted(make(name), tiny.clips(0, tiny.CLASSES))
    logits = net(TEST.audio, TEST.visual).logits
    assert TEST.audio is not None
    assert TEST.visual is not None
    assert not torch.allclose(net(TEST.audio.flip(0), TEST.visual).logits, logits, atol=0.1)
    assert not torch.allclose(net(TEST.audio, TEST.visual.flip(0)).logits, logits, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_modality_leaves_the_other(name: str) -> None:
    net = fitted(make(name), tiny.clips(0, tiny.CLASSES))
    for audio, visual in ((TEST.audio, None), (None, TEST.visual)):
        assert (net(audio, visual).logits.argmax(1) == TEST.labels).float().mean() > 0.8
    with pytest.raises(ValueError, match="needs audio or visual"):
        net(None, None)


def test_without_a_modality_a_net_is_the_one_that_never_had_it() -> None:
    train = tiny.clips(0, tiny.CLASSES)
    for name in ("ncm", "slda"):
        options = {"shrinkage": 0.1} if name == "slda" else {}
        alone = fitted(make(name, "audio", **options), train)(TEST.audio).logits
        np.testing.assert_allclose(
            differences(fitted(make(name, **options), train)(TEST.audio).logits), differences(alone), atol=1e-4
        )


@given(data=st.data())
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", NAMES)
def test_no_order_of_clips_classes_or_tasks_changes_a_prediction(name: str, data: st.DataObject) -> None:
    train = tiny.clips(0, tiny.CLASSES, count=5)
    expected = fitted(make(name), train)
    logits = _logits(expected)
    classes = data.draw(st.permutations(range(tiny.CLASSES)))  # the class that comes first has id 0, and so on
    places = torch.tensor([classes.index(label) for label in range(tiny.CLASSES)])
    cuts = data.draw(st.sets(st.integers(1, tiny.CLASSES - 1)))
    net = make(name, classes=0)
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), tiny.CLASSES], strict=True):
        net.grow(last)
        own = [row for row in range(len(train)) if first <= places[train.labels[row]] < last]
        order = data.draw(st.permutations(own))
        middle = data.draw(st.integers(0, len(order)))
        for rows in (order[:middle], order[middle:]):
            batch = train.select(torch.tensor(rows, dtype=torch.int64))
            net.observe(batch.audio, batch.visual, places[batch.labels])
        net.solve()
    torch.testing.assert_close(_logits(net)[:, places], logits, rtol=0, atol=1e-6)


def _logits(net: Any) -> Tensor:
    """Return the logits of the test clips in float64, before they are rounded to float32."""
    blocks = net.features({"audio": TEST.audio, "visual": TEST.visual})
    features = (torch.cat(list(blocks.values()), dim=1) - net.mean) * net.scale
    logits: Tensor = features @ net.audio_visual_weights + net.audio_visual_bias
    torch.testing.assert_close(logits.float(), net(TEST.audio, TEST.visual).logits)
    return logits


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_net_predicts_the_same_and_learns_on(name: str, modality: Modality) -> None:
    first, second = tiny.clips(0, 4), tiny.clips(4, tiny.CLASSES)
    net = fitted(make(name, modality, classes=4), first)
    again = make(name, modality, classes=4)
    again.load_state_dict({key: tensor.clone() for key, tensor in net.state_dict().items()})
    assert torch.equal(again(TEST.audio, TEST.visual).logits, net(TEST.audio, TEST.visual).logits)
    for one in (net, again):
        one.grow(tiny.CLASSES)
        fitted(one, second)
    assert torch.equal(again(TEST.audio, TEST.visual).logits, net(TEST.audio, TEST.visual).logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_clips_is_never_predicted(name: str) -> None:
    net = fitted(make(name), tiny.clips(0, 2), tiny.clips(4, 6))
    logits = net(TEST.audio, TEST.visual).logits
    assert (logits[:, 2:4] == UNSEEN).all()
    assert (logits.softmax(1)[:, 2:4] == 0).all()
    net.grow(8)
    assert (net(TEST.audio, TEST.visual).logits[:, 6:] == UNSEEN).all()
    with pytest.raises(ValueError, match="cannot be fewer"):
        net.grow(3)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_clips_give_finite_scores(name: str, modality: Modality) -> None:
    many = tiny.clips(0, tiny.CLASSES)
    assert many.audio is not None
    assert many.visual is not None
    constant = Batch(many.audio.clone(), many.visual.clone(), many.labels)
    assert constant.audio is not None
    assert constant.visual is not None
    constant.audio[:, :3], constant.visual[..., :3] = 7.3, -0.1
    zero = Batch(torch.zeros_like(many.audio), torch.zeros_like(many.visual), many.labels)
    for train in (tiny.clips(0, 1), tiny.clips(0, 1, count=1), tiny.clips(0, tiny.CLASSES, count=1), constant, zero):
        outputs = fitted(make(name, modality), train)(TEST.audio, TEST.visual)
        assert outputs.logits.isfinite().all()
        assert outputs.logits.softmax(1).isfinite().all()
        assert outputs.fused.isfinite().all()
        assert outputs.logits.argmax(1).max() <= train.labels.max()


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_read_as_it_is_stored(name: str) -> None:
    train = tiny.clips(0, tiny.CLASSES)
    assert train.audio is not None
    assert train.visual is not None
    half = Batch(train.audio.half(), train.visual.half(), train.labels)
    widened = Batch(train.audio.half().float(), train.visual.half().float(), train.labels)
    found, expected = (fitted(make(name), batch)(TEST.audio, TEST.visual).logits for batch in (half, widened))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_learnt_from_is_refused(name: str) -> None:
    net, train = make(name), tiny.clips(0, 2)
    with pytest.raises(ValueError, match="no clip was observed"):
        net.solve()
    with pytest.raises(ValueError, match="needs visual to learn from"):
        net.observe(train.audio, None, train.labels)
    assert train.audio is not None
    with pytest.raises(ValueError, match=r"audio must be \(B,D\)"):
        net.observe(train.audio[:, 1:], train.visual, train.labels)
    train.audio[3, 2] = torch.inf
    with pytest.raises(McilError, match="not all finite"):
        net.observe(train.audio, train.visual, train.labels)


@pytest.mark.parametrize(
    ("name", "options"),
    [("slda", {"shrinkage": 0.0}), ("slda", {"shrinkage": 1.1}), ("acil", {"ridge": 0.0}), ("ranpac", {"width": 0})],
)
def test_options_that_cannot_be_solved_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(McilError, match=next(iter(options))):
        create_method(name, options)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 12), st.integers(21, 60), st.integers(0, 99), st.booleans())
def test_few_clips_with_many_features_are_solved_as_any_others(
    clips: int, width: int, seed: int, after_others: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(clips, width, dtype=torch.float64, generator=random)
    features[:, 1] = features[:, 0]  # channels that say the same
    labels = F.one_hot(torch.randint(0, 3, (clips,), generator=random), 3).double()
    regression = LeastSquares(Sums(labels.sum(0), labels.T @ features, features.T @ features))
    assert regression.factor is not None
    torch.testing.assert_close(regression.factor.T @ regression.factor, regression.gram)
    columns = slice(3, width)
    penalty = 0.1 + torch.rand(width - 3, dtype=torch.float64, generator=random)
    earlier = torch.randn(width, 3, dtype=torch.float64, generator=random) if after_others else None
    target = regression.cross[columns]
    if earlier is not None:
        target = target - regression.gram[columns] @ earlier
    expected = torch.linalg.solve(regression.gram[columns, columns] + penalty.diag(), target)
    torch.testing.assert_close(regression.ridge(columns, penalty, earlier), expected)


def test_nearest_mean_ranks_by_distance() -> None:
    train = tiny.clips(0, tiny.CLASSES)
    x, z = standardised(train, TEST)
    weigh = np.repeat([1 / tiny.AUDIO, 1 / tiny.VISUAL], [tiny.AUDIO, tiny.VISUAL])
    means = [x[train.labels == label].mean(0) for label in range(tiny.CLASSES)]
    distances = np.stack([(weigh * (z - mean) ** 2).sum(1) for mean in means], axis=1)
    assert_same_but_for_scale(fitted(make("ncm"), train)(TEST.audio, TEST.visual).logits, -distances)


def test_discriminants_are_those_of_the_pooled_covariance() -> None:
    train = tiny.clips(0, tiny.CLASSES)
    x, z = standardised(train, TEST)
    means = np.stack([x[train.labels == label].mean(0) for label in range(tiny.CLASSES)])
    around = x - means[train.labels]
    covariance = 0.7 * around.T @ around / (len(x) - tiny.CLASSES) + 0.3 * np.eye(x.shape[1])
    offsets = z[:, None] - means
    squares = np.einsum("ncd,de,nce->nc", offsets, np.linalg.inv(covariance), offsets)
    assert_same_but_for_scale(fitted(make("slda", shrinkage=0.3), train)(TEST.audio, TEST.visual).logits, -squares)


def test_the_ridge_solution_is_that_of_augmented_least_squares() -> None:
    train = tiny.clips(0, tiny.CLASSES)
    features = ClipFeatures(CHANNELS, "audio-visual", ("audio", "visual"))
    net = fitted(RidgeNet(features, [["audio", "visual"]], tiny.CLASSES, ridge=0.2), train)
    x, z = standardised(train, TEST)
    labels = np.eye(tiny.CLASSES)[train.labels]
    scores = ridge(x, labels, z, 0.2 * len(x)) + labels.mean(0)
    assert_same_but_for_scale(net(TEST.audio, TEST.visual).logits, scores)


def test_streams_fit_what_those_before_them_leave() -> None:
    train = tiny.clips(0, tiny.CLASSES)
    features = ClipFeatures(CHANNELS, "audio-visual", ("audio", "visual"))
    net = fitted(RidgeNet(features, [["audio"], ["visual"]], tiny.CLASSES, ridge=0.2), train)
    x, z = standardised(train, TEST)
    labels = np.eye(tiny.CLASSES)[train.labels]
    sound, look = np.s_[:, : tiny.AUDIO], np.s_[:, tiny.AUDIO :]
    left = labels - labels.mean(0) - ridge(x[sound], labels, x[sound], 0.2 * len(x))
    scores = (
        labels.mean(0) + ridge(x[sound], labels, z[sound], 0.2 * len(x)) + ridge(x[look], left, z[look], 0.2 * len(x))
    )
    assert_same_but_for_scale(net(TEST.audio, TEST.visual).logits, scores)


def ridge(
    x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], z: np.ndarray[Any, Any], penalty: float
) -> np.ndarray[Any, Any]:
    """Return the predictions at ``z``, but for the mean of ``y``, from centred ``x``, by augmented least squares."""
    rows = np.concatenate([x, penalty**0.5 * np.eye(x.shape[1])])
    targets = np.concatenate([y - y.mean(0), np.zeros((x.shape[1], y.shape[1]))])
    return z @ np.linalg.lstsq(rows, targets)[0]


def test_the_recursion_of_acil_ends_at_the_same_weights() -> None:
    """Zhuang et al. keep the inverse R of the penalised Gram matrix and update it, and the weights, batch by batch."""
    train = tiny.clips(0, tiny.CLASSES)
    x, z = standardised(train, TEST)
    labels = np.eye(tiny.CLASSES)[train.labels]
    penalty = 0.2 * len(x)
    inverse, weights = np.eye(x.shape[1]) / penalty, np.zeros((x.shape[1], tiny.CLASSES))
    for rows in np.array_split(np.arange(len(x)), 7):
        own = x[rows]
        gain = np.linalg.inv(np.eye(len(rows)) + own @ inverse @ own.T)
        inverse = inverse - inverse @ own.T @ gain @ own @ inverse
        weights = weights + inverse @ own.T @ (labels[rows] - own @ weights)
    features = ClipFeatures(CHANNELS, "audio-visual", ("audio", "visual"))
    net = fitted(RidgeNet(features, [["audio", "visual"]], tiny.CLASSES, ridge=0.2), train)
    assert_same_but_for_scale(net(TEST.audio, TEST.visual).logits, z @ weights + labels.mean(0))


def test_the_penalty_is_the_best_near_it_in_cross_validation_done_clip_by_clip() -> None:
    train = tiny.clips(0, tiny.CLASSES, count=4)
    assert train.audio is not None
    noisy = Batch(
        train.audio + 2 * torch.randn(train.audio.shape, generator=torch.Generator().manual_seed(0)), None, train.labels
    )
    features = ClipFeatures(CHANNELS, "audio", ("audio",))
    net = RidgeNet(features, [["audio"]], tiny.CLASSES)
    assert noisy.audio is not None
    net.observe(noisy.audio, None, noisy.labels)
    net.solve()
    x = noisy.audio.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    labels, folds = np.eye(tiny.CLASSES)[noisy.labels], features.folds({"audio": noisy.audio}).numpy()

    def error(penalty: float) -> float:
        squares = 0.0
        for fold in (0, 1):
            own, others = folds == fold, folds != fold
            origin = x[own].mean(0)
            found = ridge(x[own] - origin, labels[own], x[others] - origin, penalty) + labels[own].mean(0)
            squares += ((labels[others] - found) ** 2).sum()
        return squares

    chosen = float(net.penalties)
    assert error(chosen) < min(error(chosen * 10**0.5), error(chosen / 10**0.5)) * (1 + 1e-4)


def test_clips_of_one_sound_share_a_fold_and_folds_are_of_like_size() -> None:
    features = ClipFeatures(CHANNELS, "audio-visual", ("audio", "visual"))
    audio = torch.randn(1000, tiny.AUDIO, generator=torch.Generator().manual_seed(0))
    folds = features.folds({"audio": audio})
    assert 400 < int(folds.sum()) < 600
    assert torch.equal(features.folds({"audio": audio.flip(0)}), folds.flip(0))
    assert torch.equal(features.folds({"audio": torch.zeros(1, 8)}), features.folds({"audio": -torch.zeros(1, 8)}))


def test_twins_do_not_make_the_penalty_small() -> None:
    """Sounds that come with many pictures each are no more independent than if they came once."""
    train = tiny.clips(0, tiny.CLASSES, count=4)
    assert train.audio is not None
    noise = torch.randn(train.audio.shape, generator=torch.Generator().manual_seed(0))
    penalties = []
    for copies in (1, 10):
        features = ClipFeatures(CHANNELS, "audio", ("audio",))
        net = RidgeNet(features, [["audio"]], tiny.CLASSES)
        net.observe((train.audio + 2 * noise).repeat(copies, 1), None, train.labels.repeat(copies))
        net.solve()
        penalties.append(float(net.penalties) / (copies * len(train)))
    assert penalties[1] == pytest.approx(penalties[0])


@pytest.mark.parametrize("name", NAMES)
def test_confidence_is_near_the_share_of_right_answers(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    places, labels = 0.8 * torch.randn(4, tiny.AUDIO, generator=generator), torch.arange(800) % 4
    sounds = places[labels] + torch.randn(800, tiny.AUDIO, generator=generator)
    net = make(name, "audio", classes=4)
    net.observe(sounds[:400], None, labels[:400])
    net.solve()
    confidence, found = net(sounds[400:]).logits.softmax(1).max(1)
    right = (found == labels[400:]).float().mean()
    assert 0.6 < right < 0.99
    assert abs(float(confidence.mean() - right)) < 0.12
