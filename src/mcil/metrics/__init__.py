"""Every figure that an experiment reports, as pure functions of its predictions and of what its network told.

All accuracies, forgetting and transfer are in percent (0 to 100). What cannot be computed (a task without
test clips, forgetting with a single task) is NaN, and is left out of the means that would contain it;
:func:`summary` writes None for it.
"""

from mcil.metrics.accuracy import (
    accuracy_matrix,
    class_accuracy,
    confusion_matrix,
    input_accuracy,
    last_accuracy,
    mean_accuracy,
    shuffle_drop,
    step_accuracy,
)
from mcil.metrics.forgetting import (
    average_forgetting,
    backward_transfer,
    final_forgetting,
    forgetting_by_step,
    forgetting_by_task,
    forward_transfer,
)
from mcil.metrics.intervals import bootstrap_intervals
from mcil.metrics.network import load_imbalance, network_figures
from mcil.metrics.outcomes import COLUMNS, SHUFFLED, with_inputs
from mcil.metrics.significance import PairedTest, clip_contributions, paired_t_test, sign_flip_test
from mcil.metrics.summary import SCALARS, Spread, mean_and_spread, summary

__all__ = [
    "COLUMNS",
    "SCALARS",
    "SHUFFLED",
    "PairedTest",
    "Spread",
    "accuracy_matrix",
    "average_forgetting",
    "backward_transfer",
    "bootstrap_intervals",
    "class_accuracy",
    "clip_contributions",
    "confusion_matrix",
    "final_forgetting",
    "forgetting_by_step",
    "forgetting_by_task",
    "forward_transfer",
    "input_accuracy",
    "last_accuracy",
    "load_imbalance",
    "mean_accuracy",
    "mean_and_spread",
    "network_figures",
    "paired_t_test",
    "shuffle_drop",
    "sign_flip_test",
    "step_accuracy",
    "summary",
    "with_inputs",
]
