"""Zero-shot: classes known by their text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mcil.methods.base import METHODS, Method
from mcil.models.closed_form import ClosedFormNet
from mcil.models.zero_shot import Alignment, ZeroShotNet
from mcil.types import Modality


@METHODS.register("zero-shot")
@dataclass(frozen=True)
class ZeroShot(Method):
    """The class whose text is most like the clip; nothing of a task but the first is learnt from its clips.

    Attributes:
        alignment: how features come into the space of the text: "none" (encoders that share it, such as AudioCLIP's),
            by regression on the clips of the "first-task", or on those of "every-task".
        penalty: of the regression, as a multiple of the number of clips.
    """

    source: ClassVar[str] = "Radford et al., CLIP, ICML 2021; aligned as in Romera-Paredes and Torr, ICML 2015"
    closed_form: ClassVar[bool] = True
    uses_text: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("penalty",)

    alignment: Alignment = "first-task"
    penalty: float = 0.1

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ClosedFormNet:
        """Return a new network without classes; it gets them with their text."""
        return ZeroShotNet(channels, modality, self.alignment, self.penalty)
