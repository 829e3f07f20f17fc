"""Multiple-instance LDA: discriminants of the sound, and of the one token that sounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.errors import McilError
from mcil.methods.base import METHODS, Method
from mcil.models.closed_form import ClosedFormNet
from mcil.models.instances import InstanceNet
from mcil.types import Modality


@METHODS.register("mil-lda")
@dataclass(frozen=True)
class MilLda(Method):
    """The class of a clip is that of its sound and of one of its tokens; which one, expectation-maximisation finds.

    Attributes:
        rounds: of expectation and maximisation over a task's clips.
        background: how many times as likely as a seen class anything else in the picture is.
        shrinkage: share of the identity in the covariance of tokens, above 0 and at most 1.
    """

    source: ClassVar[str] = "ours: linear discriminants (as SLDA) with multiple-instance learning over tokens"
    closed_form: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("rounds", "background", "shrinkage")

    rounds: int = 10
    background: float = 4.0
    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        super().__post_init__()
        if self.shrinkage > 1:
            raise McilError(f"option 'shrinkage' must be at most 1, but it is {self.shrinkage}")

    @property
    def standardised(self) -> bool:
        """The covariance of tokens is shrunk towards equal variances, so channels come in one scale."""
        return True

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network."""
        return InstanceNet(channels, classes, modality, self.rounds, self.background, self.shrinkage)
