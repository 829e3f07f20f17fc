"""ACIL: analytic class-incremental learning on fused features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcil.methods.base import METHODS
from mcil.methods.ranpac import RandomRidge
from mcil.models.closed_form_features import Block


@METHODS.register("acil")
@dataclass(frozen=True)
class Acil(RandomRidge):
    """Zhuang et al., "ACIL: Analytic Class-Incremental Learning with Absolute Memorization", NeurIPS 2022.

    One regression on the features themselves and on random features of both modalities together.
    """

    source: ClassVar[str] = "Zhuang et al., ACIL, NeurIPS 2022"
    streams: ClassVar[tuple[tuple[Block, ...], ...]] = (("audio", "visual", "guided", "fused-random"),)
