"""AV-CIL: audio-visual similarity constraints, attention and task-wise distillation, separated softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.losses import (
    attention_distillation,
    class_similarity,
    instance_similarity,
    separated_cross_entropy,
    task_distillation,
)
from mcil.methods.base import METHODS, ReplayMethod
from mcil.types import Step, Teacher


@METHODS.register("av-cil")
@dataclass(frozen=True)
class AvCil(ReplayMethod):
    """Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023.

    First task: cross-entropy. Later: separated softmax (eq. 12) + task-wise distillation (eq. 13) + instance and
    class similarity (eq. 6, 7) + visual attention distillation on the exemplars (eq. 9-11). With one modality the
    terms that need both, and attention, fall away. A term of weight 0 is not computed.

    Attributes:
        selection: how exemplars are chosen.
        separated_softmax: old and new classes do not compete in the cross-entropy; else they all do.
        task_distillation_weight: of task-wise distillation; the paper's is 1.
        temperature: of the similarity terms (tau).
        instance_weight: of the instance similarity (lambda_I).
        class_weight: of the class similarity (lambda_C).
        class_normalization: "batch" divides by the batch size (the published code), "positives" by the number of
            positives (eq. 7).
        attention_weight: of attention distillation as a whole; the paper's is 1.
        spatial_share: share of the spatial part in it, the rest is temporal (lambda of eq. 11).
        distillation_temperature: of task-wise distillation (T).
    """

    source: ClassVar[str] = "Pian et al., Audio-Visual Class-Incremental Learning, ICCV 2023"
    uses_teacher: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("temperature", "distillation_temperature")

    separated_softmax: bool = True
    task_distillation_weight: float = 1.0
    temperature: float = 0.05
    instance_weight: float = 0.5
    class_weight: float = 1.0
    class_normalization: Literal["batch", "positives"] = "batch"
    attention_weight: float = 1.0
    spatial_share: float = 0.5
    distillation_temperature: float = 2.0

    @property
    def uses_teacher_attention(self) -> bool:
        """Attention maps are needed unless the term is switched off."""
        return self.attention_weight > 0

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the weighted terms."""
        outputs, teacher = step.outputs, step.teacher
        if teacher is None:
            return {"classification": cross_entropy(outputs.logits, step.labels)}
        old_classes = step.old_classes if self.separated_softmax else 0
        losses = {"classification": separated_cross_entropy(outputs.logits, step.labels, old_classes)}
        if self.task_distillation_weight:
            distillation = task_distillation(
                outputs.logits, teacher.logits, step.task_sizes[:-1], self.distillation_temperature
            )
            losses["task_distillation"] = self.task_distillation_weight * distillation
        if outputs.audio is not None and outputs.visual is not None:
            if self.instance_weight:
                instance = instance_similarity(outputs.audio, outputs.visual, self.temperature)
                losses["instance_similarity"] = self.instance_weight * instance
            if self.class_weight:
                same_class = class_similarity(
                    outputs.audio, outputs.visual, step.labels, self.temperature, self.class_normalization
                )
                losses["class_similarity"] = self.class_weight * same_class
        if self.attention_weight and step.exemplars:
            losses.update(self._attention(step, teacher))
        return losses

    def _attention(self, step: Step, teacher: Teacher) -> dict[str, Tensor]:
        """Attention distillation of the exemplars, which are the last clips of the batch."""
        student = step.outputs
        if (
            student.spatial_attention is None
            or student.temporal_attention is None
            or teacher.spatial_attention is None
            or teacher.temporal_attention is None
        ):
            return {}
        spatial = attention_distillation(
            student.spatial_attention[-step.exemplars :], teacher.spatial_attention, dim=-2
        )
        temporal = attention_distillation(
            student.temporal_attention[-step.exemplars :], teacher.temporal_attention, dim=-2
        )
        return {
            "spatial_attention": self.attention_weight * self.spatial_share * spatial,
            "temporal_attention": self.attention_weight * (1 - self.spatial_share) * temporal,
        }
