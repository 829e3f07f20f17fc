"""RanPAC: random projections and ridge regression; and the options of all methods of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.methods.base import METHODS, ClosedForm
from mcil.models.closed_form import ClosedFormNet
from mcil.models.closed_form_features import Block, ClipFeatures
from mcil.models.closed_form_ridge import RidgeNet
from mcil.types import Modality


@dataclass(frozen=True)
class RandomRidge(ClosedForm):
    """Ridge regression of one-hot labels on fixed features, some of them rectified random projections.

    Attributes:
        tokens: whether audio-guided tokens are read besides the pooled ones.
        width: random features in each block of them.
        ridge: penalty on standardised features as a multiple of the number of clips, above 0; None chooses one for each
            block of features by cross-validation.
    """

    above_zero: ClassVar[tuple[str, ...]] = ("width", "ridge")
    streams: ClassVar[tuple[tuple[Block, ...], ...]]

    width: int = 1000
    ridge: float | None = None

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network."""
        streams = [[block for block in stream if self.reads(block)] for stream in self.streams]
        features = ClipFeatures(channels, modality, [block for stream in streams for block in stream], self.width)
        return RidgeNet(features, streams, classes, self.ridge)


@METHODS.register("ranpac")
@dataclass(frozen=True)
class RanPac(RandomRidge):
    """McDonnell et al., "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023."""

    source: ClassVar[str] = "McDonnell et al., RanPAC, NeurIPS 2023"
    streams: ClassVar[tuple[tuple[Block, ...], ...]] = (("audio-random", "visual-random", "guided-random"),)
