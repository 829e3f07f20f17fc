"""The network of MCIL-AudioCLIP's release, as its code computes it; see :class:`ReleasedNet`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.encoders.clip import ClipTowers, normalise
from mcil.encoders.tower import Adapt
from mcil.errors import McilError
from mcil.models.backbone import Backbone, as_pictures
from mcil.models.base import Network
from mcil.models.crops import random_boxes, resample
from mcil.models.figures import View, view_figures
from mcil.models.fusion import correlation
from mcil.models.mixture import Adapter
from mcil.types import Batch, Outputs

# The logarithm of CLIP's first scale, 1 / 0.07: the release multiplies by it without taking it to the exponential.
SCALE = math.log(1 / 0.07)

_EXPERTS = 5
_FUSION = (2 * 1024, 512)  # inputs and outputs of an MLP that the release never runs
_THRESHOLD = 0.8


class ReleasedMixture(nn.Module):
    """Five adapters beside a transformer block, of which a router picks one for each clip.

    As in the release, the router begins at zero and reads the first token, which in a text is the same in all texts; a
    pick's weight is the softmax over itself alone, that is 1, so the router's gradient is zero; and in every pass, in
    evaluation too, an expert that some clip does not pick is frozen for good. So only one expert is ever trained.
    Of equal scores the first counts here; in the release that depends on the device, and the experts begin alike.

    Attributes:
        noise: of the router; no code reads it, and it counts among the release's parameters.
        frozen: (5,) which experts are frozen.
        picked: (B,) which expert each clip of the last pass was sent to.
    """

    frozen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Adapter(width) for _ in range(_EXPERTS))
        self.router = nn.Parameter(torch.zeros(width, _EXPERTS))
        self.noise = nn.Parameter(torch.zeros(width, _EXPERTS))
        self.register_buffer("frozen", torch.zeros(_EXPERTS, dtype=torch.bool))
        self.picked = torch.zeros(0, dtype=torch.int64)
        self.register_load_state_dict_post_hook(_hold_frozen)  # type: ignore[no-untyped-call]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what the picked experts add to tokens (B,T,D)."""
        scores = tokens[:, 0] @ self.router
        picked = scores.argmax(dim=1, keepdim=True)  # of equal ones the first
        gates = scores.gather(1, picked).softmax(dim=1)
        self.picked = picked.detach()[:, 0]
        used = sorted(set(self.picked.tolist()))
        self._freeze(used)
        if len(used) == 1:
            only: Tensor = gates[:, :, None] * self.experts[used[0]](tokens)
            return only
        added = torch.zeros_like(tokens)
        for number in used:
            rows = (self.picked == number).nonzero()[:, 0]
            said = gates[rows][:, :, None] * self.experts[number](tokens[rows])
            added = added.index_add(0, rows, said.to(added.dtype))
        return added

    def _freeze(self, used: Sequence[int]) -> None:
        """Freeze each expert that not all clips of a pass picked."""
        for number, expert in enumerate(self.experts):
            if used and used != [number] and not _is_frozen(expert):
                self.frozen[number] = True
                expert.requires_grad_(False)


def _is_frozen(expert: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in expert.parameters())


def _hold_frozen(module: nn.Module, incompatible: Any) -> None:
    """After loading, let gradients reach only the experts that are not frozen."""
    assert isinstance(module, ReleasedMixture)
    for expert, frozen in zip(module.experts, module.frozen.tolist(), strict=True):
        expert.requires_grad_(not frozen)


