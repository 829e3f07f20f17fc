"""MCIL-AudioCLIP as its released code computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.optim import AdamW, Optimizer

from mcil.encoders.clip import VisionTransformer, load_clip
from mcil.encoders.clip.load import DEFAULT
from mcil.errors import McilError
from mcil.losses import released_mutual_information, released_weighted_cross_entropy
from mcil.methods.base import METHODS, GradientMethod
from mcil.models.released import ReleasedNet
from mcil.types import Modality, Step

WARM_UP = 30  # steps


@METHODS.register("mcil-audioclip-released")
@dataclass(frozen=True)
class McilAudioClipReleased(GradientMethod):
    """The released code of MCIL-AudioCLIP, to compare with: an adapter in each block of CLIP, and no sound.

    0.7 times a weighted cross-entropy among the current task's classes, whose weights cancel, and 0.3 times minus two
    sums that are all but constant. No memory, no distillation.

    Attributes:
        weights: of CLIP, with the vocabulary beside them; see :func:`mcil.encoders.clip.load_clip`. The release's are
            OpenAI's ViT-B/16.
        label_smoothing: share of a clip's target that is spread evenly over the classes of its task, below 1.
    """

    source: ClassVar[str] = "Chen et al., MCIL-AudioCLIP, ICASSP 2025; the released code"
    uses_text: ClassVar[bool] = True
    needs_weights: ClassVar[bool] = True

    weights: str = DEFAULT
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        super().__post_init__()
        if not self.label_smoothing < 1:
            raise McilError(f"option 'label_smoothing' must be below 1, but it is {self.label_smoothing}")

    @property
    def standardised(self) -> bool:
        """Pixels are read as they are stored, and the sound's embedding too."""
        return False

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> ReleasedNet:
        """See :meth:`Method.network`.

        Raises:
            McilError: no pictures are read, or the weights cannot be, or they are of no vision transformer.
        """
        if "visual" not in modality:
            raise McilError("method 'mcil-audioclip-released' classifies pictures; use modality audio-visual or visual")
        towers = load_clip(self.weights)
        if not isinstance(towers.visual, VisionTransformer):
            raise McilError(
                f"method 'mcil-audioclip-released' has adapters in a vision transformer, and {self.weights} holds a "
                "residual network; give ViT-B-16.pt"
            )
        return ReleasedNet(towers, channels["audio"] if modality == "audio-visual" else None)

    def optimizer(self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> Optimizer:
        """Return AdamW; the release's learning rate is 0.001 and its weight decay 0."""
        return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)

    def rate(self, step: int, steps: int) -> float:
        """A linear warm-up of 30 steps, then half a cosine; with exactly 30 steps the release divides by zero."""
        if step < WARM_UP:
            return (step + 1) / WARM_UP
        return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(steps - WARM_UP, 1)))

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return both terms, with the release's weights; without sound the second has one part."""
        outputs, old = step.outputs, step.old_classes
        assert outputs.visual is not None  # the network always reads pictures
        classification = released_weighted_cross_entropy(
            outputs.logits[:, old:], step.labels - old, outputs.visual, self.label_smoothing
        )
        information = released_mutual_information(outputs.fused, outputs.visual)
        if outputs.audio is not None:
            information = information + released_mutual_information(outputs.fused, outputs.audio)
        return {"classification": 0.7 * classification, "mutual_information": -0.3 * information}
