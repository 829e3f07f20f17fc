"""Fine-tuning: train on the new classes only. The lower bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.methods.base import METHODS, GradientMethod
from mcil.types import Step


@METHODS.register("fine-tuning")
@dataclass(frozen=True)
class FineTuning(GradientMethod):
    """Cross-entropy of the new clips over the logits of all seen classes; no memory, no teacher."""

    source: ClassVar[str] = "baseline of Pian et al., ICCV 2023"

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        return {"classification": cross_entropy(step.outputs.logits, step.labels)}
