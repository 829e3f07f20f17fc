"""RanPAC: random projections and ridge regression; and the options of all methods of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.errors import McilError
from mcil.methods.base import METHODS, ClosedForm
from mcil.models.closed_form import ClosedFormNet
from mcil.models.closed_form_features import Block, ClipFeatures
from mcil.models.closed_form_ridge import RidgeNet
from mcil.types import Modality


@dataclass(frozen=True)
class RandomRidge(ClosedForm):
    """Ridge regression of one-hot labels on fixed features, some of them rectified random projections.

    Attributes:
        width: random features in each block of them.
        ridge: penalty on standardised features as a multiple of the number of clips, above 0; None chooses one for each
            block of features by cross-validation.
        projection_seed: of the random projections.
    """

    streams: ClassVar[tuple[tuple[Block, ...], ...]]

    width: int = 1000
    ridge: float | None = None
    projection_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be solved."""
        if self.width < 1:
            raise McilError(f"width must be 1 at least, not {self.width}")
        if self.ridge is not None and not self.ridge > 0:
            raise McilError(f"ridge must be above 0, or null to choose it, not {self.ridge:g}")

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network."""
        blocks = [block for stream in self.streams for block in stream]
        features = ClipFeatures(channels, modality, blocks, self.width, self.projection_seed)
        return RidgeNet(features, self.streams, classes, self.ridge)


@METHODS.register("ranpac")
@dataclass(frozen=True)
class RanPac(RandomRidge):
    """McDonnell et al., "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023."""

    source: ClassVar[str] = "McDonnell et al., RanPAC, NeurIPS 2023"
    streams: ClassVar[tuple[tuple[Block, ...], ...]] = (("audio-random", "visual-random"),)
