"""What the contract gives a method to learn from: tiny features, or what a method of another kind needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

import tiny
import tiny_released
from mcil.learner import Learner
from mcil.methods import METHODS
from mcil.training import TrainingOptions
from mcil.types import Batch, Modality

MEMORY = 13


@dataclass(frozen=True)
class Given:
    """What a method is given, and what it is known not to do.

    Attributes:
        name: of the method.
        store: folder of a store with the classes a..f.
        text: (6,P,...) about these classes, the same as in the store.
        options: that make it quick.
        clips: makes clips like those of the store: see :func:`tiny.clips`.
        modalities: that it learns from; others are refused.
        hears: whether its predictions depend on the sound.
        places: whether it is told the row and column of a token in its frame, so that the size of the grid counts.
        training: how each task is trained.
    """

    name: str
    store: Path
    text: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    clips: Callable[..., Batch] = tiny.clips
    modalities: tuple[Modality, ...] = get_args(Modality)
    hears: bool = True
    places: bool = False
    training: TrainingOptions = tiny.TRAINING

    def learner(self, **changes: Any) -> Learner:
        """Return a learner that has learnt nothing, with ``changes`` to what it is made with."""
        return Learner(self.name, self.options, **{"memory": MEMORY, "training": self.training} | changes)


def given(name: str, folder: Path) -> Given:
    """Return what the method ``name`` is given; stores are made in ``folder``, unless they are there."""
    return _MADE.get(name, _features)(name, folder)


def _features(name: str, folder: Path) -> Given:
    """Features, and options with a width set to few."""
    narrow = {"width": 32, "bottleneck": 8}
    own = {option.name for option in dataclasses.fields(METHODS[name])}
    options = {option: width for option, width in narrow.items() if option in own}
    store = folder / "features"
    if not store.exists():
        tiny.make_store(store)
    places = name in ("sam-audio-cil", "sam-audio-analytic")
    return Given(name, store, tiny.text(0, tiny.CLASSES), options, places=places)


def _released(name: str, folder: Path) -> Given:
    """Pixels and token ids, a tiny CLIP, and no sound that it hears."""
    weights, store = folder / "clip", folder / "pixels"
    if not store.exists():
        tiny_released.make_store(store, tiny_released.weights(weights, layers=1))
    return Given(
        name,
        store,
        tiny_released.text(weights),
        {"weights": str(weights)},
        tiny_released.clips,
        ("audio-visual", "visual"),
        hears=False,
        # The rate still climbs in all of these steps.
        training=dataclasses.replace(tiny.TRAINING, learning_rate=0.2),
    )


_MADE = {"mcil-audioclip-released": _released}
