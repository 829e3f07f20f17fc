"""AFC: class-incremental learning by knowledge distillation with adaptive feature consolidation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcil.losses import feature_discrepancy, nca
from mcil.memory import Selection
from mcil.methods.base import METHODS, Replay, ReplayMethod, teacher_of
from mcil.models import AudioVisualNet, Network, ProxyClassifier
from mcil.types import Batch, Modality, Outputs, Step, Teacher


@METHODS.register("afc-lsc")
@dataclass(frozen=True)
class AfcLsc(ReplayMethod):
    """Proxies of each class as classifier, and features held where the loss is sensitive to them.

    The NCA loss over cosine similarities to several proxies a class, and the distance of the normalised audio,
    visual and pooled features to the teacher's; each feature counts as much as its share in the gradient of the
    teacher's loss. With one modality there is one feature and no such weight. Proxies of new classes start at
    k-means centres of their clips' features; those of old classes stay as they are.

    Attributes:
        selection: how exemplars are chosen.
        nca: "code" is the loss of the code of Pian et al., in which the margin cancels and the target counts as a
            constant; "paper" takes the margin from the target only.
        margin: of the loss.
        proxies: of each class.
        discrepancy_weight: of the features' distance, times the root of the task's number.
    """

    source: ClassVar[str] = "Kang et al., Adaptive Feature Consolidation, CVPR 2022; local similarity classifier"
    uses_teacher: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = ("proxies",)
    replay: ClassVar[Replay] = "joint"
    imprints: ClassVar[bool] = True

    selection: Selection = "herding"
    nca: Literal["code", "paper"] = "code"
    margin: float = 0.6
    proxies: int = 10
    discrepancy_weight: float = 0.5

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> Network:
        """Return a new network with proxies for ``classes`` classes."""
        audio, visual = channels.get("audio"), channels.get("visual")
        width = visual or audio or 0
        return AudioVisualNet(width, classes, modality, audio, ProxyClassifier(width, classes, self.proxies))

    def imprint(self, network: Network, features: Tensor, labels: Tensor, seed: int) -> None:
        """Set each new class's proxies to the k-means centres of its clips' normalised features."""
        features = F.normalize(features, dim=-1).cpu().double()
        labels = labels.cpu()
        centres = [_centres(features[labels == label], self.proxies, seed) for label in sorted(set(labels.tolist()))]
        assert isinstance(network, AudioVisualNet)
        assert isinstance(network.classifier, ProxyClassifier)
        network.classifier.imprint(torch.cat(centres))

    def teach(self, network: Network, clips: Batch, need_attention: bool) -> Teacher:
        """Return the teacher's features, and how much its loss depends on each."""
        outputs = network(clips.audio, clips.visual, need_attention=need_attention)
        features = compared_features(outputs)
        if len(features) == 1:
            return teacher_of(outputs)._replace(features=features)
        assert isinstance(network, AudioVisualNet)
        with torch.enable_grad():
            importance = self._importance(network, clips, outputs)
        return teacher_of(outputs)._replace(features=features, importance=importance)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the classification and the features' distance."""
        losses = {"classification": self._classification(step.outputs, step.labels)}
        if step.teacher is not None and step.teacher.features is not None:
            distance = feature_discrepancy(
                compared_features(step.outputs), step.teacher.features, step.teacher.importance
            )
            weight = self.discrepancy_weight * math.sqrt(len(step.task_sizes))
            losses["discrepancy"] = weight * distance
        return losses

    def _classification(self, outputs: Outputs, labels: Tensor) -> Tensor:
        margin = 0.0 if outputs.scale is None else self.margin * outputs.scale
        return nca(outputs.logits, labels, margin, self.nca)

    def _importance(self, network: AudioVisualNet, clips: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Return each feature's share (B,) in the length of the loss's gradient."""
        assert outputs.pooled is not None
        pooled = outputs.pooled.detach().requires_grad_()
        sound, look = network.project(clips.audio, pooled)
        assert sound is not None
        assert look is not None
        sound = sound.detach().requires_grad_()
        loss = self._classification(network.classify(sound, look), clips.labels)
        gradients = torch.autograd.grad(loss, [sound, look, pooled])
        lengths = torch.stack([gradient.norm(dim=1) for gradient in gradients])
        shares = lengths / lengths.sum(dim=0).clamp_min(torch.finfo(lengths.dtype).tiny)
        return dict(zip(("audio", "visual", "pooled"), shares, strict=True))


@METHODS.register("afc-nme")
@dataclass(frozen=True)
class AfcNme(AfcLsc):
    """The same training; a clip belongs to the class whose exemplars' mean is nearest to its fused features."""

    source: ClassVar[str] = "Kang et al., Adaptive Feature Consolidation, CVPR 2022; nearest mean of exemplars"
    nearest_mean: ClassVar[bool] = True


def compared_features(outputs: Outputs) -> dict[str, Tensor]:
    """Return the normalised features (B,D) that are compared with the teacher's.

    The pooled tokens are one of them only where attention, which is learnt, made them.
    """
    features = {"audio": outputs.audio, "visual": outputs.visual}
    if outputs.audio is not None and outputs.pooled is not None:
        features["pooled"] = F.normalize(outputs.pooled, dim=-1)
    return {name: feature for name, feature in features.items() if feature is not None}


def _centres(features: Tensor, count: int, seed: int) -> Tensor:
    """Return ``count`` k-means centres of one class's features; they repeat where it has fewer different clips."""
    from sklearn.cluster import KMeans  # takes a second to load, and only this needs it

    distinct = np.unique(features.numpy(), axis=0)
    if len(distinct) > count:
        distinct = KMeans(count, n_init=10, random_state=seed % 2**32).fit(features.numpy()).cluster_centers_
    return torch.from_numpy(distinct[np.arange(count) % len(distinct)]).float()