class ReleasedAdapters(nn.Module):
    """A mixture for each block of a tower."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.places = nn.ModuleList(ReleasedMixture(width) for width in widths)

    @property
    def mixtures(self) -> list[ReleasedMixture]:
        """From the bottom upwards."""
        return [place for place in self.places if isinstance(place, ReleasedMixture)]

    @property
    def adapt(self) -> Adapt:
        """What adapts the tower; the router reads the first token and not the summary."""
        return lambda place, tokens, summary: self.places[place](tokens)


class ReleasedFusion(nn.Module):
    """The picture's feature, whatever the sound is.

    Where the mean correlation of a batch's pictures and sounds is below 0.8, the release masks the sound. Where it is
    not, its code multiplies matrices (B,D) and (2 D,B), and stops. Its weights, 1,313,794 numbers, are there to count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image_weight, self.audio_weight = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        inputs, hidden = _FUSION
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        )

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Return ``visual`` (B,E).

        Raises:
            McilError: the mean over the batch of Pearson's correlation with ``audio`` (B,E) is not below 0.8.
        """
        mean = float(correlation(visual.detach(), audio.detach()).mean()) if len(visual) else 0.0
        if not mean < _THRESHOLD:
            raise McilError(
                f"the release cannot fuse this batch: its pictures and sounds correlate by {mean:.2f}, and from "
                f"{_THRESHOLD} on its matrices do not fit; use method 'mcil-audioclip'"
            )
        return visual


class ReleasedNet(Network):
    """What the released code of MCIL-AudioCLIP computes: CLIP's towers with adapters, and a sound that changes nothing.

    Pictures and prompts go through CLIP's frozen ViT and text transformer, each block with a :class:`ReleasedMixture`.
    In training a class of the current task is the mean of its prompts but the last, not normalised; in evaluation every
    class is its last prompt, normalised. Scores are ``SCALE`` times the products with the picture's unit feature. The
    sound's embedding goes through a frozen random layer into the loss alone.

    Pictures are pixels as the encoder ``raw`` stores them, (B,1,H*H,3). In training a random box of 90 to 100 % of each
    is resized to what the tower reads. The release does so in evaluation too; here the whole picture is read then, so
    that a prediction can be repeated.

    Args:
        towers: CLIP with a vision transformer.
        audio: channels of the stored sound embeddings; None where no sound is read.
    """

    tokens: Tensor
    text_mean: Tensor

    def __init__(self, towers: ClipTowers, audio: int | None) -> None:
        super().__init__()
        self.visual, self.text = Backbone(towers.visual, towers.sha256), Backbone(towers.text, towers.sha256)
        self.size, self.vocabulary, self.context = towers.visual.size, towers.text.vocabulary, towers.text.context
        self.visual_adapters = ReleasedAdapters(towers.visual.widths)
        self.text_adapters = ReleasedAdapters(towers.text.widths)
        self.fusion = ReleasedFusion()
        self.audio_layer = None if audio is None else nn.Linear(audio, towers.visual.width).requires_grad_(False)
        self.register_buffer("tokens", torch.zeros(0, 0, towers.text.context, dtype=torch.int32))
        self.register_buffer("text_mean", torch.zeros(towers.visual.width))  # as the last task began
        self.new = 0
        self._evaluated: Tensor | None = None

    @property
    def classes(self) -> int:
        """Number of classes whose prompts it knows."""
        return len(self.tokens)

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Learn the prompts of new classes: ``text`` (n,P,77) are token ids; the last of the P >= 2 is for evaluation.

        Raises:
            McilError: the text is not of that form.
            ValueError: there are more classes already, or text is missing.
        """
        new = classes - self.classes
        if new < 0 or text is None or len(text) != new:
            raise ValueError(f"{classes} classes in all need text of {new} new ones")
        fits = text.ndim == 3 and text.shape[1] >= 2 and text.shape[2] == self.context
        if not fits or text.min() < 0 or text.max() >= self.vocabulary or (text != text.round()).any():
            raise McilError(
                f"this method reads two or more prompts a class as CLIP's token ids, (n, P, {self.context}), which the "
                f"text {tuple(text.shape)} is not; make it with the encoder 'clip-tokens' and prompts 'released-...'"
            )
        ids = text.to(self.tokens.device, torch.int32)
        self.tokens = torch.cat([self.tokens.reshape(-1, *ids.shape[1:]), ids])
        self.new, self._evaluated = new, None

    @torch.no_grad()
    def begin_task(self, clips: Iterable[Batch]) -> None:
        """Keep the mean of what the last prompts say of all classes, for :meth:`figures`."""
        self.text_mean = self.encode_text(self.tokens[:, -1]).mean(dim=0)

    def train(self, mode: bool = True) -> ReleasedNet:
        """See :meth:`torch.nn.Module.train`; what text says of the classes is computed anew."""
        self._evaluated = None
        super().train(mode)
        return self

    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = True
    ) -> Outputs:
        """Score clips: ``audio`` (B,D_a) embeddings and ``visual`` (B,1,H*H,3) pixels; see :meth:`score`.

        Raises:
            McilError: the pictures are no such pixels, or a sound is no vector; or as :meth:`score`.
            ValueError: there are no pictures.
        """
        if visual is None:
            raise ValueError("a network of MCIL-AudioCLIP's release needs visual (B,1,H*H,3)")
        if audio is not None and audio.ndim != 2:
            raise McilError(
                f"the release reads one embedding of a sound, and the store has {audio.shape[1]} steps of each; "
                "extract sounds with the encoder 'audioclip', or use method 'mcil-audioclip'"
            )
        return self.score(audio, self._pictures(visual))

    def score(self, audio: Tensor | None, pictures: Tensor) -> Outputs:
        """Score clips: ``audio`` (B,D_a) embeddings, ``pictures`` (B,3,H,H) as CLIP reads them.

        In training only classes of the current task have scores, the others minus infinity, and ``prototypes`` are of
        the current task; in evaluation they are of all classes.

        Raises:
            McilError: sounds and pictures are so much alike that the release's code would stop.
        """
        visual = _unit(self.visual(pictures, self.visual_adapters.adapt))
        sound, fused = None, visual
        if audio is not None and self.audio_layer is not None:
            sound = _unit(self.audio_layer(audio))
            fused = _unit(self.fusion(visual, sound))
        prototypes = self._learnt() if self.training else self._known()
        with torch.autocast(visual.device.type, enabled=False):
            logits = SCALE * fused @ prototypes.T
        logits = F.pad(logits, (self.classes - len(prototypes), 0), value=-torch.inf)
        return Outputs(logits, fused, sound, visual, prototypes=prototypes)

    @torch.no_grad()
    def figures(self, clips: Iterable[Batch]) -> dict[str, Any]:
        """See :meth:`Network.figures`; two means are what the release's first metric reads.

        ``visual_mean`` is of the last batch alone. ``text_mean`` is of features that are not normalised, by the weights
        before the last task was trained. ``unmasked`` is 0: where it would not be, the release stops. ``load`` is of
        the test clips, and of the prompts for evaluation.
        """
        self.eval()
        seen = torch.zeros(len(self.visual_adapters.mixtures), _EXPERTS)

        def views() -> Iterator[View]:
            for batch in clips:
                outputs = self(batch.audio, batch.visual)
                seen.add_(_picks(self.visual_adapters))
                unmasked = None if outputs.audio is None else torch.zeros(len(outputs.fused))
                yield View(outputs.fused, outputs.visual, outputs.audio, unmasked)

        told = view_figures(views(), last_batch=True)
        self._known()
        load = {"visual": seen, "text": _picks(self.text_adapters)}
        return told | {
            "text_mean": self.text_mean.tolist(),
            "load": {
                name: (picks / picks.sum(dim=1, keepdim=True).clamp_min(1)).tolist() for name, picks in load.items()
            },
        }

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return the features (n,E), not normalised, of token ids (n,77)."""
        longest = int(ids.argmax(dim=1).max()) + 1 if len(ids) else 1
        features: Tensor = self.text(ids[:, :longest], self.text_adapters.adapt)
        return features.float()

    def _pictures(self, stored: Tensor) -> Tensor:
        """Return normalised pictures of the tower's size: random boxes in training, else the whole."""
        pictures = as_pictures(stored)
        side = pictures.shape[-1]
        if self.training:
            boxes = random_boxes(len(pictures), side, pictures.device)
        elif side == self.size:
            return normalise(pictures)
        else:
            boxes = torch.tensor([0, 0, side, side], device=pictures.device).expand(len(pictures), -1)
        return normalise(resample(pictures, boxes, self.size))

    def _learnt(self) -> Tensor:
        """What the current task's classes are in training: (n,E), the mean of all prompts but the last."""
        prompts = self.tokens[self.classes - self.new :, :-1]
        features = self.encode_text(prompts.flatten(0, 1))
        return features.reshape(*prompts.shape[:2], features.shape[1]).mean(dim=1)

    def _known(self) -> Tensor:
        """What all classes are in evaluation: (C,E), their last prompts, normalised; computed once an evaluation."""
        if self._evaluated is not None and not torch.is_grad_enabled():
            return self._evaluated
        known = _unit(self.encode_text(self.tokens[:, -1]))
        if not torch.is_grad_enabled():
            self._evaluated = known
        return known


def _unit(features: Tensor) -> Tensor:
    """L2-normalise in float32."""
    return F.normalize(features.float(), dim=1)


def _picks(adapters: ReleasedAdapters) -> Tensor:
    """Count the clips that each expert of each place got in the last pass: (places, experts)."""
    return torch.stack([torch.bincount(mixture.picked, minlength=_EXPERTS).cpu() for mixture in adapters.mixtures])
