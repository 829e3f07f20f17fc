"""Learning one task in closed form: one pass over its clips."""

from __future__ import annotations

import time

import torch
from lightning_fabric import Fabric

from mcil.models import InputScaler
from mcil.models.closed_form import ClosedFormNet
from mcil.training.engine import OnEvent
from mcil.training.evaluation import stage
from mcil.training.interrupt import Interrupted, interrupt_requested
from mcil.types import Batch


def fit(
    fabric: Fabric,
    network: ClosedFormNet,
    scaler: InputScaler,
    clips: Batch,
    batch_size: int,
    task: int,
    on_event: OnEvent,
) -> None:
    """Let ``network``, which knows all classes of the task by number, observe ``clips`` as stored, and solve it.

    Nothing is saved in between: a pass takes seconds.

    Raises:
        Interrupted: Ctrl-C; the network is not to be used.
    """
    started = time.monotonic()
    with interrupt_requested() as interrupted:
        for indices in torch.split(torch.arange(len(clips)), batch_size):
            part = stage(fabric, scaler, network, clips.select(indices), batch_size)
            network.observe(part.audio, part.visual, part.labels)
            if interrupted():
                raise Interrupted
        network.solve()
    network.eval()
    on_event({"event": "fit", "task": task, "clips": len(clips), "seconds": time.monotonic() - started})
