"""The run folder: what is kept while a run goes on, so that it can go on after any stop."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mcil.errors import McilError
from mcil.files import atomic_path, explain_write_errors, read_json, write_json, write_text
from mcil.learner import LEARNER_FILE


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run."""

    path: Path

    @property
    def result_file(self) -> Path:
        """``result.json``, written last: a run that has one is finished."""
        return self.path / "result.json"

    @property
    def learner(self) -> Path:
        """Folder of the learner after the last task."""
        return self.path / "learner"

    def result(self) -> dict[str, Any]:
        """Return ``result.json``."""
        result: dict[str, Any] = read_json(self.result_file, "result of a run")
        return result

    def training_checkpoint(self, task: int) -> Path:
        """File that holds the training of ``task`` while it goes on."""
        return self.path / "checkpoints" / f"task-{task}-training.safetensors"

    def learner_checkpoint(self, task: int) -> Path:
        """Folder of the learner after ``task``."""
        return self.path / "checkpoints" / f"task-{task}"

    def finished_tasks(self, tasks: int) -> int:
        """Return how many tasks are learnt and kept."""
        kept = (t + 1 for t in range(tasks) if (self.learner_checkpoint(t) / LEARNER_FILE).is_file())
        return max(kept, default=0)

    def finish_task(self, task: int) -> None:
        """Remove what the learner after ``task``, which is saved, makes superfluous."""
        self.training_checkpoint(task).unlink(missing_ok=True)
        if task:
            shutil.rmtree(self.learner_checkpoint(task - 1), ignore_errors=True)

    def finish(self, last_task: int, result: dict[str, Any]) -> None:
        """Move the last learner to its place, drop the checkpoints and write the result."""
        if self.learner_checkpoint(last_task).is_dir():
            shutil.rmtree(self.learner, ignore_errors=True)
            self.learner_checkpoint(last_task).replace(self.learner)
        write_json(self.result_file, result)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it.

        Raises:
            McilError: another process works in it, or it cannot be made.
        """
        with explain_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise McilError(f"{self.path}: another process is working on this run; wait for it") from None
            for unfinished in self.path.rglob(".*.part"):  # of a process that was killed while it wrote
                unfinished.unlink()
            yield

    @property
    def _predictions_file(self) -> Path:
        return self.path / "predictions.parquet"

    def write_predictions(self, predictions: pl.DataFrame) -> None:
        """Write the predictions of all tasks so far, atomically."""
        with atomic_path(self._predictions_file) as temporary:
            predictions.write_parquet(temporary)

    def read_predictions(self, tasks: int) -> list[pl.DataFrame]:
        """Return the predictions that were made after each of the first ``tasks`` tasks."""
        if not tasks:
            return []
        try:
            kept = pl.read_parquet(self._predictions_file)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise McilError(f"{self.path}: its predictions are damaged ({error}); delete the folder") from error
        return [kept.filter(pl.col("after_task") == task) for task in range(tasks)]

    @property
    def _figures_file(self) -> Path:
        return self.path / "figures.json"

    def write_figures(self, figures: Sequence[Mapping[str, Any]]) -> None:
        """Write what the network told after each task so far (:meth:`mcil.models.Network.figures`), atomically."""
        write_json(self._figures_file, figures)

    def read_figures(self) -> list[dict[str, Any]]:
        """Return what the network told after each task; [] where it tells nothing.

        Raises:
            McilError: the file is damaged.
        """
        if not self._figures_file.exists():
            return []
        figures = read_json(self._figures_file, "list of figures")
        if not isinstance(figures, list) or not all(isinstance(told, dict) for told in figures):
            raise McilError(f"{self._figures_file}: this is not what a run writes; delete the folder and run it again")
        return figures


class EventLog:
    """``events.jsonl``: what happened, one JSON object a line, also over several starts of the same run.

    What is done again after a stop replaces what was said of it before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path.exists():
            # A last line that a kill cut short has no end; it is said again by what is done again.
            whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
            try:
                for line in whole.splitlines():
                    self._keep(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise McilError(f"{path}: these events are damaged ({error}); delete the file and go on") from error
        self.rewrite()
        self._file = path.open("a", encoding="utf-8")

    def append(self, event: dict[str, Any]) -> None:
        """Note one event at once."""
        self._keep(event)
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def rewrite(self) -> None:
        """Write every event once, in order."""
        ordered = sorted(self._events.values(), key=lambda event: (event["task"], event.get("epoch", float("inf"))))
        write_text(self._path, "".join(json.dumps(event) + "\n" for event in ordered))

    def close(self) -> None:
        """Close the file and leave it in order."""
        self._file.close()
        self.rewrite()

    @property
    def seconds(self) -> float:
        """Time that all events took together."""
        return float(sum(event["seconds"] for event in self._events.values()))

    def _keep(self, event: dict[str, Any]) -> None:
        self._events[(event["event"], event["task"], event.get("epoch"))] = event
