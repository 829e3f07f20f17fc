"""Experiments that end badly, importable by worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass

from mcil.data.scenario import Scenario
from mcil.experiment import Experiment


@dataclass(frozen=True)
class Unlucky(Experiment):
    """Fails as soon as a worker process begins with it."""

    def fail(self) -> None:
        raise RuntimeError("it is not to be\nsecond line")

    def scenario(self) -> Scenario:
        if multiprocessing.parent_process() is not None:
            self.fail()
        return super().scenario()


@dataclass(frozen=True)
class Killed(Unlucky):
    """Its process is killed, as by a system without memory left."""

    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
