"""ACIL-AV: a stream on fused features, and one for each modality that compensates for what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mcil.methods.base import METHODS
from mcil.methods.ranpac import RandomRidge
from mcil.models.closed_form_features import Block


@METHODS.register("acil-av")
@dataclass(frozen=True)
class AcilAv(RandomRidge):
    """Main stream: linear in sound and mean token. Compensation: random features of the sound, then of the video."""

    source: ClassVar[str] = "after Zhuang et al., ACIL, NeurIPS 2022, with compensation streams of our own derivation"
    streams: ClassVar[tuple[tuple[Block, ...], ...]] = (
        ("audio", "visual", "guided"),
        ("audio-random",),
        ("visual-random",),
    )

    width: int = 512
