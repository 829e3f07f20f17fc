"""SS-IL: separated softmax for incremental learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mcil.methods.base import METHODS, ReplayMethod
from mcil.methods.lwf import separated_distillation
from mcil.types import Step


@METHODS.register("ss-il")
@dataclass(frozen=True)
class SsIl(ReplayMethod):
    """Separated softmax (eq. 12) and task-wise distillation (eq. 13), on new clips and exemplars.

    Equation numbers are those of Pian et al., ICCV 2023, where this is AV-CIL without its audio-visual terms.

    Attributes:
        selection: how exemplars are chosen.
        distillation_temperature: softens the probabilities that are distilled.
    """

    source: ClassVar[str] = "Ahn et al., SS-IL: Separated Softmax for Incremental Learning, ICCV 2021"
    uses_teacher: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("distillation_temperature",)

    distillation_temperature: float = 2.0

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return both terms; in the first task there is no teacher."""
        return separated_distillation(step, self.distillation_temperature)
