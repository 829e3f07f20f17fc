"""What a user sees while runs go on."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mcil.experiment.settings import Experiment
from mcil.training import OnEvent

Event = tuple[str, dict[str, Any]]
"""Name of a run, and what happened in it."""


class RunProgress:
    """A line for every run on standard error: method, seed, task, epochs, time left.

    Where standard error is no terminal, a plain line says when a run has learnt a task.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[said]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._lines: dict[str, tuple[TaskID, Experiment]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, name: str, experiment: Experiment) -> None:
        """Show a line for the run called ``name``."""
        tasks = len(experiment.scenario().tasks)
        line = self._progress.add_task(
            f"{experiment.label} seed {experiment.seed}", total=tasks * experiment.training.epochs, said="waiting"
        )
        self._lines[name] = line, experiment

    def listener(self, name: str) -> OnEvent:
        """Return a function that shows the events of the run called ``name``."""
        return lambda event: self.show((name, event))

    def show(self, told: Event) -> None:
        """Move the line of a run."""
        name, event = told
        line, experiment = self._lines[name]
        epochs = experiment.training.epochs
        if event["event"] == "epoch":
            done = event["task"] * epochs + event["epoch"] + 1
            self._progress.update(line, completed=done, said=f"task {event['task'] + 1}, loss {event['loss']:.3f}")
        else:
            said = f"task {event['task'] + 1} learnt"
            self._progress.update(line, completed=(event["task"] + 1) * epochs, said=said)
            if not self._console.is_terminal:
                self._console.print(f"{experiment.label} seed {experiment.seed}: {said}", highlight=False)
