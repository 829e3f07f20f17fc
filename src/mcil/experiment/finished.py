"""What became of an experiment: a finished run and the files in its folder, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from mcil import metrics
from mcil.errors import McilError
from mcil.experiment.folder import RunFolder
from mcil.experiment.settings import Experiment


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what its ``result.json`` says. The other files are read when they are needed."""

    folder: Path
    result: dict[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What ``config.yaml`` says; McilError where it cannot be read."""
        try:
            settings = yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise self._unreadable(error) from error
        if not isinstance(settings, dict):
            raise McilError(f"{self.folder}: its config.yaml is not what a run writes; run it again")
        return settings

    @cached_property
    def predictions(self) -> pl.DataFrame:
        """All predictions, with the columns of :data:`mcil.metrics.COLUMNS`; McilError where they cannot be read."""
        try:
            predictions = pl.read_parquet(self.folder / "predictions.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise self._unreadable(error) from error
        if not set(metrics.COLUMNS) <= set(predictions.columns):
            raise McilError(f"{self.folder}: its predictions.parquet is not what a run writes; run it again")
        return predictions

    @cached_property
    def figures(self) -> list[dict[str, Any]]:
        """What the network told after each task (:meth:`mcil.models.Network.figures`); [] where it tells nothing.

        Raises:
            McilError: they cannot be read.
        """
        return RunFolder(self.folder).read_figures()

    @property
    def tested(self) -> pl.DataFrame:
        """The predictions that the headline figures come from: made from all modalities of the learner."""
        return metrics.with_inputs(self.predictions, self.result["modality"])

    def _unreadable(self, error: Exception) -> McilError:
        reason = " ".join(str(error).split())
        return McilError(f"{self.folder}: a file of this run cannot be read ({reason}); run it again")


@dataclass(frozen=True)
class Failure:
    """An experiment that ended without a result, and why, in one line."""

    experiment: Experiment
    reason: str
