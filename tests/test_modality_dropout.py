"""Training clips that lose their sound or their picture: which, how often, and what it is good for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import tiny
from mcil.errors import McilError
from mcil.learner import Learner
from mcil.models import AudioVisualNet
from mcil.training import TrainingOptions
from mcil.types import Batch

LAST = dataclasses.replace(tiny.TRAINING, protocol="last")


@contextmanager
def training_batches() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect the audio and visual features that networks in training are given, step after step."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, AudioVisualNet) and module.training:
            seen.append((arguments[0].clone(), arguments[1].clone()))

    hook = register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def learn(dropout: float, seed: int = 0, method: str = "er", tasks: int = 2, **changes: Any) -> Learner:
    training = dataclasses.replace(LAST, modality_dropout=dropout, **changes)
    learner = Learner(method, memory=12, training=training, seed=seed)
    for first, last in ((0, 3), (3, 5))[:tasks]:
        learner.learn(tiny.clips(first, last), "abcde"[first:last])
    return learner


def lost(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Say of each clip whether its sound and whether its picture is gone."""
    return batch[0].eq(0).all(dim=1), batch[1].eq(0).flatten(1).all(dim=1)


def weights(learner: Learner) -> list[Tensor]:
    assert learner.network is not None
    return list(learner.network.state_dict().values())


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_without_it_every_clip_is_whole() -> None:
    with training_batches() as batches:
        learn(0.0)
    assert batches
    assert not any(gone.any() for batch in batches for gone in lost(batch))


def test_at_1_each_clip_of_each_step_loses_one_of_the_two() -> None:
    with training_batches() as batches:
        learn(1.0)
    sizes = {len(audio) for audio, _ in batches}
    assert sizes == {LAST.batch_size, LAST.batch_size + LAST.exemplar_batch_size}  # exemplars too
    for batch in batches:
        silent, dark = lost(batch)
        assert (silent ^ dark).all()


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_either_is_lost_as_often_as_the_share_says_and_never_both(share: float) -> None:
    with training_batches() as batches:
        learn(share, epochs=60)
    silent, dark = (torch.cat(part) for part in zip(*map(lost, batches), strict=True))
    assert len(silent) > 1000
    assert not (silent & dark).any()
    for gone in (silent, dark):
        assert gone.float().mean().item() == pytest.approx(share / 2, abs=0.04)


def test_what_is_not_lost_stays_as_it_is() -> None:
    """The same order of clips, each as it would be without, or zero."""
    with training_batches() as whole:
        learn(0.0)
    with training_batches() as torn:
        learn(0.5)
    for batch, before in zip(torn, whole, strict=True):
        for array, full, gone in zip(batch, before, lost(batch), strict=True):
            assert torch.equal(array[~gone], full[~gone])
    assert any(gone.any() for batch in torn for gone in lost(batch))


def test_which_clips_lose_depends_on_seed_epoch_and_step() -> None:
    def draws(seed: int, method: str = "er") -> list[tuple[bool, ...]]:
        with training_batches() as batches:
            learn(0.5, seed, method, epochs=4, tasks=1)
        return [tuple(torch.cat(lost(batch)).tolist()) for batch in batches]

    first, again, other = draws(0), draws(0), draws(1)
    assert first == again
    assert first != other
    assert first == draws(0, "afc-lsc")  # whose network takes other random numbers to begin with
    assert len(set(first)) > len(first) / 2  # they differ from step to step and from epoch to epoch


def test_a_network_that_reads_one_modality_loses_nothing() -> None:
    for modality in ("audio", "visual"):
        learners = []
        for dropout in (0.0, 1.0):
            training = dataclasses.replace(LAST, modality_dropout=dropout)
            learners.append(Learner("er", memory=12, modality=modality, training=training))
            learners[-1].learn(tiny.clips(0, 3), "abc")
        assert same(*map(weights, learners))


def test_it_changes_what_is_learnt() -> None:
    assert same(weights(learn(0.0)), weights(learn(0.0)))
    assert not same(weights(learn(0.0)), weights(learn(0.3)))


def noisy_clips(count: int, seed: int, weak: str) -> Batch:
    """Return clips of three classes: sound and picture both carry the class, but the ``weak`` one less plainly."""
    clips, random = tiny.clips(0, 3, count, seed), torch.Generator().manual_seed(seed)
    assert clips.audio is not None
    assert clips.visual is not None
    if weak == "audio":
        return dataclasses.replace(clips, audio=clips.audio + 1.2 * torch.randn(clips.audio.shape, generator=random))
    blur = 1.8 * torch.randn(len(clips), 1, 1, tiny.VISUAL, generator=random)
    return dataclasses.replace(clips, visual=clips.visual + blur)


def accuracies(dropout: float, seed: int, weak: str) -> tuple[float, float]:
    """Return the shares of test clips that are classified right from the ``weak`` modality alone and from both."""
    training = dataclasses.replace(LAST, epochs=30, batch_size=20, modality_dropout=dropout)
    learner, test = Learner("fine-tuning", training=training, seed=seed), noisy_clips(200, 100 + seed, weak)
    learner.learn(noisy_clips(40, seed, weak), "abc")
    alone = learner.predict(**{weak: getattr(test, weak)})
    both = learner.predict(test.audio, test.visual)
    return tuple((said.labels == test.labels).float().mean().item() for said in (alone, both))


@pytest.mark.parametrize("weak", ["audio", "visual"])
def test_networks_trained_with_it_do_better_when_the_plainer_modality_is_missing(weak: str) -> None:
    """Otherwise they lean on the plainer one and hardly learn the other."""
    gain = 0.0
    for seed in range(4):
        (plain, plain_both), (trained, trained_both) = (accuracies(dropout, seed, weak) for dropout in (0.0, 0.5))
        gain += (trained - plain) / 4
        assert trained_both > plain_both - 0.03
    assert gain > 0.02


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, math.inf])
def test_a_share_out_of_range_is_one_line(share: float) -> None:
    with pytest.raises(
        McilError, match=f"training: modality_dropout must be between 0 and 1, but it is {share}"
    ) as error:
        TrainingOptions(modality_dropout=share)
    assert "\n" not in str(error.value)
