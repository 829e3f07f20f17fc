"""What a user sees while runs go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mcil.experiment.finished import Failure, Run
from mcil.experiment.settings import Experiment
from mcil.metrics import mean_and_spread

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


@dataclass
class _Row:
    """What is known of the runs of one row: work is counted in tasks, a part of a task by its epochs."""

    work: float = 0.0  # all that there is to do
    done: dict[str, float] = field(default_factory=dict)  # by run
    timed: float = 0.0  # how much of that was done since this start, and in which time
    seconds: float = 0.0
    runs: int = 0
    failed: int = 0
    accuracies: list[float] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return len(self.accuracies) + self.failed

    @property
    def running(self) -> int:
        return len(self.done)


class ComparisonProgress:
    """A table on standard error, with a line for every row of a comparison: seeds, accuracy so far, time left.

    Where standard error is no terminal, a plain line says when a run has ended.
    """

    def __init__(self, jobs: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._jobs = jobs
        self._rows: dict[str, _Row] = {}
        self._row_of: dict[str, tuple[str, Experiment]] = {}
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
            self._draw(now=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._draw(now=True)
            self._live.stop()

    def add(self, row: str, name: str, experiment: Experiment) -> None:
        """Count the run called ``name`` to ``row``."""
        self._row_of[name] = row, experiment
        line = self._rows.setdefault(row, _Row())
        line.runs += 1
        line.work += len(experiment.scenario().tasks)

    def show(self, told: Event) -> None:
        """Note what happened in a run."""
        name, event = told
        title, experiment = self._row_of[name]
        row, epochs = self._rows[title], experiment.training.epochs
        begun = event["task"] + event["epoch"] / epochs if event["event"] == "epoch" else float(event["task"])
        done = begun + 1 / epochs if event["event"] == "epoch" else begun + 1
        row.timed += done - max(begun, row.done.get(name, 0.0))
        row.seconds += event["seconds"]
        row.done[name] = done
        self._draw()

    def end(self, name: str, outcome: Run | Failure) -> None:
        """Note the end of a run."""
        title, experiment = self._row_of[name]
        row = self._rows[title]
        row.done.pop(name, None)
        row.work -= len(experiment.scenario().tasks)
        if isinstance(outcome, Failure):
            row.failed += 1
            said = f"failed: {outcome.reason}"
        else:
            row.accuracies.append(outcome.result["mean_accuracy"])
            said = f"mean accuracy {outcome.result['mean_accuracy']:.1f} %"
        if self._console.is_terminal:
            self._draw(now=True)
            return
        ended, runs = sum(each.ended for each in self._rows.values()), len(self._row_of)
        line = f"{title}, seed {experiment.seed}: {said} ({ended} of {runs} runs)"
        self._console.print(line, highlight=False, markup=False)

    def _draw(self, now: bool = False) -> None:
        if self._console.is_terminal and (now or time.monotonic() - self._drawn > 0.25):
            self._drawn = time.monotonic()
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """Return the table as it stands, no longer than the terminal."""
        room = max(1, self._console.height - 7)
        # Rows that are under way come first where not all have room.
        urgent = sorted(self._rows, key=lambda title: self._urgency(self._rows[title]))[:room]
        shown = [title for title in self._rows if title in urgent]
        left = [self._seconds_left(row) for row in self._rows.values()]
        known = None if None in left else sum(part or 0.0 for part in left) / self._jobs
        caption = f"time left: about {_time(known)}"
        if hidden := len(self._rows) - len(shown):
            caption = f"and {hidden} more rows; {caption}"
        grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), caption=caption, caption_justify="left")
        grid.add_column("")
        for column in ("done", "running", "failed", "mean accuracy", "time left"):
            grid.add_column(column, justify="right")
        for title in shown:
            row = self._rows[title]
            spread = mean_and_spread(row.accuracies)
            accuracy = f"{spread.mean:.1f}" if spread.runs else ""
            if spread.runs > 1:
                accuracy += f" ± {spread.deviation:.1f}"
            grid.add_row(
                Text(title),
                f"{len(row.accuracies)}/{row.runs}",
                str(row.running or ""),
                Text(str(row.failed or ""), "red"),
                accuracy,
                "" if row.ended == row.runs else _time(self._seconds_left(row)),
            )
        return grid

    def _seconds_left(self, row: _Row) -> float | None:
        """Time of the work that is left, one run after the other; at the other rows' rate where nothing is done yet."""
        rest = row.work - sum(row.done.values())
        if rest <= 0:
            return 0.0
        rates = [each.seconds / each.timed for each in ([row] if row.timed else self._rows.values()) if each.timed]
        return rest * sum(rates) / len(rates) if rates else None

    def _urgency(self, row: _Row) -> int:
        if row.running:
            return 0
        return 1 if row.ended < row.runs else 2


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "…"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d} h"
