"""SAM-Audio-guided learning: guided attention, distillation of features and of logits. A reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.errors import McilError
from mcil.losses import attention_distillation, feature_distillation, separated_cross_entropy, task_distillation
from mcil.methods.base import METHODS, ReplayMethod, teacher_of
from mcil.models import AudioVisualNet, Network
from mcil.models.classifiers import CosineClassifier
from mcil.models.guided import GuidedNet, Positions, check_guided
from mcil.types import Batch, Modality, Outputs, Step, Teacher

Clips = Literal["all", "exemplars"]


@METHODS.register("sam-audio-cil")
@dataclass(frozen=True)
class SamAudioCil(ReplayMethod):
    """A reconstruction of "Listen, Look, and Learn: Learning Without Forgetting through SAM-Audio" (arXiv 2606.10887).

    The paper says that sound guides the picture's features by attention, and that features and logits are distilled;
    equations, settings and numbers could not be had. All of these are ours. The loss of a task but the first is

        cross-entropy + feature_weight * L_feat + logit_weight * L_logit  (+ attention_weight * L_att)

    Attributes:
        selection: how exemplars are chosen.
        fusion: "guided": the sound asks the picture; "context": the picture asks the sound; "naive": both without
            attention; "audio", "visual": one of them; "avcil": the network of AV-CIL.
        width: of the network (but "avcil").
        heads: of its attention; they divide the width.
        dropout: in training, of what attention adds.
        temporal: frames are weighed by attention, or all the same ("mean").
        join: features of sound and picture are added up ("sum") or stand side by side ("concat").
        positions: what tokens are told of their place.
        head: "linear", or "cosine" with a learnt scale.
        cross_entropy: "unified" over all seen classes; "separated": old and new classes do not compete.
        feature_weight: of the distillation of features.
        feature_loss: "cosine": 1 - cos; "mse": squared distance of L2-normalised features.
        features: those of sound and picture and the fused ones ("all"), or the fused ones only.
        feature_clips: on all clips of a batch, or on exemplars only.
        logit_weight: of the distillation of logits.
        logits: "joint": one softmax over all old classes; "task-wise": one for each old task.
        logit_clips: on all clips of a batch, or on exemplars only.
        distillation_temperature: T of the latter.
        attention_weight: of the distillation of attention on exemplars.
        adaptive: multiply the weights of features and logits by sqrt(old classes / new classes).
    """

    source: ClassVar[str] = "reconstruction of Gupta et al., Listen, Look, and Learn, arXiv 2606.10887, 2026"
    uses_teacher: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("width", "heads", "distillation_temperature")

    fusion: Literal["guided", "context", "naive", "audio", "visual", "avcil"] = "guided"
    width: int = 512
    heads: int = 8
    dropout: float = 0.1
    temporal: Literal["attention", "mean"] = "attention"
    join: Literal["sum", "concat"] = "sum"
    positions: Positions = "time-cell"
    head: Literal["linear", "cosine"] = "linear"
    cross_entropy: Literal["unified", "separated"] = "unified"
    feature_weight: float = 1.0
    feature_loss: Literal["cosine", "mse"] = "cosine"
    features: Literal["all", "fused"] = "all"
    feature_clips: Clips = "all"
    logit_weight: float = 0.25
    logits: Literal["joint", "task-wise"] = "joint"
    logit_clips: Clips = "all"
    distillation_temperature: float = 2.0
    attention_weight: float = 0.0
    adaptive: bool = False

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the width, and a dropout of everything."""
        super().__post_init__()
        check_guided(self.width, self.heads, self.dropout)

    @property
    def uses_teacher_attention(self) -> bool:
        """Attention maps are needed only for their distillation."""
        return self.attention_weight > 0

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> Network:
        """Return a new network. Of one modality there is nothing to fuse.

        Raises:
            McilError: the fusion reads another modality than the one that is learnt from.
        """
        if self.fusion in ("audio", "visual") and self.fusion not in modality:
            raise McilError(
                f"fusion '{self.fusion}' cannot learn from modality '{modality}'; choose another of the two"
            )
        if self.fusion == "avcil":
            audio, visual = channels.get("audio"), channels.get("visual")
            width = visual or audio or 0
            head = CosineClassifier(width, classes) if self.head == "cosine" else None
            return AudioVisualNet(width, classes, modality, audio, head)
        return GuidedNet(
            channels,
            classes,
            self.fusion if modality == "audio-visual" else modality,
            self.width,
            self.heads,
            self.dropout,
            self.temporal,
            self.join,
            self.positions,
            cosine=self.head == "cosine",
        )

    def teach(self, network: Network, clips: Batch, need_attention: bool) -> Teacher:
        """Return logits and features; see :meth:`GradientMethod.teach`."""
        outputs = network(clips.audio, clips.visual, need_attention=need_attention)
        return teacher_of(outputs)._replace(features=self._features(outputs))

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the weighted terms; one of weight 0, or without clips, is not computed."""
        outputs, teacher = step.outputs, step.teacher
        if teacher is None:
            return {"classification": cross_entropy(outputs.logits, step.labels)}
        apart = step.old_classes if self.cross_entropy == "separated" else 0
        losses = {"classification": separated_cross_entropy(outputs.logits, step.labels, apart)}
        factor = (step.old_classes / step.task_sizes[-1]) ** 0.5 if self.adaptive else 1.0
        if (
            self.feature_weight
            and teacher.features is not None
            and (first := _first(self.feature_clips, step)) is not None
        ):
            student = {name: feature[first:] for name, feature in self._features(outputs).items()}
            held = {name: feature[first:] for name, feature in teacher.features.items()}
            losses["features"] = factor * self.feature_weight * feature_distillation(student, held, self.feature_loss)
        if self.logit_weight and (first := _first(self.logit_clips, step)) is not None:
            sizes = step.task_sizes[:-1] if self.logits == "task-wise" else (step.old_classes,)
            held_logits = task_distillation(
                outputs.logits[first:], teacher.logits[first:], sizes, self.distillation_temperature
            )
            losses["logits"] = factor * self.logit_weight * held_logits
        if self.attention_weight and step.exemplars:
            for name in ("spatial_attention", "temporal_attention"):
                student_map, teacher_map = getattr(outputs, name), getattr(teacher, name)
                if student_map is not None and teacher_map is not None:
                    held_map = attention_distillation(student_map[-step.exemplars :], teacher_map, dim=-2)
                    losses[name] = self.attention_weight * held_map
        return losses

    def _features(self, outputs: Outputs) -> dict[str, Tensor]:
        """Return the features that are distilled, L2-normalised."""
        found = {"fused": F.normalize(outputs.fused.float(), dim=-1)}
        if self.features == "all":
            found |= {
                name: feature
                for name, feature in (("audio", outputs.audio), ("visual", outputs.visual))
                if feature is not None
            }
        return found


def _first(clips: Clips, step: Step) -> int | None:
    """Return the place of the first clip of a batch that is distilled; None where there is none."""
    if clips == "all":
        return 0
    return len(step.labels) - step.exemplars if step.exemplars else None
