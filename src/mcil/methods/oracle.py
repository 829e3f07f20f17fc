"""Oracle: train a new network on all data of all seen classes. The upper bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcil.methods.base import METHODS
from mcil.methods.fine_tuning import FineTuning


@METHODS.register("oracle")
@dataclass(frozen=True)
class Oracle(FineTuning):
    """Fine-tuning's loss, but each task is learnt afresh with the training clips of every class seen so far."""

    source: ClassVar[str] = "upper bound of Pian et al., ICCV 2023"
    cumulative: ClassVar[bool] = True
