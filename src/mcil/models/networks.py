"""The audio-visual network that the class-incremental methods train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcil.models.attention import Attended, audio_guided_attention
from mcil.models.base import Network
from mcil.models.classifiers import CosineClassifier, LinearClassifier, ProxyClassifier
from mcil.models.tokens import mean_step, mean_token, present_unless_all, unit
from mcil.types import Modality, Outputs


class AudioVisualNet(Network):
    """Fuse one audio vector and the tokens of a video into class scores.

    Audio-visual: audio-guided attention pools the tokens, and the rectified projections of both are added up.
    One modality: the rectified projection of the audio, or of the mean of all tokens. A sound of several steps is
    read as the mean of those that it has, and tokens that a clip does not have are left out. Source: Pian et al.,
    ICCV 2023, eq. 2 to 5.

    Args:
        width: D, the width of the features that the network computes; that of the visual tokens where it reads
            any, since attention pools the tokens themselves.
        classes: number of classes.
        modality: what it reads.
        audio_width: channels of the audio features, where they differ from ``width``.
        classifier: scores the fused features; linear by default.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        modality: Modality = "audio-visual",
        audio_width: int | None = None,
        classifier: LinearClassifier | CosineClassifier | ProxyClassifier | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.audio_width = audio_width or width
        self.modality: Modality = modality
        if modality != "visual":
            self.audio_proj = nn.Linear(self.audio_width, width)
        if modality != "audio":
            self.visual_proj = nn.Linear(width, width)
        if modality == "audio-visual":
            self.attn_audio_proj = nn.Linear(self.audio_width, width)
            self.attn_visual_proj = nn.Linear(width, width)
        self.classifier = classifier or LinearClassifier(width, classes)

    @property
    def classes(self) -> int:
        """Number of outputs of the classifier."""
        return self.classifier.classes

    def stem(self, audio: Tensor | None, visual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return sounds as one vector each."""
        return None if audio is None else mean_step(audio), visual

    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = True
    ) -> Outputs:
        """Score clips: ``audio`` (B,D) or (B,T,D), and ``visual`` (B,L,S,D).

        A modality that the network does not have is ignored. Without ``need_attention`` the attention maps,
        which are as big as ``visual``, are not handed out.

        Raises:
            ValueError: a modality that the network needs is missing, or has another shape.
        """
        if self.modality == "audio":
            return self.fuse(audio=self._sound(audio))
        tokens = self._checked("visual", visual, (4,))
        if self.modality == "visual":
            return self.fuse(pooled=mean_token(tokens))
        sound = self._sound(audio)
        attended = self._attend(sound, tokens)
        outputs = self.fuse(sound, attended.pooled)
        if not need_attention:
            return outputs
        return outputs._replace(spatial_attention=attended.spatial, temporal_attention=attended.temporal)

    def fuse(self, audio: Tensor | None = None, pooled: Tensor | None = None) -> Outputs:
        """Score clips from their audio features (B,D) and pooled tokens (B,D), as far as there are any."""
        sound, look = self.project(audio, pooled)
        return self.classify(sound, look)._replace(pooled=pooled)

    def project(self, audio: Tensor | None, pooled: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the rectified projections (B,D) of audio features and of pooled tokens."""
        return (
            None if audio is None else torch.relu(self.audio_proj(audio)),
            None if pooled is None else torch.relu(self.visual_proj(pooled)),
        )

    def classify(self, sound: Tensor | None, look: Tensor | None) -> Outputs:
        """Fuse the projected features (B,D) that there are and score the sum."""
        fused = torch.stack([feature for feature in (sound, look) if feature is not None]).sum(dim=0)
        scale = self.classifier.scale
        return Outputs(self.classifier(fused), fused, unit(sound), unit(look), scale=scale)

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Enlarge the classifier to ``classes`` outputs; what it has learnt stays, and ``text`` is not read.

        New weights are drawn from PyTorch's global generator on the CPU, whatever device the network is on. The
        classifier's parameters are new objects: make the optimizer after growing.

        Raises:
            ValueError: the classifier has more outputs already.
        """
        if classes < self.classifier.classes:
            raise ValueError(f"the classifier has {self.classifier.classes} outputs and cannot shrink to {classes}")
        self.classifier.grow(classes)

    def _attend(self, sound: Tensor, tokens: Tensor) -> Attended:
        """Pool the tokens as the sound directs. A single token gets all attention, whatever the projections say."""
        if tokens.shape[1:3] == (1, 1):
            whole = torch.ones_like(tokens)
            return Attended(tokens[:, 0, 0], whole, whole[:, 0])
        asking, asked = torch.tanh(self.attn_audio_proj(sound)), torch.tanh(self.attn_visual_proj(tokens))
        return audio_guided_attention(asking, asked, tokens, present_unless_all(tokens))

    def _sound(self, audio: Tensor | None) -> Tensor:
        return mean_step(self._checked("audio", audio, (2, 3)))

    def _checked(self, name: str, features: Tensor | None, dimensions: tuple[int, ...]) -> Tensor:
        shape, width = ("(B,D) or (B,T,D)", self.audio_width) if name == "audio" else ("(B,L,S,D)", self.width)
        if features is None:
            raise ValueError(f"a network of modality '{self.modality}' needs {name} {shape}")
        if features.ndim not in dimensions or features.shape[-1] != width:
            raise ValueError(f"{name} must be {shape} with D = {width}, not {tuple(features.shape)}")
        return features
