"""LwF: learning without forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mcil.losses import separated_cross_entropy, task_distillation
from mcil.methods.base import METHODS, GradientMethod
from mcil.types import Step


@METHODS.register("lwf")
@dataclass(frozen=True)
class Lwf(GradientMethod):
    """Cross-entropy of the new clips among the new classes, distillation of the old tasks; no memory.

    Attributes:
        distillation_temperature: softens the probabilities that are distilled.
    """

    source: ClassVar[str] = "Li and Hoiem, Learning without Forgetting, ECCV 2016"
    uses_teacher: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("distillation_temperature",)

    distillation_temperature: float = 2.0

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return both terms; in the first task there is no teacher."""
        return separated_distillation(step, self.distillation_temperature)


def separated_distillation(step: Step, temperature: float) -> dict[str, Tensor]:
    """Return the separated softmax (eq. 12) and task-wise distillation (eq. 13) of Pian et al., ICCV 2023."""
    logits, teacher = step.outputs.logits, step.teacher
    losses = {"classification": separated_cross_entropy(logits, step.labels, step.old_classes)}
    if teacher is not None:
        old_tasks = step.task_sizes[:-1]
        losses["task_distillation"] = task_distillation(logits, teacher.logits, old_tasks, temperature)
    return losses
