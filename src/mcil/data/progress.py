"""A progress bar with rate and time left; plain lines now and then where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show on standard error how far ``what`` is; call the yielded function after each of ``total`` items."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _RateColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda: bar.advance(task)
        return
    yield _Lines(what, total, done, console).advance


class _Lines:
    def __init__(self, what: str, total: int, done: int, console: Console) -> None:
        self._what, self._total, self._done, self._console = what, total, done, console
        self._begun: tuple[float, int] | None = None
        self._said = time.monotonic()

    def advance(self) -> None:
        now = time.monotonic()
        self._done += 1
        if self._begun is None:
            # The rate is measured from the first item on: by then the worker processes have started.
            self._begun = now, self._done
        elif now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            begun, before = self._begun
            rate = (self._done - before) / (now - begun)
            left = (self._total - self._done) / rate
            line = f"{self._what}: {self._done}/{self._total}, {rate:.1f}/s, {left:.0f} s left"
            self._console.print(line, soft_wrap=True)
