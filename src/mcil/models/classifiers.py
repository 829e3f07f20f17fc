"""Classifiers that grow with the classes, and the mean of exemplars as one that is not trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearClassifier(nn.Linear):
    """A linear layer; growing keeps the old rows, and new ones get the default initialisation."""

    scale = None

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return self.out_features

    def grow(self, classes: int) -> None:
        """Enlarge to ``classes`` outputs."""
        old, grown = self.out_features, nn.Linear(self.in_features, classes, device="cpu").to(self.weight)
        with torch.no_grad():
            grown.weight[:old] = self.weight
            grown.bias[:old] = self.bias
        self.weight, self.bias, self.out_features = grown.weight, grown.bias, classes


class CosineClassifier(nn.Module):
    """Scores are cosines of features and class weights times a learnt scale; growing keeps the old rows.

    Source: Hou et al., "Learning a Unified Classifier Incrementally via Rebalancing", CVPR 2019.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(self._drawn(classes, width))
        self.factor = nn.Parameter(torch.tensor(10.0))

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return len(self.weight)

    @property
    def scale(self) -> Tensor:
        """The learnt factor ()."""
        return self.factor

    def forward(self, fused: Tensor) -> Tensor:
        """Return logits (B,C) of fused features (B,D)."""
        logits: Tensor = self.factor * (F.normalize(fused, dim=-1) @ F.normalize(self.weight, dim=-1).T)
        return logits

    def grow(self, classes: int) -> None:
        """Enlarge to ``classes`` outputs."""
        new = self._drawn(classes - self.classes, self.weight.shape[1]).to(self.weight)
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), new]))

    @staticmethod
    def _drawn(classes: int, width: int) -> Tensor:
        """Random directions, drawn on the CPU whatever device the network is on."""
        return nn.init.normal_(torch.empty(classes, width, device="cpu"), std=width**-0.5)


class ProxyClassifier(nn.Module):
    """Local similarity classifier: each class has several proxies, and a clip may be near any of them.

    A clip's similarity to a proxy is minus the squared distance of their L2-normalised vectors; that to a class is
    the mean over its proxies weighted by their softmax. The logits are these times a learnt scale. Growing freezes
    the proxies of the old classes. Source: Douillard et al., "PODNet", ECCV 2020, as in AFC (Kang et al., CVPR 2022).

    Args:
        width: D, of the features.
        classes: number of classes.
        proxies: of each class.
    """

    def __init__(self, width: int, classes: int, proxies: int) -> None:
        super().__init__()
        self.width, self.proxies = width, proxies
        self.old = nn.Parameter(torch.empty(0, width), requires_grad=False)
        self.new = self._drawn(classes)
        self.factor = nn.Parameter(torch.ones(()))

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return (len(self.old) + len(self.new)) // self.proxies

    @property
    def scale(self) -> Tensor:
        """The learnt factor ()."""
        return self.factor

    def forward(self, fused: Tensor) -> Tensor:
        """Return logits (B,C) of fused features (B,D)."""
        proxies = F.normalize(torch.cat([self.old, self.new]).to(fused.dtype), dim=-1)
        # Unit vectors: the squared distance is 2 - 2 cos.
        similarity = 2 * F.normalize(fused, dim=-1) @ proxies.T - 2
        similarity = similarity.reshape(len(fused), self.classes, self.proxies)
        logits: Tensor = self.factor * (similarity.softmax(dim=-1) * similarity).sum(dim=-1)
        return logits

    def grow(self, classes: int) -> None:
        """Freeze the proxies there are and add random ones up to ``classes`` classes."""
        added = classes - self.classes
        self.old = nn.Parameter(torch.cat([self.old, self.new]).detach(), requires_grad=False)
        self.new = self._drawn(added)

    def imprint(self, centres: Tensor) -> None:
        """Let the new classes' proxies be ``centres`` (C_new * proxies, D), given the old ones' mean length."""
        with torch.no_grad():
            self.new.copy_(centres * self.old.norm(dim=1).mean())

    def _drawn(self, classes: int) -> nn.Parameter:
        proxies = torch.empty(classes * self.proxies, self.width, device="cpu")
        if classes:
            nn.init.kaiming_normal_(proxies, nonlinearity="linear")
        return nn.Parameter(proxies.to(self.old))


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean (C,D) of the L2-normalised ``features`` (N,D) of each class; it is not normalised again.

    Each class has at least one clip. Source: Rebuffi et al., "iCaRL", CVPR 2017, as the code of Pian et al. has it:
    the original brings the means to length 1 again.
    """
    means = features.new_zeros(classes, features.shape[1])
    means.index_add_(0, labels, F.normalize(features, dim=-1))
    return means / torch.bincount(labels, minlength=classes).to(means)[:, None]


def nearest_mean_logits(features: Tensor, means: Tensor) -> Tensor:
    """Return minus the squared Euclidean distance (B,C) of L2-normalised ``features`` (B,D) to ``means`` (C,D)."""
    features = F.normalize(features, dim=-1)
    return 2 * features @ means.T - (features**2).sum(dim=1, keepdim=True) - (means**2).sum(dim=1)
