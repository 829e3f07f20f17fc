"""SLDA: streaming linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.errors import McilError
from mcil.methods.base import METHODS, ClosedForm
from mcil.models.closed_form import ClosedFormNet
from mcil.models.closed_form_gaussian import DiscriminantNet
from mcil.types import Modality


@METHODS.register("slda")
@dataclass(frozen=True)
class Slda(ClosedForm):
    """Hayes and Kanan, "Lifelong Machine Learning with Deep Streaming LDA", CVPR Workshops 2020.

    Attributes:
        tokens: whether audio-guided tokens are read besides the pooled ones.
        shrinkage: share of the identity in the covariance, above 0 and at most 1; the paper's is 0.0001. None chooses
            it by cross-validation.
    """

    source: ClassVar[str] = "Hayes and Kanan, Lifelong Machine Learning with Deep Streaming LDA, CVPRW 2020"

    above_zero: ClassVar[tuple[str, ...]] = ("shrinkage",)

    shrinkage: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no share, or leaves a covariance that could not be inverted."""
        super().__post_init__()
        if self.shrinkage is not None and self.shrinkage > 1:
            raise McilError(f"option 'shrinkage' must be at most 1, but it is {self.shrinkage}")

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network."""
        return DiscriminantNet(self.features(channels, modality), classes, self.shrinkage)
