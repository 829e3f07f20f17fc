"""Experiments: a scenario learnt by a method with a seed, in a run folder that says everything about it."""

from mcil.experiment.run import Run, run, run_all
from mcil.experiment.settings import Experiment

__all__ = ["Experiment", "Run", "run", "run_all"]
