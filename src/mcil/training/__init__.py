"""The only training loop: task, epoch, step."""

from mcil.training.engine import OnEvent, TaskData, TaskTraining
from mcil.training.evaluation import outputs_in_batches, predict_logits, stage
from mcil.training.interrupt import Interrupted
from mcil.training.options import Precision, Protocol, TrainingOptions

__all__ = [
    "Interrupted",
    "OnEvent",
    "Precision",
    "Protocol",
    "TaskData",
    "TaskTraining",
    "TrainingOptions",
    "outputs_in_batches",
    "predict_logits",
    "stage",
]
