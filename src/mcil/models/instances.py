"""Which of a clip's tokens sounds? Classes as normal distributions of tokens, found by expectation-maximisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mcil.errors import McilError
from mcil.models.attention import masked_softmax
from mcil.models.closed_form import UNSEEN, ClosedFormNet, Scores
from mcil.models.closed_form_features import ClipFeatures
from mcil.models.closed_form_gaussian import DiscriminantNet
from mcil.models.closed_form_sums import Sums
from mcil.models.tokens import present
from mcil.types import Modality, Outputs

# A token less likely to be the sounding one than this share of an even guess adds nothing to the sums.
_FAINT = 1e-3
# Keeps a covariance of tokens that do not vary from being singular; of their mean square.
_TINY = 1e-8
# Numbers of tokens, or of their posterior, that are computed with at once, in float64.
_CHUNK = 1 << 22


class SoundNet(DiscriminantNet):
    """Linear discriminant analysis whose logits are its own posterior.

    They are to be multiplied with the posterior of tokens, which is LDA's own too. What makes logits judge held-out
    clips rightly is fitted to half of the clips: with the few sounds of a first task it all but silences them.
    """

    def sharpness(self, scores: Scores, clips: Sums) -> float:
        """Leave the posterior as it is."""
        return 1.0


class InstanceNet(ClosedFormNet):
    """A clip's class is that of its sound, and of one of its tokens, nobody says which.

    A class c is a normal distribution N(m_c, S) of tokens, S the same for all; tokens of anything else are N(m_0, S),
    m_0 the mean of all tokens. With log p(c | t) the posterior among the seen classes, all as likely, and the rest,
    ``background`` times as likely,

        w_n = p(c | t_n) / sum_m p(c | t_m)        how likely token n of a clip of class c is the one (E-step)
        m_c, S = mean and covariance of the tokens weighted by w            (M-step; from w even over the tokens)

    are repeated ``rounds`` times over a task's clips, beside what the sums say of earlier tasks; then the weighted sums
    of the task are added, and the clips are gone. So the order of clips within a task changes nothing, and the order of
    tasks a little: what was thought of an earlier task's tokens stays. A clip is scored by

        z_c = sound_c + log mean_n p(c | t_n)

    with sound_c the log posterior of linear discriminant analysis of the sound: the product of what both say. A clip
    without any token is scored by its sound, one whose sound has steps but none that is there by its tokens, and a
    class that never had one or the other looks, or sounds, like the mean of all. The attention is the probability that
    a token is the sounding one: sum_c softmax(z)_c w_n given c. Multiple-instance learning after Dietterich et al.
    1997, by expectation-maximisation (Dempster et al. 1977); the form is ours.

    Args:
        channels: of "audio" and "visual" features.
        classes: number of classes.
        modality: what is read; with the sound alone this is linear discriminant analysis.
        rounds: of E- and M-step.
        background: how many times as likely as one class anything else is.
        shrinkage: share of the identity, in the scale of the mean variance, in the covariance of tokens.
    """

    everything: Tensor
    clips: Tensor
    count: Tensor
    sums: Tensor
    gram: Tensor
    weights: Tensor
    bias: Tensor

    def __init__(
        self,
        channels: Mapping[str, int],
        classes: int,
        modality: Modality,
        rounds: int = 10,
        background: float = 4.0,
        shrinkage: float = 0.1,
    ) -> None:
        super().__init__()
        self.modality: Modality = modality
        self.rounds, self.background, self.shrinkage = rounds, background, shrinkage
        self.channels = {name: channels[name] for name in ("audio", "visual") if name in modality}
        self.sound: SoundNet | None = None
        if "audio" in self.channels:
            self.sound = SoundNet(ClipFeatures(channels, "audio", ["audio"]), classes)
        self.width = sum(self.channels.values())
        tokens = self.channels.get("visual", 0)
        for name, shape in (
            ("everything", (tokens + 1,)),  # sum of all tokens, and their number
            ("clips", (classes,)),
            ("count", (classes,)),  # the same but for clips without any token
            ("sums", (classes, tokens)),
            ("gram", (tokens, tokens)),
            ("weights", (tokens, classes + 1)),  # of the classes, and of the background behind them
            ("bias", (classes + 1,)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self._task: list[tuple[Tensor, Tensor]] = []

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Make room for ``classes`` classes."""
        more = classes - len(self.count)
        if more < 0:
            raise ValueError(f"there are {len(self.count)} classes already and there cannot be fewer: {classes}")
        if self.sound is not None:
            self.sound.grow(classes)
        self.clips, self.count = (torch.cat([each, each.new_zeros(more)]) for each in (self.clips, self.count))
        self.sums = torch.cat([self.sums, self.sums.new_zeros(more, self.sums.shape[1])])
        unknown, background = self.weights.new_zeros(len(self.weights), more), self.weights[:, -1:]
        self.weights = torch.cat([self.weights[:, :-1], unknown, background], dim=1)
        self.bias = torch.cat([self.bias[:-1], self.bias.new_full((more,), UNSEEN), self.bias[-1:]])

    @torch.no_grad()
    def observe(self, audio: Tensor | None, visual: Tensor | None, labels: Tensor) -> None:
        """Add clips to the sums of sounds; their tokens are kept until :meth:`solve`.

        Sounds (B,D_a) or (B,T,D_a), pictures (B,L,S,D_v), labels (B,). See :meth:`ClosedFormNet.observe`.
        """
        given = {name: clips for name, clips in (("audio", audio), ("visual", visual)) if clips is not None}
        missing = [name for name in self.channels if name not in given]
        if missing:
            raise ValueError(f"a network of modality '{self.modality}' needs {' and '.join(missing)} to learn from")
        tokens = self._tokens(given["visual"]) if "visual" in self.channels else None
        if tokens is not None and not all(tokens[rows].isfinite().all() for rows in self._chunks(tokens)):
            raise McilError("the features of the clips to learn from are not all finite; extract them again")
        if self.sound is not None:
            heard = _heard(given["audio"])
            self.sound.observe(given["audio"][heard], None, labels[heard])
        if tokens is not None:
            self._task.append((tokens, labels))

    @torch.no_grad()
    def solve(self) -> None:
        """Find the sounding tokens of the clips observed since the last time, and compute the weights.

        Raises:
            ValueError: nothing was observed.
        """
        if "visual" in self.channels and not self._task and not self.clips.any():
            raise ValueError("no clip was observed: there is nothing to solve")
        if self.sound is not None and ("visual" not in self.channels or self.sound.sums.count.any()):
            self.sound.solve()
        if "visual" not in self.channels:
            return
        for tokens, labels in self._task:
            for rows in self._chunks(tokens):
                self.everything[:-1] += tokens[rows].double().sum(dim=(0, 1))
            self.everything[-1] += present(tokens).sum()
            self.clips.index_add_(0, labels, self.clips.new_ones(len(labels)))
        # Even over the tokens first; then by what the last round found.
        found = [_even(present(tokens)) for tokens, _ in self._task]
        for _ in range(self.rounds if self._task else 0):
            self._fit(*self._sums(found))
            found = [self._responsible(tokens, labels) for tokens, labels in self._task]
        self.count, self.sums, self.gram = self._sums(found)
        self._fit(self.count, self.sums, self.gram)
        self._task.clear()

    def _sums(self, found: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return count (C), sums (C,D) and Gram matrix (D,D) of all tasks' tokens, those of this one weighed (N,S)."""
        count, sums, gram = self.count.clone(), self.sums.clone(), self.gram.clone()
        for (clips, labels), responsible in zip(self._task, found, strict=True):
            for rows in self._chunks(clips):
                tokens, weights = clips[rows], responsible[rows]
                chosen = weights > _FAINT / present(tokens).sum(dim=1, keepdim=True)
                own, weight = tokens[chosen].double(), weights[chosen]
                classes = labels[rows, None].expand_as(weights)[chosen]
                weighed = own * weight[:, None]
                count.index_add_(0, classes, weight)
                sums.index_add_(0, classes, weighed)
                gram.addmm_(weighed.T, own)
        return count, sums, gram

    def _fit(self, count: Tensor, sums: Tensor, gram: Tensor) -> None:
        """Compute the weights and biases of the classes and of the background from weighted sums."""
        total = count.sum().clamp_min(_TINY)
        means = sums / count.clamp_min(_TINY)[:, None]
        within = (gram - means.T @ sums) / total
        square = gram.diagonal().mean() / total
        variance = within.diagonal().mean().clamp_min(_TINY * square).clamp_min(_TINY)
        covariance = (1 - self.shrinkage) * within
        covariance.diagonal().add_(self.shrinkage * variance)
        background = self.everything[:-1] / self.everything[-1].clamp_min(1)
        centres = torch.cat([torch.where(count[:, None] > 0, means, background), background[None]])
        self.weights = torch.cholesky_solve(centres.T, torch.linalg.cholesky(covariance))
        bias = -(centres.T * self.weights).sum(dim=0) / 2
        bias[-1] += math.log(self.background)
        self.bias = torch.where(F.pad(self.clips > 0, (0, 1), value=True), bias, UNSEEN)

    def _posterior(self, tokens: Tensor) -> Tensor:
        """Return log p(c | t) (N,S,C) of tokens (N,S,D)."""
        return (tokens.double() @ self.weights + self.bias).log_softmax(dim=-1)[..., :-1]

    def _responsible(self, clips: Tensor, labels: Tensor) -> Tensor:
        """Return how likely each token (N,S,D) is the sounding one (N,S) of clips of known classes (N,)."""
        found = []
        for rows in self._chunks(clips):
            tokens = clips[rows]
            own = labels[rows, None, None].expand(-1, tokens.shape[1], 1)
            likely = self._posterior(tokens).gather(2, own).squeeze(2)
            found.append(masked_softmax(likely, present(tokens), dim=1))
        return torch.cat(found)

    @torch.no_grad()
    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = False
    ) -> Outputs:
        """Score clips by what is given of them: sounds (B,D_a) or (B,T,D_a), pictures (B,L,S,D_v).

        Logits are (B,C). Where sound and picture are read there is attention, spatial (B,L,S,1), temporal (B,L,1).

        Raises:
            ValueError: nothing that the network reads is given, or it has another shape.
        """
        heard, scores = None, None
        if self.sound is not None and audio is not None:
            scores = heard = self._hear(self.sound, audio)
        maps, needs_maps = None, need_attention and self.sound is not None
        if "visual" in self.channels and visual is not None:
            tokens = self._tokens(visual)
            parts = [
                self._look(tokens[rows], None if heard is None else heard[rows], needs_maps)
                for rows in self._chunks(tokens)
            ]
            scores = torch.cat([score for score, _ in parts])
            if needs_maps:
                maps = torch.cat([likely for _, likely in parts]).reshape(visual.shape[:3])
        if scores is None:
            raise ValueError(f"a network of modality '{self.modality}' needs {' or '.join(self.channels)}")
        outputs = Outputs(logits=scores.float(), fused=scores.float())
        if maps is None or visual is None:
            return outputs
        there = present(visual)
        spatial, temporal = masked_softmax(maps, there, dim=2), masked_softmax(maps.logsumexp(2), there.any(2), dim=1)
        return outputs._replace(
            spatial_attention=spatial[..., None].float(), temporal_attention=temporal[..., None].float()
        )

    def _hear(self, sound: SoundNet, audio: Tensor) -> Tensor:
        """Return the log posterior (N,C), up to a constant, of sounds: 0 where there is none, or none to compare."""
        scores: Tensor = sound(audio, None).logits.double()
        unheard = ~sound.sums.count.any(dim=0)
        seen = (self.clips > 0) | ~unheard
        return torch.where(seen & (unheard | ~_heard(audio)[:, None]), 0.0, scores)

    def _look(self, tokens: Tensor, heard: Tensor | None, needs_maps: bool) -> tuple[Tensor, Tensor]:
        """Return the scores (N,C) of clips by their tokens (N,S,D), and by their sound where it is heard (N,C).

        And, where it is needed, the logarithm (N,S) of how likely each token is the sounding one.
        """
        there = present(tokens)
        posterior = self._posterior(tokens).masked_fill(~there[..., None], -math.inf)
        seen = posterior.logsumexp(dim=1)
        count = there.sum(dim=1)[:, None]
        scores = torch.where(count > 0, seen - count.clamp_min(1).log(), 0.0)
        if heard is not None:
            scores = scores + heard
        scores = torch.where(self.clips > 0, scores, UNSEEN).clamp_min(UNSEEN)
        if not needs_maps:
            return scores, scores
        likely = scores.log_softmax(dim=1) - torch.where(count > 0, seen, 0.0)
        return scores, (posterior + likely[:, None]).logsumexp(dim=2)

    def _chunks(self, tokens: Tensor) -> Iterator[slice]:
        """Yield slices of clips that are few enough to compute with all of their tokens (N,S,D), or their posterior."""
        clips = max(1, _CHUNK // (tokens.shape[1] * max(tokens.shape[2], len(self.bias))))
        return (slice(start, start + clips) for start in range(0, max(1, len(tokens)), clips))

    def _tokens(self, visual: Tensor) -> Tensor:
        """Return the tokens (N,L*S,D) of pictures (N,L,S,D)."""
        if visual.ndim != 4 or visual.shape[-1] != self.channels["visual"]:
            raise ValueError(f"visual must be (B,L,S,D) with D = {self.channels['visual']}, not {tuple(visual.shape)}")
        return visual.flatten(1, 2)


def _heard(audio: Tensor) -> Tensor:
    """Return which clips have a sound (N,): a vector each (N,D), or a step (N,T,D) that is there."""
    return present(audio).any(dim=1) if audio.ndim == 3 else audio.new_ones(len(audio), dtype=torch.bool)


def _even(there: Tensor) -> Tensor:
    """Return the same weight (N,S) for each token of a clip that is there, 1 together."""
    return there / there.sum(dim=1, keepdim=True).clamp_min(1).double()
