"""NCM: nearest class mean. The simplest learner that forgets nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.methods.base import METHODS, ClosedForm
from mcil.models.closed_form import ClosedFormNet
from mcil.models.closed_form_gaussian import NearestMeanNet
from mcil.types import Modality


@METHODS.register("ncm")
@dataclass(frozen=True)
class Ncm(ClosedForm):
    """The class whose mean is nearest, on the sound and the mean token.

    Attributes:
        tokens: whether audio-guided tokens are read besides the pooled ones.
    """

    source: ClassVar[str] = "Mensink et al., Distance-Based Image Classification, TPAMI 2013"

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network."""
        return NearestMeanNet(self.features(channels, modality), classes)
