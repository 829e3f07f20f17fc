"""iCaRL: distillation by binary cross-entropy, exemplars by herding; with two classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.losses import sigmoid_distillation
from mcil.memory import Selection
from mcil.methods.base import METHODS, Replay, ReplayMethod
from mcil.types import Step


@METHODS.register("icarl-fc")
@dataclass(frozen=True)
class IcarlFc(ReplayMethod):
    """Cross-entropy over all seen classes and distillation of the old ones, on new clips and exemplars in one set.

    Attributes:
        selection: how exemplars are chosen.
        distillation: "single": the old classes' sigmoids against the teacher's, as published; "double" squashes the
            student's twice, as the code of Pian et al. does.
    """

    source: ClassVar[str] = "Rebuffi et al., iCaRL, CVPR 2017; classified by the network"
    uses_teacher: ClassVar[bool] = True
    replay: ClassVar[Replay] = "joint"

    selection: Selection = "herding"
    distillation: Literal["single", "double"] = "single"

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return both terms; in the first task there is no teacher."""
        losses = {"classification": cross_entropy(step.outputs.logits, step.labels)}
        if step.teacher is not None:
            old = step.outputs.logits[:, : step.old_classes]
            losses["distillation"] = sigmoid_distillation(old, step.teacher.logits, self.distillation)
        return losses


@METHODS.register("icarl-nme")
@dataclass(frozen=True)
class IcarlNme(IcarlFc):
    """The same training; a clip belongs to the class whose exemplars' mean is nearest to its fused features."""

    source: ClassVar[str] = "Rebuffi et al., iCaRL, CVPR 2017; classified by the nearest mean of exemplars"
    nearest_mean: ClassVar[bool] = True
