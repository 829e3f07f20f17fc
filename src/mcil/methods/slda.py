"""SLDA: streaming linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.errors import McilError
from mcil.methods.base import METHODS, ClosedForm
from mcil.models.closed_form import ClosedFormNet
from mcil.models.closed_form_features import ClipFeatures
from mcil.models.closed_form_gaussian import DiscriminantNet
from mcil.types import Modality


@METHODS.register("slda")
@dataclass(frozen=True)
class Slda(ClosedForm):
    """Hayes and Kanan, "Lifelong Machine Learning with Deep Streaming LDA", CVPR Workshops 2020.

    Attributes:
        shrinkage: share of the identity in the covariance, above 0 and at most 1; the paper's is 0.0001. None chooses
            it by cross-validation.
    """

    source: ClassVar[str] = "Hayes and Kanan, Lifelong Machine Learning with Deep Streaming LDA, CVPRW 2020"

    shrinkage: float | None = None

    def __post_init__(self) -> None:
        """Refuse a covariance that could not be inverted."""
        if self.shrinkage is not None and not 0 < self.shrinkage <= 1:
            raise McilError(f"method 'slda': shrinkage must be above 0 and at most 1, or null, not {self.shrinkage:g}")

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network."""
        return DiscriminantNet(ClipFeatures(channels, modality, ("audio", "visual")), classes, self.shrinkage)
