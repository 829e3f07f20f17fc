"""Tokens that a clip does not have, from the scaler to the learner: against loops, and what they may not change."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
import tiny_released
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.errors import McilError
from mcil.experiment.folder import RunFolder
from mcil.experiment.single import run_single
from mcil.learner import Learner
from mcil.models import AudioVisualNet, InputScaler
from mcil.models.closed_form_features import ClipFeatures
from mcil.models.tokens import mean_step, mean_token, present, present_unless_all
from mcil.models.trimodal import StoredTower
from mcil.training import TrainingOptions

LAST = dataclasses.replace(tiny.TRAINING, protocol="last", epochs=2)
SHAPES = ((9, 4, 3), (9, 2, 3, 3))


def tokens(shape: tuple[int, ...], seed: int = 0, share: float = 0.3) -> Tensor:
    """Return normal tokens, a ``share`` of which is absent; others may begin with 0."""
    made = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=made) * 3 + 2
    values[..., 0] *= torch.rand(shape[:-1], generator=made) > 0.3
    return values * (torch.rand(shape[:-1], generator=made) >= share)[..., None]


def mean_of_those_there(clip: Tensor) -> Tensor:
    """Return the mean (D,) of the tokens of one clip that are not all zeros, one after the other."""
    rows = [row for row in clip.reshape(-1, clip.shape[-1]) if row.count_nonzero()]
    total = torch.zeros(clip.shape[-1], dtype=clip.dtype)
    for row in rows:
        total = total + row
    return total / max(1, len(rows))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=30)
@pytest.mark.parametrize(("shape", "mean"), [(SHAPES[0], mean_step), (SHAPES[1], mean_token)])
def test_means_are_over_the_tokens_that_are_there(
    shape: tuple[int, ...], mean: Callable[..., Tensor], seed: int, share: float
) -> None:
    clips = tokens(shape, seed, share)
    clips[3] = 0
    for dtype in (torch.float32, torch.float64):
        expected = torch.stack([mean_of_those_there(clip.to(dtype)) for clip in clips])
        torch.testing.assert_close(mean(clips, dtype), expected)
    assert mean(clips).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_token_is_there_if_any_of_its_numbers_is_not_zero(dtype: torch.dtype) -> None:
    rows = [[0.0, 0.0], [0.0, -0.0], [0.0, 1e-7], [-2.0, 0.0], [0.0, math.nan]]
    assert present(torch.tensor(rows, dtype=dtype)).tolist() == [False, False, True, True, True]


def test_without_absent_tokens_means_are_plain_ones() -> None:
    sounds, pictures = (torch.randn(shape) for shape in SHAPES)
    assert torch.equal(mean_step(sounds), sounds.mean(dim=1))
    assert torch.equal(mean_token(pictures), pictures.mean(dim=(1, 2)))
    vector = sounds[:, 0]
    assert mean_step(vector) is vector
    assert torch.equal(mean_step(vector, torch.float64), vector.double())
    assert present(vector).all()


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.3))
@settings(max_examples=30)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_is_made_only_where_a_token_is_absent(shape: tuple[int, ...], seed: int, share: float) -> None:
    features = tokens(shape, seed, share)
    there = present_unless_all(features)
    if there is None:
        assert present(features).all()
    else:
        assert torch.equal(there, present(features))
        assert not there.all()


def test_vectors_are_there_even_if_they_are_zeros() -> None:
    assert present_unless_all(torch.zeros(3, 4)) is None
    assert present_unless_all(torch.zeros(3, 1, 1, 4)) is None


# Input scaling.


def fitted(audio: Tensor | None = None, visual: Tensor | None = None) -> InputScaler:
    scaler = InputScaler(*(None if features is None else features.shape[-1] for features in (audio, visual)))
    scaler.fit(audio, visual)
    return scaler


def scaled(features: Tensor, later: Tensor) -> Tensor:
    """Return ``later`` as the scaler that is fitted on ``features`` has it: sounds (N,T,D) or pictures (N,L,S,D)."""
    found = fitted(features)(later)[0] if features.ndim == 3 else fitted(None, features)(None, later)[1]
    assert found is not None
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 24])
def test_absent_tokens_are_left_out_and_stay_zero(
    shape: tuple[int, ...], dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcil.models.inputs._CHUNK", chunk)
    first, later = tokens(shape).to(dtype), tokens(shape, seed=1).to(dtype)
    first[2], later[5] = 0, 0  # a whole clip
    rows = [row.double() for row in first.reshape(-1, 3) if row.count_nonzero()]
    mean = sum(rows) / len(rows)
    deviation = (sum((row - mean) ** 2 for row in rows) / len(rows)) ** 0.5
    found = scaled(first, later).reshape(-1, 3)
    for row, was in zip(found, later.reshape(-1, 3), strict=True):
        if was.count_nonzero():
            torch.testing.assert_close(row.double(), (was.double() - mean) / deviation, rtol=1e-3, atol=1e-3)
        else:
            assert torch.equal(row, torch.zeros(3))
    assert torch.equal(present(found), present(later).flatten())


@pytest.mark.parametrize("shape", SHAPES)
def test_where_no_token_is_absent_all_count_to_the_same_bits(shape: tuple[int, ...]) -> None:
    features = tokens(shape, share=0)
    flat = fitted(features.reshape(-1, 3))(features.reshape(-1, 3))[0]
    assert flat is not None
    assert torch.equal(scaled(features, features), flat.reshape(shape))


def test_vectors_of_zeros_count_as_any_others() -> None:
    """A sound (N,D) and a picture of one vector (N,1,1,D) are no tokens."""
    vectors = torch.randn(20, 3) + 5
    vectors[:8] = 0
    sound, picture = fitted(vectors, vectors[:, None, None])(vectors, vectors[:, None, None])
    assert sound is not None
    assert picture is not None
    assert torch.equal(picture[:, 0, 0], sound)
    torch.testing.assert_close(sound.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-5)
    assert (sound[:8] < 0).all()


def test_where_all_tokens_are_absent_all_stay_zero() -> None:
    features = torch.zeros(SHAPES[0])
    assert torch.equal(scaled(features, features), features)


# Networks.


def test_a_network_reads_the_mean_step_with_its_stem_and_without() -> None:
    audio, visual = tokens((5, 4, 7)), torch.randn(5, 2, 3, 6)
    audio[0] = 0
    for modality in ("audio", "audio-visual"):
        network = AudioVisualNet(6, 3, modality, audio_width=7)
        expected = network(mean_step(audio), visual).logits
        assert torch.equal(network(audio, visual).logits, expected)
        stemmed, kept = network.stem(audio, visual)
        assert stemmed is not None
        assert stemmed.shape == (5, 7)
        assert torch.equal(network(stemmed, kept).logits, expected)
    with pytest.raises(ValueError, match=r"audio must be \(B,D\) or \(B,T,D\) with D = 7, not \(5, 4, 7, 1\)"):
        network(audio[..., None], visual)


def test_a_closed_form_leaves_out_absent_tokens_of_pictures_too() -> None:
    features = ClipFeatures({"audio": 7, "visual": 3}, "audio-visual", ("audio", "visual"))
    pictures = tokens(SHAPES[1])
    found = features({"audio": tokens((9, 4, 7)), "visual": pictures})
    expected = torch.stack([mean_of_those_there(clip) for clip in pictures])
    torch.testing.assert_close(found["visual"], expected.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_folds_are_of_the_steps_that_are_there(dtype: torch.dtype) -> None:
    features = ClipFeatures({"audio": 7, "visual": 3}, "audio-visual", ("audio", "visual"))
    sounds = tokens((1000, 4, 7)).to(dtype)
    folds = features.folds({"audio": sounds})
    assert 400 < int(folds.sum()) < 600
    assert torch.equal(features.folds({"audio": F.pad(sounds, (0, 0, 0, 900))}), folds)
    assert torch.equal(features.folds({"audio": sounds.flip(0)}), folds.flip(0))
    assert not torch.equal(features.folds({"audio": sounds.roll(1, 0)}), folds)


def test_folds_are_of_the_tokens_that_are_there() -> None:
    features = ClipFeatures({"visual": 3}, "visual", ("visual",))
    pictures = tokens((300, 2, 3, 3), share=0)
    gaps = tokens((300, 2, 3, 3))
    folds, found = features.folds({"visual": pictures}), features.folds({"visual": gaps})
    assert 100 < int(found.sum()) < 200
    assert torch.equal(features.folds({"visual": F.pad(pictures, (0, 0, 0, 2, 0, 900))}), folds)
    assert torch.equal(features.folds({"visual": F.pad(gaps, (0, 0, 1, 2, 3, 900))}), found)
    assert torch.equal(features.folds({"visual": torch.cat([pictures, gaps])}), torch.cat([folds, found]))


def test_a_stored_tower_leaves_out_absent_tokens_whatever_adapters_add() -> None:
    tower, pictures = StoredTower(3, 5), tokens(SHAPES[1])
    pictures[4] = 0  # counts as a vector of zeros

    def adapt(place: int, hidden: Tensor, summary: Tensor) -> Tensor:
        return hidden.cos() + summary[:, None]

    found = tower(pictures, adapt)
    for clip, embedding in zip(pictures, found, strict=True):
        own = clip[present(clip)] if clip.any() else torch.zeros(1, 3)
        mean = own.mean(dim=0)
        torch.testing.assert_close(embedding, tower.projection((own + own.cos() + mean).mean(dim=0)))
    vectors = torch.zeros(2, 1, 1, 3)
    assert torch.equal(tower(vectors, adapt), tower(vectors[:, 0, 0], adapt))


# Learners.


def taught(method: str = "av-cil", **changes: Any) -> Learner:
    learner = Learner(method, **{"memory": 12, "training": LAST} | changes)
    learner.learn(tiny.in_steps(tiny.clips(0, 3)), "abc", text=tiny.text(0, 3))
    return learner


def test_what_is_loaded_keeps_steps_and_exemplars_and_learns_on(tmp_path: Path) -> None:
    learner, test = taught(), tiny.in_steps(tiny.clips(0, 3, seed=3))
    assert learner.sound_shape == (4,)
    learner.save(tmp_path)
    loaded = Learner.load(tmp_path)
    assert loaded.sound_shape == (4,)
    assert loaded.memory is not None
    kept = loaded.memory.clips.audio
    assert kept is not None
    assert kept.shape == (12, 4, tiny.AUDIO)
    assert not present(kept).all()
    for audio, visual in ((test.audio, test.visual), (None, test.visual), (test.audio, None)):
        assert torch.equal(learner.predict(audio, visual).probabilities, loaded.predict(audio, visual).probabilities)
    for each in (learner, loaded):
        each.learn(tiny.in_steps(tiny.clips(3, 5)), "de")
    assert tiny.saved(learner, tmp_path / "a") == tiny.saved(loaded, tmp_path / "b")


@pytest.mark.parametrize("method", ["av-cil", "fine-tuning"])
def test_a_sound_that_is_left_out_counts_as_one_without_steps(method: str) -> None:
    learner, test = taught(method), tiny.clips(0, 3, seed=3)
    silent = torch.zeros(len(test), 4, tiny.AUDIO)
    without, zeros = (learner.predict(audio, test.visual).probabilities for audio in (None, silent))
    assert torch.equal(without, zeros)


def test_sounds_of_other_steps_than_were_learnt_are_one_line() -> None:
    stepped, plain = tiny.in_steps(tiny.clips(3, 5)), tiny.clips(3, 5)
    vector = Learner("er", memory=12, training=LAST)
    vector.learn(tiny.clips(0, 3), "abc")
    for learner, clips, had, has in (
        (taught("er"), plain, (4, 8), (8,)),
        (taught("er"), tiny.in_steps(plain, steps=5), (4, 8), (5, 8)),
        (vector, stepped, (8,), (4, 8)),
    ):
        wanted = f"audio features have shape {has} a clip, and this learner learnt from {had}; encode the clips"
        with pytest.raises(McilError) as taught_more:
            learner.learn(clips, "de")
        with pytest.raises(McilError) as asked:
            learner.predict(clips.audio, clips.visual)
        for error in (taught_more, asked):
            assert wanted in str(error.value)
            assert "\n" not in str(error.value)
        assert learner.class_names == ("a", "b", "c")
    for shape in ((16, 4, 2, 8), (16, 0, 8)):
        wrong = dataclasses.replace(stepped, audio=torch.zeros(shape))
        with pytest.raises(McilError, match=r"training audio features must be \(N,D\) or \(N,T,D\), N = 16, not"):
            taught("er").learn(wrong, "de")


def test_the_release_reads_no_steps_and_says_so_in_one_line(tmp_path: Path) -> None:
    weights = tiny_released.weights(tmp_path, layers=1)
    learner = Learner("mcil-audioclip-released", {"weights": str(weights)}, training=TrainingOptions(device="cpu"))
    clips = tiny_released.clips(0, 2, count=2)
    assert clips.audio is not None
    stepped = dataclasses.replace(clips, audio=clips.audio[:, None].repeat(1, 3, 1))
    with pytest.raises(McilError, match="reads one embedding of a sound, and the store has 3 steps of each") as error:
        learner.learn(stepped, "ab", stepped, text=tiny_released.text(weights)[:2])
    assert "\n" not in str(error.value)


def test_clips_without_sound_that_count_as_zeros_have_no_steps(tmp_path: Path) -> None:
    clips = tiny.in_steps(tiny.clips(0, 2, count=6))
    assert clips.audio is not None
    assert clips.visual is not None
    clips.audio[::6] = 0
    store = FeatureStore.write(
        tmp_path,
        labels=["ab"[label] for label in clips.labels.tolist()],
        splits=["train", "train", "train", "val", "test", "test"] * 2,
        audio=clips.audio.half().numpy(),
        visual=clips.visual.numpy(),
    )
    scenario = Scenario(store, 1, missing="zeros")
    train = scenario.clips(scenario.tasks[0].train)
    assert train.audio is not None
    sound, _ = fitted(train.audio)(train.audio)
    assert sound is not None
    assert torch.equal(mean_step(sound)[::3], torch.zeros(2, tiny.AUDIO))
    assert mean_step(sound)[1::3].count_nonzero() == 2 * tiny.AUDIO


@pytest.mark.parametrize("method", ["av-cil", "acil-av"])
def test_a_whole_run_reads_sounds_of_several_steps(method: str, tmp_path: Path) -> None:
    """With modality dropout, attention, shuffled sounds, and each modality alone."""
    clips = tiny.in_steps(tiny.clips(0, tiny.CLASSES, count=6))
    assert clips.audio is not None
    assert clips.visual is not None
    FeatureStore.write(
        tmp_path / "store",
        labels=["abcdef"[label] for label in clips.labels.tolist()],
        splits=["train", "train", "train", "val", "test", "test"] * tiny.CLASSES,
        audio=clips.audio.half().numpy(),
        visual=clips.visual.numpy(),
    )
    training = dataclasses.replace(tiny.TRAINING, modality_dropout=0.5, epochs=20)
    options = {"width": 32} if method == "acil-av" else {}
    experiment = tiny.experiment(tmp_path / "store", method=method, options=options, training=training)
    result = run_single(experiment, RunFolder(tmp_path / "run"), lambda event: None)
    assert result["mean_accuracy"] > 50  # of three classes, then five, then six
    assert set(result["shuffle_drop"]) == {"audio", "visual"}
    assert Learner.load(tmp_path / "run" / "learner").sound_shape == (4,)
