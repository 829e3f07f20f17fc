"""How a task is trained, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_type_hints

from mcil.errors import McilError
from mcil.registry import checked_option

Protocol = Literal["strict", "published", "last"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of the training loop; the defaults are those of AV-CIL (Pian et al., ICCV 2023).

    Attributes:
        epochs: passes over the task's training clips.
        batch_size: new clips in a batch; the last partial batch of an epoch is dropped.
        exemplar_batch_size: exemplars that go with each batch, for methods with a memory.
        evaluation_batch_size: clips in a batch when nothing is trained.
        learning_rate: of Adam.
        weight_decay: of Adam (added to the gradient).
        clip_gradient: largest norm of the gradient; 0 does not clip.
        modality_dropout: share of training clips that lose their sound or their picture, either as often, in a step;
            what is lost counts as the mean of the first task. For networks that read both.
        protocol: which epoch's network is kept. "strict": the best one on validation clips of the current task and
            the exemplars; "published": on validation clips of all classes seen, old ones included; "last": the
            last epoch's.
        precision: "float32", or "bfloat16" (autocast; losses stay float32).
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        checkpoint_seconds: time between two checkpoints within a task; 0 makes one at every step.
    """

    epochs: int = 200
    batch_size: int = 256
    exemplar_batch_size: int = 128
    evaluation_batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip_gradient: float = 0.0
    modality_dropout: float = 0.0
    protocol: Protocol = "strict"
    precision: Precision = "float32"
    device: str = "auto"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for field in fields(self):
            checked_option(f"training: {field.name}", getattr(self, field.name), types[field.name])
        for name in ("epochs", "batch_size", "exemplar_batch_size", "evaluation_batch_size"):
            if getattr(self, name) < 1:
                raise McilError(f"training: {name} must be 1 or more, but it is {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "clip_gradient", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise McilError(f"training: {name} must be 0 or more, but it is {getattr(self, name)}")
        if not 0 <= self.modality_dropout <= 1:
            raise McilError(f"training: modality_dropout must be between 0 and 1, but it is {self.modality_dropout}")
