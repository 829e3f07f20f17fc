"""The device and precision that a user names, as a Lightning Fabric."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from lightning_fabric import Fabric

from mcil.errors import McilError
from mcil.training.options import TrainingOptions

# It tells of every device and precision that is chosen; what a user chose, the run's result says.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

_PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def make_fabric(options: TrainingOptions) -> Fabric:
    """Return the Fabric for ``options.device`` ("auto", "cpu", "cuda", "cuda:1", "mps") and ``options.precision``.

    Raises:
        McilError: the device is unknown or not on this machine.
    """
    accelerator, _, index = options.device.partition(":")
    available = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(accelerator, False) or (index and not index.isdecimal()):
        here = ", ".join(name for name, there in available.items() if there)
        raise McilError(f"training: device '{options.device}' is not on this machine; use one of: {here}")
    if index and int(index) >= torch.cuda.device_count():
        raise McilError(f"training: device '{options.device}': this machine has {torch.cuda.device_count()} GPUs")
    return Fabric(
        accelerator=accelerator, devices=[int(index)] if index else 1, precision=_PRECISION[options.precision]
    )
