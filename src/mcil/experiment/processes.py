"""Several runs at the same time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as Flag
from queue import Empty
from typing import Any

import torch

from mcil.errors import McilError
from mcil.experiment.folder import RunFolder
from mcil.experiment.progress import Event
from mcil.experiment.settings import Experiment
from mcil.experiment.single import run_single
from mcil.training import Interrupted

# What a worker process was given when it began: where it tells its events, and whether all is to stop.
_told: Queue[Event]
_stop: Flag


def run_in_processes(
    experiments: Sequence[Experiment], folders: Sequence[RunFolder], jobs: int, show: Callable[[Event], None]
) -> list[dict[str, Any]]:
    """Run the experiments in ``jobs`` processes that share the cores, and show what they tell.

    When this process is interrupted, or a run fails, those under way save their state and none begins.

    Raises:
        McilError: a run cannot go on, or its process was killed.
    """
    context = multiprocessing.get_context("spawn")
    told: Queue[Event] = context.Queue()
    stop = context.Event()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(threads, told, stop)) as pool:
        futures = [
            pool.submit(_run_and_tell, experiment, folder)
            for experiment, folder in zip(experiments, folders, strict=True)
        ]
        try:
            while not all(future.done() for future in futures):
                for future in futures:
                    if future.done():
                        future.result()  # raises what ended it
                try:
                    show(told.get(timeout=0.2))
                except Empty:
                    continue
            while not told.empty():
                show(told.get())
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise McilError(
                "the process of a run was killed, perhaps for want of memory; run the same again with fewer jobs"
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int, told: Queue[Event], stop: Flag) -> None:
    """Prepare a worker process."""
    global _told, _stop
    _told, _stop = told, stop
    # Else a worker could not end while events that nobody reads any more fill the pipe.
    told.cancel_join_thread()
    torch.set_num_threads(threads)
    # Ctrl-C reaches all processes of a terminal: training listens for it, and a worker that waits says nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_and_tell(experiment: Experiment, folder: RunFolder) -> dict[str, Any]:
    def tell(event: dict[str, Any]) -> None:
        _told.put((folder.path.name, event))
        if _stop.is_set():
            signal.raise_signal(signal.SIGINT)  # as if Ctrl-C came here: training saves its state and stops

    if _stop.is_set():
        raise Interrupted
    return run_single(experiment, folder, tell)
