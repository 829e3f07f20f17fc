"""What a method is: a network, named losses, and what it keeps between tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor

from mcil.errors import McilError, did_you_mean
from mcil.memory import random_selection
from mcil.models import AudioVisualNet
from mcil.registry import Registry, checked_option
from mcil.types import Batch, Modality, Step

METHODS: Registry[type[Method]] = Registry("method", "mcil.methods")


@dataclass(frozen=True)
class Method(ABC):
    """A way to learn one task after another. The fields of a subclass are the method's options.

    Class attributes say what the method is given; the training loop reads them and no method's name:

    - ``source``: where the method was published.
    - ``uses_memory``: keeps exemplars; each training batch is then one batch of new clips followed by one of
      exemplars.
    - ``uses_teacher``: its losses read the logits of the previous task's network.
    - ``cumulative``: is given the training clips of all seen classes at every task and starts afresh each time
      (joint training, the upper bound).
    """

    source: ClassVar[str]
    uses_memory: ClassVar[bool] = False
    uses_teacher: ClassVar[bool] = False
    cumulative: ClassVar[bool] = False

    @property
    def uses_teacher_attention(self) -> bool:
        """Whether the losses also read the teacher's attention maps of the exemplars."""
        return False

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> AudioVisualNet:
        """Return a new network for ``classes`` classes; ``channels`` are those of "audio" and "visual" features."""
        audio, visual = channels.get("audio"), channels.get("visual")
        return AudioVisualNet(visual or audio or 0, classes, modality, audio)

    def select_exemplars(self, clips: Batch, quota: int, generator: torch.Generator) -> Tensor:
        """Return the indices of at most ``quota`` clips of one class to keep, the ones that matter most first."""
        return random_selection(clips, quota, generator)

    @abstractmethod
    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the named terms (scalars, weighted) whose sum is minimised."""


def create_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """Make the method called ``name`` with ``options``; what is not given keeps its default.

    Raises:
        McilError: there is no such method or option (the nearest name is offered), or a value has the wrong type.
    """
    kind = METHODS[name]
    known = [field.name for field in fields(kind)]
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for option, value in (options or {}).items():
        if option not in known:
            has = f"It has: {', '.join(known)}" if known else "It has no options"
            raise McilError(f"method '{name}' has no option '{option}'.{did_you_mean(option, known)} {has}")
        values[option] = checked_option(f"method '{name}': option '{option}'", value, types[option])
    return kind(**values)
