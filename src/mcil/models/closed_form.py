"""What a closed-form method fits: sums over clips, and the weights that follow from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mcil.errors import McilError
from mcil.models.closed_form_features import Block, ClipFeatures
from mcil.models.closed_form_sums import FoldSums, Standardised, Sums, standardise
from mcil.types import Modality, Outputs

# Logit of a class that was never observed: its probability is 0 in float32, and sums with it stay finite.
UNSEEN = -1e9
# Clips whose features are computed at once, in float64.
_CHUNK = 4096
# Where scores say nothing about clips that they were not fitted to, logits are still in their order.
_DULLEST = 1e-3


class ClosedFormNet(nn.Module, ABC):
    """A classifier that is fitted in one pass: it observes each clip once, and keeps none.

    All that it knows is in buffers. ``width`` is the number of its features.
    """

    reads_subsets: ClassVar[bool] = True

    width: int
    modality: Modality

    @abstractmethod
    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Make room for ``classes`` classes; ``text`` (n,P,D) is of the new ones, for a net that reads it.

        Raises:
            ValueError: there are more classes already.
        """

    @abstractmethod
    def observe(self, audio: Tensor | None, visual: Tensor | None, labels: Tensor) -> None:
        """Add clips to the sums: ``audio`` (B,D_a) or (B,T,D_a), ``visual`` (B,L,S,D_v), as stored; ``labels`` (B,).

        Labels are class ids. Clips of a class may come in any number of batches, at any time.

        Raises:
            McilError: a feature is not finite.
            ValueError: a modality that the network reads is missing, or has another shape.
        """

    @abstractmethod
    def solve(self) -> None:
        """Compute the weights from the sums.

        Raises:
            ValueError: nothing was observed.
        """

    @abstractmethod
    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = False
    ) -> Outputs:
        """Score clips; a class that was never observed gets the lowest score.

        ``logits`` are such that their softmax is a probability; ``fused`` are the features that they are computed
        from. A network of both modalities classifies clips of one alone, as well as that one can.

        Raises:
            ValueError: no modality that the network reads is given, or one has another shape.
        """


class Scores(NamedTuple):
    """Logits are linear in standardised features (B,D): features @ ``weights`` (D,C) + ``bias`` (C)."""

    weights: Tensor
    bias: Tensor


