"""Experience replay: train on new clips and exemplars alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.methods.base import METHODS, ReplayMethod
from mcil.types import Step


@METHODS.register("er")
@dataclass(frozen=True)
class ExperienceReplay(ReplayMethod):
    """Cross-entropy over all seen classes, of the new clips and of the exemplars, each with its mean.

    Attributes:
        selection: how exemplars are chosen.
        replay_weight: of the exemplars' term.
    """

    source: ClassVar[str] = "Chaudhry et al., On Tiny Episodic Memories in Continual Learning, 2019"

    replay_weight: float = 1.0

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the terms of new clips and of exemplars."""
        new = len(step.labels) - step.exemplars
        losses = {"classification": cross_entropy(step.outputs.logits[:new], step.labels[:new])}
        if step.exemplars:
            replayed = cross_entropy(step.outputs.logits[new:], step.labels[new:])
            losses["replay"] = self.replay_weight * replayed
        return losses
