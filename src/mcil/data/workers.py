"""A function applied to many items by all cores, its results in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from mcil.errors import McilError

T = TypeVar("T")
R = TypeVar("R")

_function: Callable[[Any], Any]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_jobs(jobs: int | None) -> None:
    """Refuse a number of processes that nothing can be done with.

    Raises:
        McilError: it is below 1; None, which means all cores, is not.
    """
    if jobs is not None and jobs < 1:
        raise McilError(f"jobs must be 1 or more, but it is {jobs}")


def map_in_order(function: Callable[[T], R], items: Sequence[T], jobs: int | None = None) -> Generator[R]:
    """Yield ``function(item)`` for every item, in order, computed by ``jobs`` processes (all cores by default).

    Each call has one thread, with one job too, which then runs in this process; so results do not depend on
    ``jobs``. Only a few items for each process are under way at a time. Close the iterator to stop early.

    Raises:
        McilError: the operating system killed a process. What ``function`` raises is raised here.
    """
    jobs = min(jobs or cores(), len(items))
    if jobs <= 1:
        yield from _in_this_process(function, items)
        return
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(function,)
    ) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                with deaf_to_interrupts():
                    waiting.append(pool.submit(_call, item))
                if len(waiting) >= 4 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise McilError(
                "a worker process ended unexpectedly, most often for want of memory: try fewer jobs and run the same "
                "command again (in a script, the call must stand below `if __name__ == '__main__':`)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _in_this_process(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    libraries, threads = ThreadpoolController(), torch.get_num_threads()
    for item in items:
        torch.set_num_threads(1)
        try:
            with libraries.limit(limits=1):
                result = function(item)
        finally:
            torch.set_num_threads(threads)
        yield result


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C; the main process alone decides what follows from it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    torch.set_num_threads(1)
    ThreadpoolController().limit(limits=1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave when the main process was killed; a worker that waits for items would stay for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)
