"""Recognition by text: the class whose text is most like the clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.errors import McilError
from mcil.models.closed_form import ClosedFormNet
from mcil.models.tokens import mean_step, mean_token
from mcil.models.trimodal import NO_EMBEDDING
from mcil.types import Modality, Outputs

Alignment = Literal["none", "first-task", "every-task"]

# What cosines are multiplied by: CLIP begins with 1 / 0.07.
_SCALE = 1 / 0.07
# A feature that does not vary is not magnified.
_LEAST_DEVIATION = 1e-6


class TextRegression(nn.Module):
    """Ridge regression from features (D) to the text (E) of their classes, from sums over the clips.

    Features are standardised by the clips of the first :meth:`solve`.

    Args:
        channels: D.
        text: E.
        penalty: of a weight's square, as a multiple of the number of clips.
    """

    mean: Tensor
    scale: Tensor
    moments: Tensor
    cross: Tensor
    weights: Tensor

    def __init__(self, channels: int, text: int, penalty: float) -> None:
        super().__init__()
        self.penalty = penalty
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        self.register_buffer("scale", torch.zeros(channels, dtype=torch.float64))
        # Of a feature vector with a 1 behind it: products with itself, and with the text.
        self.register_buffer("moments", torch.zeros(channels + 1, channels + 1, dtype=torch.float64))
        self.register_buffer("cross", torch.zeros(channels + 1, text, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(channels + 1, text, dtype=torch.float64))

    def observe(self, features: Tensor, text: Tensor) -> None:
        """Add clips: float64 features (B,D) and the text (B,E) of their classes."""
        extended = F.pad(features, (0, 1), value=1.0)
        self.moments.addmm_(extended.T, extended)
        self.cross.addmm_(extended.T, text)

    def solve(self) -> None:
        """Compute the weights."""
        clips = self.moments[-1, -1]
        if not self.scale.any():
            self.mean = self.moments[-1, :-1] / clips
            deviation = (self.moments.diagonal()[:-1] / clips - self.mean**2).clamp_min(0).sqrt()
            self.scale = 1 / deviation.clamp_min(_LEAST_DEVIATION)
        change = torch.diag(F.pad(self.scale, (0, 1), value=1.0))
        change[-1, :-1] = -self.mean * self.scale
        moments = change.T @ self.moments @ change
        moments.diagonal()[:-1].add_(self.penalty * clips)
        self.weights = torch.linalg.solve(moments, change.T @ self.cross)

    def forward(self, features: Tensor) -> Tensor:
        """Return the text (B,E) that float64 features (B,D) suggest."""
        return F.pad((features - self.mean) * self.scale, (0, 1), value=1.0) @ self.weights


class ZeroShotNet(ClosedFormNet):
    """Score clips by the cosine of their embedding and the mean of a class's prompts.

    The embeddings of sound and picture, unit vectors in the space of the text, are added up. Features that are not in
    that space are aligned by regression to the text of their classes: from the clips of the first task alone, so that
    later classes are known by their text only; or from the sums over all tasks, which no order changes. Source: Radford
    et al., "CLIP", ICML 2021; the regression as in Romera-Paredes and Torr, "An embarrassingly simple approach to
    zero-shot learning", ICML 2015.

    Args:
        channels: of "audio" and "visual" features, and of "text".
        modality: what is read.
        alignment: what the regression is fitted to; "none" takes features as they are.
        penalty: of the regression; see :class:`TextRegression`.
    """

    prototypes: Tensor

    def __init__(
        self, channels: Mapping[str, int], modality: Modality, alignment: Alignment = "first-task", penalty: float = 0.1
    ) -> None:
        super().__init__()
        self.modality, self.alignment = modality, alignment
        self.channels = {name: channels[name] for name in ("audio", "visual") if name in modality}
        self.width = sum(self.channels.values())
        text = channels["text"]
        if alignment == "none" and any(count != text for count in self.channels.values()):
            sizes = ", ".join(f"{name} {count}" for name, count in self.channels.items())
            raise McilError(
                f"without alignment features must have the width of the text ({text}), not {sizes}; use encoders with "
                "a space in common, or set alignment to 'first-task'"
            )
        aligned = {} if alignment == "none" else self.channels
        self.regressions = nn.ModuleDict({name: TextRegression(n, text, penalty) for name, n in aligned.items()})
        self.register_buffer("prototypes", torch.zeros(0, text))
        self.tasks = 0

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Take in the text (n,P,E) of new classes: the normalised mean of their normalised prompts."""
        if text is None or len(text) != classes - len(self.prototypes):
            raise ValueError(f"{classes} classes in all need the text of {classes - len(self.prototypes)} new ones")
        if not text.is_floating_point():
            raise McilError(NO_EMBEDDING)
        prompts = F.normalize(text.to(self.prototypes), dim=-1)
        self.prototypes = torch.cat([self.prototypes, F.normalize(prompts.mean(dim=1), dim=-1)])
        self.tasks += 1

    @torch.no_grad()
    def observe(self, audio: Tensor | None, visual: Tensor | None, labels: Tensor) -> None:
        """Add clips to the sums that align."""
        features = self._vectors(audio, visual)
        if missing := [name for name in self.channels if name not in features]:
            raise ValueError(f"a network of modality '{self.modality}' needs {' and '.join(missing)} to learn from")
        if not all(vectors.isfinite().all() for vectors in features.values()):
            raise McilError("the features of the clips to learn from are not all finite; extract them again")
        if self.alignment == "every-task" or self.tasks == 1:
            for name, regression in self._regressions().items():
                regression.observe(features[name], self.prototypes[labels].double())

    @torch.no_grad()
    def solve(self) -> None:
        """Align."""
        if self.alignment == "every-task" or self.tasks == 1:
            for regression in self._regressions().values():
                regression.solve()

    @torch.no_grad()
    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = False
    ) -> Outputs:
        """Score clips by the modalities that are given; ``fused`` (B,E) is their unit vector in the text's space."""
        features = self._vectors(audio, visual)
        if not features:
            raise ValueError(f"a network of modality '{self.modality}' needs {' or '.join(self.channels)}")
        regressions = self._regressions()
        views = {
            name: F.normalize(regressions[name](vectors) if name in regressions else vectors, dim=1).float()
            for name, vectors in features.items()
        }
        fused = F.normalize(torch.stack(list(views.values())).sum(dim=0), dim=1)
        logits = _SCALE * fused @ self.prototypes.T
        return Outputs(logits, fused, views.get("audio"), views.get("visual"), prototypes=self.prototypes)

    def _regressions(self) -> dict[str, TextRegression]:
        return {name: own for name, own in self.regressions.items() if isinstance(own, TextRegression)}

    def _vectors(self, audio: Tensor | None, visual: Tensor | None) -> dict[str, Tensor]:
        """Return a float64 vector (B,D) a clip of what the network reads: its mean step, its mean token."""
        if any(clips is not None and not clips.is_floating_point() for clips in (audio, visual)):
            raise McilError("the store holds raw input, and features are needed; use another encoder than 'raw'")
        found = {}
        if audio is not None and "audio" in self.channels:
            found["audio"] = mean_step(audio, torch.float64)
        if visual is not None and "visual" in self.channels:
            found["visual"] = mean_token(visual, torch.float64)
        return found
