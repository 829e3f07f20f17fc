"""DER++: dark experience replay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.losses import logit_replay
from mcil.methods.base import METHODS, ReplayMethod
from mcil.types import Step


@METHODS.register("der++")
@dataclass(frozen=True)
class DarkExperienceReplay(ReplayMethod):
    """Cross-entropy of new clips and of exemplars, and the exemplars' logits held at what they were when stored.

    The original learns from a stream and fills its memory at random as it goes. Here a class's exemplars, and their
    logits, are taken when its task is learnt, and both terms read the same exemplars.

    Attributes:
        selection: how exemplars are chosen.
        logit_weight: of the distance to the stored logits (alpha).
        replay_weight: of the exemplars' cross-entropy (beta).
    """

    source: ClassVar[str] = "Buzzega et al., Dark Experience for General Continual Learning, NeurIPS 2020"
    stores_logits: ClassVar[bool] = True

    logit_weight: float = 0.5
    replay_weight: float = 0.5

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the terms of new clips, of exemplars, and of the stored logits."""
        logits, new = step.outputs.logits, len(step.labels) - step.exemplars
        losses = {"classification": cross_entropy(logits[:new], step.labels[:new])}
        if step.exemplars:
            losses["replay"] = self.replay_weight * cross_entropy(logits[new:], step.labels[new:])
            if step.stored_logits is not None:
                losses["logit_replay"] = self.logit_weight * logit_replay(logits[new:], step.stored_logits[new:])
        return losses
