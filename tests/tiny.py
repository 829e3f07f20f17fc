"""Tiny made features, shared by the tests of everything that learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcil.data.class_text import ClassText, write_class_text
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.experiment import Experiment
from mcil.learner import Learner
from mcil.training import TrainingOptions
from mcil.types import Batch, Rows

CLASSES = 6
SIZES = (3, 2, 1)
AUDIO, FRAMES, PATCHES, VISUAL = 8, 2, 4, 12
PROMPTS, TEXT = 3, 10
COUNTS = {"train": 8, "val": 3, "test": 4}
TRAINING = TrainingOptions(
    epochs=3, batch_size=6, exemplar_batch_size=4, evaluation_batch_size=7, learning_rate=0.01, device="cpu"
)


def features(labels: Rows, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return audio (N,8) and visual (N,2,4,12): noise around a place of the class's own in each modality."""
    places = np.random.default_rng(0)
    sounds, looks = places.normal(size=(CLASSES, AUDIO)), places.normal(size=(CLASSES, VISUAL))
    noise = np.random.default_rng(seed)
    audio = sounds[labels] + 0.5 * noise.normal(size=(len(labels), AUDIO))
    visual = looks[labels][:, None, None] + 0.5 * noise.normal(size=(len(labels), FRAMES, PATCHES, VISUAL))
    return audio.astype(np.float32), visual.astype(np.float32)


def clips(first: int, last: int, count: int = 8, seed: int = 1) -> Batch:
    """Return ``count`` clips of each of the classes ``first .. last - 1``."""
    labels = np.repeat(np.arange(first, last), count)
    audio, visual = features(labels, seed)
    return Batch(torch.from_numpy(audio), torch.from_numpy(visual), torch.from_numpy(labels))


def in_steps(clips: Batch, steps: int = 4, seed: int = 0) -> Batch:
    """Return the clips with sounds (N,``steps``,8): noise around the sound in 1 to ``steps`` steps, zeros behind."""
    assert clips.audio is not None
    made = torch.Generator().manual_seed(seed)
    sounds = clips.audio[:, None] + 0.3 * torch.randn(len(clips), steps, clips.audio.shape[1], generator=made)
    lengths = torch.randint(1, steps + 1, (len(clips),), generator=made)
    there = torch.arange(steps) < lengths[:, None]
    return dataclasses.replace(clips, audio=sounds * there[..., None])


def text(first: int, last: int) -> Tensor:
    """Return embeddings (n,3,10) of the classes ``first .. last - 1``: noise around a place of each class's own."""
    made = np.random.default_rng(4)
    values = made.normal(size=(CLASSES, 1, TEXT)) + 0.3 * made.normal(size=(CLASSES, PROMPTS, TEXT))
    return torch.from_numpy(values.astype(np.float32))[first:last]


def make_store(path: Path, counts: dict[str, int] | None = None, seed: int = 0) -> FeatureStore:
    """Write a store of the classes a..f with as many clips of each class in each split as ``counts`` says, and text."""
    counts = COUNTS if counts is None else counts
    numbers = np.array([number for number in range(CLASSES) for _ in range(sum(counts.values()))])
    splits = [split for _ in range(CLASSES) for split, count in counts.items() for _ in range(count)]
    audio, visual = features(numbers, seed)
    labels = ["abcdef"[number] for number in numbers]
    store = FeatureStore.write(path, labels=labels, splits=splits, audio=audio, visual=visual)
    write_class_text(path, ClassText.given("abcdef", text(0, CLASSES).numpy(), {"name": "made"}))
    return store


def scenario(path: Path) -> Scenario:
    return Scenario(make_store(path), SIZES)


def experiment(store: Path, **changes: Any) -> Experiment:
    """Return an experiment on a store of :func:`make_store`, with ``changes`` to its fields."""
    values: dict[str, Any] = {
        "store": store,
        "tasks": SIZES,
        "method": "av-cil",
        "options": {},
        "memory": 12,
        "modality": "audio-visual",
        "class_order": None,
        "class_seed": None,
        "missing": "error",
        "normalize": "first-task",
        "training": TRAINING,
        "label": "label",
        "seed": 0,
    }
    return Experiment(**values | changes)


def saved(learner: Learner, folder: Path) -> bytes:
    """Return the bytes that ``learner`` saves."""
    learner.save(folder)
    return (folder / "learner.safetensors").read_bytes()
