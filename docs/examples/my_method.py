"""Balanced replay: exemplars and new clips compete in one softmax that knows how many there are of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from mcil.methods import METHODS, ReplayMethod
from mcil.types import Step


@METHODS.register("balanced-replay")
@dataclass(frozen=True)
class BalancedReplay(ReplayMethod):
    """Cross-entropy after each class's share of the batch is added to its logit, so that rare classes lose nothing.

    Attributes:
        selection: how exemplars are chosen.
        strength: of the shares; 0 is experience replay with one mean over all clips.
    """

    source: ClassVar[str] = "Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, NeurIPS 2020"

    strength: float = 1.0

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the one term; a class without clips in the batch counts as one clip."""
        logits = step.outputs.logits
        clips = one_hot(step.labels, logits.shape[1]).sum(dim=0).clamp_min(1)
        return {"classification": cross_entropy(logits + self.strength * clips.log(), step.labels)}
