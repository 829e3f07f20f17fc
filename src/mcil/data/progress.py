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
    begun = last = time.monotonic()
    count = done

    def advance() -> None:
        nonlocal count, last
        count += 1
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or (count == total and now - begun >= _SECONDS_BETWEEN_LINES):
            last = now
            rate = (count - done) / (now - begun)
            console.print(f"{what}: {count}/{total}, {rate:.1f}/s, {(total - count) / rate:.0f} s left", soft_wrap=True)

    yield advance
