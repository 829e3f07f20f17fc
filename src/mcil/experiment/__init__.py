"""Experiments: a scenario learnt by a method with a seed, in a run folder that says everything about it."""

from mcil.experiment.finished import Failure, Run
from mcil.experiment.run import attempt_all, read_seeds, run, run_all
from mcil.experiment.settings import Experiment, read_class_order

__all__ = ["Experiment", "Failure", "Run", "attempt_all", "read_class_order", "read_seeds", "run", "run_all"]
