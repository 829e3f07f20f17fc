"""Multimodal class-incremental learning: learn new classes from sound and sight without forgetting the old.

The names below are the public interface; each loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcil import losses, metrics, models
    from mcil.data.extraction import extract
    from mcil.data.scenario import Scenario
    from mcil.data.store import FeatureStore
    from mcil.encoders import create_encoders
    from mcil.errors import McilError
    from mcil.experiment import run
    from mcil.learner import Learner
    from mcil.training import TrainingOptions
    from mcil.types import Batch

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "FeatureStore",
    "Learner",
    "McilError",
    "Scenario",
    "TrainingOptions",
    "create_encoders",
    "extract",
    "losses",
    "metrics",
    "models",
    "run",
]

# Importing torch takes seconds, so `import mcil` does not; a name is imported when it is first asked for.
_HOME = {
    "Batch": "mcil.types",
    "FeatureStore": "mcil.data.store",
    "Learner": "mcil.learner",
    "McilError": "mcil.errors",
    "Scenario": "mcil.data.scenario",
    "TrainingOptions": "mcil.training",
    "create_encoders": "mcil.encoders",
    "extract": "mcil.data.extraction",
    "run": "mcil.experiment",
}


def __getattr__(name: str) -> Any:
    if name in ("losses", "metrics", "models"):
        return import_module(f"mcil.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mcil' has no attribute '{name}'")
