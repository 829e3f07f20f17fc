"""Closed-form learning over guided attention: the network learns on the first task, sums do the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.methods.acil import Acil
from mcil.methods.acil_av import AcilAv
from mcil.methods.base import METHODS, ClosedForm, GradientMethod
from mcil.methods.ncm import Ncm
from mcil.methods.ranpac import RanPac
from mcil.methods.slda import Slda
from mcil.models import Network
from mcil.models.analytic import AnalyticNet
from mcil.models.guided import GuidedNet, check_guided
from mcil.types import Modality, Step

LEARNERS: dict[str, type[ClosedForm]] = {"acil-av": AcilAv, "acil": Acil, "slda": Slda, "ranpac": RanPac, "ncm": Ncm}


@METHODS.register("sam-audio-analytic")
@dataclass(frozen=True)
class SamAudioAnalytic(GradientMethod):
    """The network of `sam-audio-cil` trained on the first task and frozen; a closed-form learner over its features.

    It keeps sums and no clip. The learner reads the mean sound, the mean token and what guided attention pools.

    Attributes:
        learner: what fits each task.
        fusion: of the network: "guided", "context" or "naive", as in `sam-audio-cil`.
        width: of the network.
        heads: of its attention; they divide the width.
        dropout: in training, of what attention adds.
    """

    source: ClassVar[str] = "ours: closed-form learners over the reconstruction of arXiv 2606.10887"
    trains_once: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("width", "heads")

    learner: Literal["acil-av", "acil", "slda", "ranpac", "ncm"] = "acil-av"
    fusion: Literal["guided", "context", "naive"] = "guided"
    width: int = 512
    heads: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse heads that do not divide the width, and a dropout of everything."""
        super().__post_init__()
        check_guided(self.width, self.heads, self.dropout)

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> Network:
        """Return a new network. Of one modality there is nothing to fuse."""
        guidance = self.fusion if modality == "audio-visual" else modality
        guided = GuidedNet(channels, classes, guidance, self.width, self.heads, self.dropout)
        read = dict(channels)
        if "visual" in read:
            read["visual"] += self.width
        return AnalyticNet(guided, LEARNERS[self.learner]().network(read, classes, modality))

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the cross-entropy of the first task, the only one that is trained."""
        return {"classification": cross_entropy(step.outputs.logits, step.labels)}
