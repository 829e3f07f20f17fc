"""Several runs at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as Flag
from queue import Empty
from typing import Any

import torch

from mcil.data.workers import deaf_to_interrupts
from mcil.errors import McilError
from mcil.experiment.folder import RunFolder
from mcil.experiment.progress import Event
from mcil.experiment.settings import Experiment
from mcil.experiment.single import run_single
from mcil.training import Interrupted

Outcome = dict[str, Any] | Exception
"""The result of a run, or what ended it."""

# What a worker process was given when it began: where it tells its events, whether all is to stop, and which runs have
# begun (shared memory: it says so at once, also of a process that is killed).
_told: Queue[Event]
_stop: Flag
_begun: Any


def outcomes_in_processes(
    experiments: Sequence[Experiment], folders: Sequence[RunFolder], jobs: int, show: Callable[[Event], None]
) -> Generator[tuple[int, Outcome]]:
    """Run the experiments in ``jobs`` processes that share the cores, and show what they tell.

    Yields the place of an experiment and its outcome as each ends. When this process is interrupted, or the generator
    is closed, those under way save their state and none begins. When a process is killed, all others end with it: the
    runs that were under way then are tried again one by one, which finds the one that is to blame, and the rest go on.

    Raises:
        McilError: no process can begin.
        KeyboardInterrupt: a run was interrupted.
    """
    waiting = deque([list(range(len(experiments)))])
    while waiting:
        numbers = waiting.popleft()
        begun = multiprocessing.get_context("spawn").Array("b", len(experiments), lock=False)
        ended = set()
        for number, outcome in _pool(experiments, folders, numbers, jobs, show, begun):
            ended.add(number)
            yield number, outcome
        lost = [number for number in numbers if number not in ended]
        suspects = [number for number in lost if begun[number]]
        if lost and not suspects:
            raise McilError("the processes of the runs were killed as they began; run the same again with fewer jobs")
        if len(suspects) == 1:
            yield suspects[0], McilError("its process was killed, perhaps for want of memory; try it with fewer jobs")
        else:
            waiting.extend([number] for number in suspects)
        if rest := [number for number in lost if number not in suspects]:
            waiting.append(rest)


def _pool(
    experiments: Sequence[Experiment],
    folders: Sequence[RunFolder],
    numbers: Sequence[int],
    jobs: int,
    show: Callable[[Event], None],
    begun: Any,
) -> Generator[tuple[int, Outcome]]:
    """Run the experiments at ``numbers``; ends early, without the outcomes of the rest, when a process is killed."""
    context = multiprocessing.get_context("spawn")
    told: Queue[Event] = context.Queue()
    stop = context.Event()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(min(jobs, len(numbers)), context, _begin, (threads, told, stop, begun)) as pool:
        try:
            with deaf_to_interrupts():  # while they load what they need; from :func:`_begin` on they decide themselves
                waiting = {
                    number: pool.submit(_run_and_tell, number, experiments[number], folders[number])
                    for number in numbers
                }
            while waiting:
                with suppress(Empty):
                    show(told.get(timeout=0.2))
                for number in [number for number, future in waiting.items() if future.done()]:
                    yield number, _outcome(waiting.pop(number))
        except BrokenProcessPool:
            return
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[dict[str, Any]]) -> Outcome:
    error = future.exception()
    if isinstance(error, BrokenProcessPool) or (error is not None and not isinstance(error, Exception)):
        raise error
    return error or future.result()


def _begin(threads: int, told: Queue[Event], stop: Flag, begun: Any) -> None:
    """Prepare a worker process."""
    global _told, _stop, _begun
    _told, _stop, _begun = told, stop, begun
    # Else a worker could not end while events that nobody reads any more fill the pipe.
    told.cancel_join_thread()
    torch.set_num_threads(threads)
    # Ctrl-C reaches all processes of a terminal: training listens for it, and a worker that waits says nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_and_tell(number: int, experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    def tell(event: dict[str, Any]) -> None:
        _told.put((folder.path.name, event))
        if _stop.is_set():
            signal.raise_signal(signal.SIGINT)  # as if Ctrl-C came here: training saves its state and stops

    if _stop.is_set():
        raise Interrupted
    _begun[number] = 1
    return run_single(experiment, folder, tell)