class LinearNet(ClosedFormNet):
    """A closed-form net whose logits are linear in fixed features of a clip, standardised over all clips so far.

    For each set of modalities that a clip may come with it has weights of its own, all from the same sums.

    Args:
        features: computes the features.
        classes: number of classes.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: ClipFeatures, classes: int) -> None:
        super().__init__()
        self.modality: Modality = features.modality
        self.features = features
        self.width = features.width
        self.sums = FoldSums(self.width, classes)
        self.register_buffer("mean", torch.zeros(self.width, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(self.width, dtype=torch.float64))
        for given in self._subsets():
            self.register_buffer(f"{_name(given)}_weights", torch.zeros(self.width, classes, dtype=torch.float64))
            self.register_buffer(f"{_name(given)}_bias", torch.full((classes,), UNSEEN, dtype=torch.float64))

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Make room for ``classes`` classes."""
        more = classes - self.sums.count.shape[1]
        self.sums.grow(classes)
        for given in self._subsets():
            weights, bias = (self.get_buffer(f"{_name(given)}_{part}") for part in ("weights", "bias"))
            setattr(self, f"{_name(given)}_weights", torch.cat([weights, weights.new_zeros(self.width, more)], dim=1))
            setattr(self, f"{_name(given)}_bias", torch.cat([bias, bias.new_full((more,), UNSEEN)]))

    @torch.no_grad()
    def observe(self, audio: Tensor | None, visual: Tensor | None, labels: Tensor) -> None:
        """Add clips to the sums."""
        given = self._given(audio, visual)
        missing = [name for name in self.features.channels if name not in given]
        if missing:
            raise ValueError(f"a network of modality '{self.modality}' needs {' and '.join(missing)} to learn from")
        for start in range(0, len(labels), _CHUNK):
            clips = {name: array[start : start + _CHUNK] for name, array in given.items()}
            features = torch.cat(list(self.features(clips).values()), dim=1)
            if not features.isfinite().all():
                raise McilError("the features of the clips to learn from are not all finite; extract them again")
            self.sums.add(features, labels[start : start + _CHUNK], self.features.folds(clips))

    @torch.no_grad()
    def solve(self) -> None:
        """Compute the weights for each set of modalities."""
        clips = standardise(self.sums, list(self.features.columns.values()))
        self.mean.copy_(clips.mean)
        self.scale.copy_(clips.scale)
        self.choose(clips)
        seen = clips.all.count > 0
        for given in self._subsets():
            blocks = [block for block in self.features.columns if self.features.read(block) <= given]
            scores = self.fit(clips.all, blocks)
            factors = [self.sharpness(self.fit(train, blocks), test) for train, test in clips.halves]
            factor = sum(factors) / len(factors)
            self.get_buffer(f"{_name(given)}_weights").copy_(torch.where(seen, scores.weights * factor, 0))
            self.get_buffer(f"{_name(given)}_bias").copy_(torch.where(seen, scores.bias * factor, UNSEEN))

    def choose(self, clips: Standardised) -> None:
        """Choose what depends on the sums, before any weights are fitted; nothing, unless a method says so."""

    @abstractmethod
    def fit(self, clips: Sums, blocks: Sequence[Block]) -> Scores:
        """Return the scores that follow from ``clips``, by these ``blocks`` of the features.

        Their scale is free. Weights are 0 in the columns of other blocks. What is returned for a class without clips
        is not used.
        """

    def sharpness(self, scores: Scores, clips: Sums) -> float:
        """Return the factor that makes logits of ``scores``, judged by ``clips`` that they were not fitted to.

        Where classes are normal distributions of equal covariance, the difference of the logits of a clip's class and
        of another varies from clip to clip by twice its mean. The factor is the one that makes it so in the mean
        over all pairs of classes; it follows from the sums over the clips.
        """
        seen = clips.count > 0
        weights, bias, share = scores.weights[:, seen], scores.bias[seen], clips.count[seen] / clips.clips
        means = clips.sums[seen] / clips.count[seen, None]
        reached = means @ weights  # (C,C): of the clips of a class, for a class
        logits = reached + bias
        margin = share @ (logits.diagonal() - logits.mean(dim=1))
        within = weights.T @ (clips.gram @ weights) / clips.clips - reached.T * share @ reached
        spread = share @ within.diagonal() + within.diagonal().mean() - 2 * (share @ within).mean()
        return float((2 * margin / spread).clamp_min(_DULLEST)) if spread > 0 else 1.0

    @torch.no_grad()
    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = False
    ) -> Outputs:
        """Score clips with the weights for the modalities that are given; there is no attention."""
        given = self._given(audio, visual)
        if not given:
            raise ValueError(f"a network of modality '{self.modality}' needs {' or '.join(self.features.channels)}")
        blocks = self.features(given)
        clips = len(next(iter(given.values())))
        # What is not given counts as the mean of all clips, where its weights are 0 anyway.
        features = self.mean.repeat(clips, 1)
        for block, columns in self.features.columns.items():
            if block in blocks:
                features[:, columns] = blocks[block]
        features = (features - self.mean) * self.scale
        weights, bias = (self.get_buffer(f"{_name(given)}_{part}") for part in ("weights", "bias"))
        return Outputs(logits=(features @ weights + bias).float(), fused=features.float())

    def _given(self, audio: Tensor | None, visual: Tensor | None) -> dict[str, Tensor]:
        """Return what the network reads of what is given, by modality."""
        arrays = {"audio": audio, "visual": visual}
        return {name: array for name in self.features.channels if (array := arrays[name]) is not None}

    def _subsets(self) -> list[set[str]]:
        """Return the sets of modalities that clips may come with, that of all modalities first."""
        names = set(self.features.channels)
        return [names, *({name} for name in sorted(names))] if len(names) > 1 else [names]


def _name(given: Iterable[str]) -> str:
    return "_".join(sorted(given))
