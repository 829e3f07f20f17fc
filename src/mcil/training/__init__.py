"""The only training loop: task, epoch, step."""

from mcil.training.closed_form import fit
from mcil.training.engine import OnEvent, TaskData, TaskTraining
from mcil.training.evaluation import fused_features, in_batches, outputs_in_batches, predict_logits, stage
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
    "fit",
    "fused_features",
    "in_batches",
    "outputs_in_batches",
    "predict_logits",
    "stage",
]
