"""What a network is that is trained task after task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from mcil.types import Batch, Outputs


class Network(nn.Module, ABC):
    """A network that gradient descent trains; what else happens to it when a task begins and ends.

    Attributes:
        classes: that it scores.
        reads_subsets: whether it knows what to do where one of its modalities is None.
    """

    reads_subsets: ClassVar[bool] = False

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes that it scores."""

    @abstractmethod
    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Make room for ``classes`` classes in all; what it has learnt stays.

        Parameters may be new objects: make the optimizer after growing.

        Args:
            classes: those known so far and the new ones.
            text: (n,P,...) of the n new classes, for a network that reads text: P prompts each.

        Raises:
            ValueError: there are more classes already, or text is missing.
        """

    @abstractmethod
    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = True
    ) -> Outputs:
        """Score clips as :meth:`stem` returned them."""

    def stem(self, audio: Tensor | None, visual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return what training never changes of what is computed from clips; it is computed once a task."""
        return audio, visual

    def begin_task(self, clips: Iterable[Batch]) -> None:
        """See the new task's training clips, batch by batch, before it is trained; it has grown already."""

    def end_task(self, clips: Iterable[Batch]) -> None:
        """See them once more when it is trained."""

    def figures(self, clips: Iterable[Batch]) -> dict[str, Any]:
        """Return what is worth telling of the network and of its view of test ``clips``, as JSON values by name.

        Names mean the same in all networks; one leaves out what it has not.

        - ``unmasked``: mean weight of the sound in the fusion, 0 to 1: with a hard threshold the share of clips whose
          sound takes part.
        - ``correlation``: mean over the clips of Pearson's r of the features of sound and picture.
        - ``visual_mean``: (E,) mean unit vector of the pictures.
        - ``text_mean``: (E,) mean of what text says of the classes seen so far.
        - ``nmi_visual``, ``nmi_audio``: of either modality's features and the fused ones of the last batch, as
          :func:`mcil.metrics.released.normalised_mutual_information` has it.
        - ``load``: {tower: [[share of the picks of each expert] for each place]} by the routers of the last task.

        Args:
            clips: as :meth:`stem` returned them, batch by batch: test clips of all classes seen so far.
        """
        return {}
