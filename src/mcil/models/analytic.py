"""A closed-form learner over the features of a network that was trained on the first task only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mcil.models.base import Network
from mcil.models.closed_form import ClosedFormNet
from mcil.models.guided import GuidedNet
from mcil.models.tokens import mean_step, mean_token
from mcil.types import Batch, Outputs


class AnalyticNet(Network):
    """Train ``guided`` on the first task, freeze it, and let ``learner`` fit every task in closed form.

    The learner reads the mean step of the sound, and of the picture the mean token and what guided attention pools,
    side by side; steps and tokens are layer-normalised. While the first task is trained the guided network scores the
    clips; from its end on the learner does.

    Args:
        guided: is trained.
        learner: of "audio" features as wide as the sound's, and "visual" ones as wide as a token and the network.
    """

    fitted: Tensor

    def __init__(self, guided: GuidedNet, learner: ClosedFormNet) -> None:
        super().__init__()
        self.guided, self.learner = guided, learner
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def classes(self) -> int:
        """Number of classes of the guided network, which grows with the learner."""
        return self.guided.classes

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Make room in the learner; the guided network learns no more, and ``text`` is not read."""
        self.guided.requires_grad_(False)
        self.guided.grow(classes)
        self.guided.classifier.requires_grad_(False)
        self.learner.grow(classes)

    def stem(self, audio: Tensor | None, visual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return what the guided network's stem makes of clips."""
        return self.guided.stem(audio, visual)

    @torch.no_grad()
    def end_task(self, clips: Iterable[Batch]) -> None:
        """Let the learner observe the task's clips."""
        self.eval()
        for part in clips:
            outputs = self.guided(part.audio, part.visual, need_attention=False)
            self.learner.observe(*self._features(part.audio, part.visual, outputs), part.labels)
        self.learner.solve()
        self.fitted.fill_(True)

    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = True
    ) -> Outputs:
        """Score clips as :meth:`stem` returned them, with the guided network's attention."""
        outputs: Outputs = self.guided(audio, visual, need_attention=need_attention)
        if not self.fitted:
            return outputs
        scored: Outputs = self.learner(*self._features(audio, visual, outputs))
        return outputs._replace(logits=scored.logits, fused=scored.fused)

    def _features(
        self, audio: Tensor | None, visual: Tensor | None, outputs: Outputs
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what the learner reads of clips: (B,D_a) and (B,1,1,D_v + d), as far as the network reads them."""
        sound = mean_step(audio) if audio is not None and "audio" in self.guided.channels else None
        if visual is None or outputs.pooled is None:
            return sound, None
        return sound, torch.cat([mean_token(visual), outputs.pooled.to(visual.dtype)], dim=1)[:, None, None]
