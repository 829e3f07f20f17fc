"""The network of MCIL-AudioCLIP: sound, picture and text in one space, adapted task by task."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcil.encoders.tower import Adapt, Tower
from mcil.errors import McilError
from mcil.models.base import Network
from mcil.models.closed_form import ClosedFormNet
from mcil.models.figures import View, view_figures
from mcil.models.fusion import AdaptiveFusion, Concatenation, Fused, Sum
from mcil.models.mixture import TowerAdapters
from mcil.models.tokens import mean_step, present_unless_all
from mcil.types import Batch, Modality, Outputs

Fusion = AdaptiveFusion | Concatenation | Sum

# What cosines are multiplied by at first: CLIP begins with 1 / 0.07.
FIRST_SCALE = 1 / 0.07
NO_EMBEDDING = (
    "the text of the store is token ids, and embeddings are needed; make it with a text encoder such as minilm "
    "('mcil text STORE --encoder minilm')"
)


class StoredTower(Tower):
    """The short tower of features that an encoder computed: a place for adapters, and a projection where one is wanted.

    Absent tokens are left out of every mean. A clip without any is one of a vector of zeros, as a missing modality is.

    Args:
        channels: of the features (B,D) or (B,L,S,D), which are taken as tokens; of sounds (B,T,D) the mean step is.
        width: of the embedding; None leaves the mean token as it is.
    """

    def __init__(self, channels: int, width: int | None) -> None:
        super().__init__()
        self.widths, self.width = (channels,), width or channels
        self.projection = nn.Identity() if width is None else nn.Linear(channels, width)

    def below(self, inputs: Tensor, place: int) -> Tensor:
        """Return the features as tokens (B,T,D).

        Raises:
            McilError: they are raw input.
        """
        if not inputs.is_floating_point():
            raise McilError(
                "the store holds raw input, and features are needed; encode the clips with another encoder than 'raw', "
                "or train inside an encoder (options backbone and weights)"
            )
        return inputs.flatten(1, 2) if inputs.ndim == 4 else mean_step(inputs)[:, None]

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """Return the projected mean of the tokens."""
        mean = self.mean(hidden)
        if adapt is not None:
            mean = self.mean(hidden, hidden + adapt(0, hidden, mean))
        embedding: Tensor = self.projection(mean)
        return embedding

    def mean(self, hidden: Tensor, values: Tensor | None = None) -> Tensor:
        """Return the mean (B,D) of the tokens (B,T,D) that are there, or of the ``values`` (B,T,D) in their place."""
        values, there = hidden if values is None else values, present_unless_all(hidden)
        if there is None:
            return values.mean(dim=1)
        there = there | ~there.any(dim=1, keepdim=True)
        count = there.sum(dim=1, keepdim=True).to(values.dtype)
        # Times exactly 1 for clips of which none is absent.
        return values.masked_fill(~there[..., None], 0).mean(dim=1) * (values.shape[1] / count)


class TrimodalNet(Network):
    """Score clips by the similarity of their fused embedding to what text says of each class.

    Every task has routers of its own in the adapters (MIFE) and a fusion of its own (AAVFM), which begins as that of
    the task before; so the embedding of a clip depends on the task whose they are. A class is scored with those of its
    own task, for clips and for its text alike:

        z_c = scale * cos(f_t(x), u_c)    for the classes c of task t

    Scores of two tasks were never compared in training. A learner in closed form on the frozen features, which forgets
    nothing (``prior``), compares all classes, and

        log p(c | x) = log prior(c | x) + log softmax over the classes of t of z      (up to a constant)

    are the logits: the product of what both say. What all tasks share (projections and scale) is learnt in the first
    one and then frozen, unless ``shared`` is "always". Prototypes u_c of old classes never change and are kept. Source:
    MCIL-AudioCLIP (ICASSP 2025) for its parts; routers by task as its figure shows; the prior is ours.

    Args:
        towers: "text" and those of the modalities that are read; embeddings of one width.
        adapters: for those towers that are adapted.
        fusion: of the two modalities in the first task; not used where there is one.
        prior: compares all classes; None compares the scores of all tasks as they are.
        modality: what is read.
        shared: when what all tasks share is trained.
        all_prompts: whether a prototype is the mean over all prompts of a class, or its first prompt's.
        normalised: whether prompts are normalised before the mean, and the mean afterwards; else neither is.
        old_scores: whether classes of old tasks are scored in training too.
        scale: that cosines are multiplied by at first.
        augment: changes pictures (B,...) as stored at random in training; what is below the adapters is then computed
            anew in every step, otherwise once a task.
    """

    reads_subsets: ClassVar[bool] = True

    text: Tensor
    prototypes: Tensor

    def __init__(
        self,
        towers: Mapping[str, Tower],
        adapters: Mapping[str, TowerAdapters],
        fusion: Fusion,
        prior: ClosedFormNet | None,
        modality: Modality,
        shared: Literal["first-task", "always"] = "first-task",
        all_prompts: bool = True,
        normalised: bool = True,
        old_scores: bool = False,
        scale: float = FIRST_SCALE,
        augment: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.modality: Modality = modality
        self.shared, self.all_prompts, self.normalised = shared, all_prompts, normalised
        self.old_scores, self.augment = old_scores, augment
        self.towers, self.adapters = nn.ModuleDict({**towers}), nn.ModuleDict({**adapters})
        self.prior = prior
        # One a task; with a single modality they are never asked, and so nothing of them is trained.
        self.fusions = nn.ModuleList([fusion.requires_grad_(modality == "audio-visual")])
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.task_sizes: tuple[int, ...] = ()
        self.register_buffer("text", torch.zeros(0))  # (n,P,...) of the last task's classes
        self.register_buffer("prototypes", torch.zeros(0, self._tower("text").width))  # of the classes before
        self._text_hidden: Tensor | None = None
        self._last_prototypes: Tensor | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return sum(self.task_sizes)

    def grow(self, classes: int, text: Tensor | None = None) -> None:
        """Begin a task: keep the prototypes of the last one, and add routers and experts for the new one."""
        new = classes - self.classes
        if text is None or len(text) != new or new < 1:
            raise ValueError(f"growing from {self.classes} to {classes} classes needs the text of the new ones")
        if isinstance(self._tower("text"), StoredTower) and not text.is_floating_point():
            raise McilError(NO_EMBEDDING)
        device = self.log_scale.device
        if self.task_sizes:
            with torch.no_grad():
                self.eval()
                self.prototypes = torch.cat([self.prototypes, self._prototypes_of_last()])
            if self.shared == "first-task":
                for parameter in self._shared_parameters():
                    parameter.requires_grad_(False)
        self.text, self._text_hidden, self._last_prototypes = text.to(device, torch.float32), None, None
        self.task_sizes = (*self.task_sizes, new)
        for adapters in self._adapters().values():
            adapters.grow()
        if len(self.task_sizes) > 1:
            last = copy.deepcopy(self.fusions[-1])
            self.fusions.requires_grad_(False)
            self.fusions.append(last)
        if self.prior is not None:
            self.prior.grow(classes)

    def train(self, mode: bool = True) -> TrimodalNet:
        """Set the mode; to train makes what was computed from the weights as they are outdated."""
        if mode:
            self._last_prototypes = None
        super().train(mode)
        return self

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights; what was computed from others is outdated."""
        self._last_prototypes = None
        return super().load_state_dict(*args, **kwargs)

    def stem(self, audio: Tensor | None, visual: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return what enters the first layers with adapters; pictures that are augmented stay as they are."""
        given = self._given(audio, visual)
        kept = {name for name in given if name == "visual" and self.augment is not None}
        lower = {name: clips if name in kept else self._below(name, clips) for name, clips in given.items()}
        return lower.get("audio"), lower.get("visual")

    def begin_task(self, clips: Iterable[Batch]) -> None:
        """Let the prior see the task's clips."""
        if self.prior is None:
            return
        with torch.no_grad():
            for part in clips:
                frozen = self._frozen(self._lower(part.audio, part.visual))
                self.prior.observe(frozen.get("audio"), frozen.get("visual"), part.labels)
            self.prior.solve()

    def end_task(self, clips: Iterable[Batch]) -> None:
        """Freeze the experts that the task's clips and texts pick."""
        task = len(self.task_sizes) - 1
        self.eval()
        with torch.no_grad():
            for part in clips:
                for name, hidden in self._lower(part.audio, part.visual).items():
                    self._embed(name, hidden, task, count=True)
            self._embed("text", self._hidden_text(), task, count=True)
        for adapters in self._adapters().values():
            adapters.freeze()

    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, need_attention: bool = False
    ) -> Outputs:
        """Score clips as :meth:`stem` returned them; with one of two modalities missing, by the other alone.

        In training the logits of old classes are NaN unless ``old_scores``. ``fused``, ``audio`` and ``visual`` are
        unit vectors by the last task's routers, ``prototypes`` those of the last task. There is no attention.

        Raises:
            ValueError: no modality that the network reads is given.
        """
        lower = self._lower(audio, visual)
        if not lower:
            raise ValueError(f"a network of modality '{self.modality}' needs at least one modality")
        prototypes = self._prototypes_by_task()
        last = len(self.task_sizes) - 1
        everything = self.old_scores or not self.training
        scored = range(last + 1) if everything else [last]
        scale = self.log_scale.exp()
        scores, features = [], {}
        for task in scored:
            features = self._features(lower, task)
            scores.append(scale * features["fused"] @ prototypes[task].T)
        if not everything:
            logits = F.pad(scores[0], (self.classes - self.task_sizes[-1], 0), value=torch.nan)
        elif self.prior is None:
            logits = torch.cat(scores, dim=1)
        else:
            logits = self._prior(lower) + torch.cat([score.log_softmax(dim=1) for score in scores], dim=1)
        return Outputs(
            logits,
            features["fused"],
            features.get("audio"),
            features.get("visual"),
            scale=scale,
            prototypes=prototypes[last],
        )

    @torch.no_grad()
    def figures(self, clips: Iterable[Batch]) -> dict[str, Any]:
        """See :meth:`Network.figures`: clips by the last task's routers, ``load`` of its training clips and texts."""
        self.eval()
        last = len(self.task_sizes) - 1
        told = view_figures(View(**self._features(self._lower(part.audio, part.visual), last)) for part in clips)
        return told | {
            "text_mean": _unit(torch.cat([*self._prototypes_by_task()])).mean(dim=0).tolist(),
            "load": {name: adapters.shares() for name, adapters in self._adapters().items()},
        }

    def _tower(self, name: str) -> Tower:
        tower = self.towers[name]
        assert isinstance(tower, Tower)
        return tower

    def _adapters(self) -> dict[str, TowerAdapters]:
        return {name: own for name, own in self.adapters.items() if isinstance(own, TowerAdapters)}

    def _shared_parameters(self) -> list[nn.Parameter]:
        return [self.log_scale, *self.towers.parameters()]

    def _given(self, audio: Tensor | None, visual: Tensor | None) -> dict[str, Tensor]:
        """Return what is given of what the network reads, by modality."""
        given = {"audio": audio, "visual": visual}
        return {name: clips for name, clips in given.items() if clips is not None and name in self.towers}

    def _first(self, name: str) -> int:
        """The first place of a tower that has adapters; behind the last where none has."""
        adapters = self._adapters().get(name)
        return len(self._tower(name).widths) if adapters is None else adapters.first

    def _below(self, name: str, clips: Tensor) -> Tensor:
        return self._tower(name).below(clips, self._first(name))

    def _lower(self, audio: Tensor | None, visual: Tensor | None) -> dict[str, Tensor]:
        """Return what enters the first adapted layers, by modality, of clips as :meth:`stem` returned them."""
        lower = self._given(audio, visual)
        if self.augment is not None and "visual" in lower:
            pictures = self.augment(lower["visual"]) if self.training else lower["visual"]
            lower["visual"] = self._below("visual", pictures)
        return lower

    def _embed(self, name: str, hidden: Tensor, task: int, count: bool = False) -> Tensor:
        """Return the embedding (B,E) of what enters a tower's first adapted layer, by the routers of ``task``."""
        adapters = self._adapters().get(name)
        adapt = None if adapters is None else adapters.of(task, count)
        return self._tower(name).above(hidden, self._first(name), adapt)

    def _features(self, lower: Mapping[str, Tensor], task: int) -> dict[str, Tensor]:
        """Return the unit vectors "audio", "visual", "fused" (B,E), and "unmasked" (B,), by the routers of a task."""
        found = {name: _unit(self._embed(name, hidden, task)) for name, hidden in lower.items()}
        if len(found) == 1:
            (found["fused"],) = found.values()
            return found
        fused: Fused = self.fusions[task](found["visual"], found["audio"])
        return found | {"fused": _unit(fused.feature), "unmasked": fused.unmasked}

    def _frozen(self, lower: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features that no training changes: those of the store, or a frozen encoder's embeddings."""
        found = {}
        for name, hidden in lower.items():
            tower = self._tower(name)
            if isinstance(tower, StoredTower):
                frozen = tower.mean(hidden)
            else:
                frozen = tower.above(hidden, self._first(name)).float()
            found[name] = frozen[:, None, None] if name == "visual" else frozen
        return found

    @torch.no_grad()
    def _prior(self, lower: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithms of the probabilities (B,C) that the frozen features alone give the classes."""
        assert self.prior is not None
        frozen = self._frozen(lower)
        outputs: Outputs = self.prior(frozen.get("audio"), frozen.get("visual"))
        return outputs.logits.log_softmax(dim=1)

    def _hidden_text(self) -> Tensor:
        """Return what enters the text tower's first adapted layer, prompt by prompt of the last task's classes."""
        if self._text_hidden is None:
            text = self.text if self.all_prompts else self.text[:, :1]
            # In float32: it is read with autocast and without.
            with torch.no_grad(), torch.autocast(text.device.type, enabled=False):
                self._text_hidden = self._below("text", text.flatten(0, 1))
        return self._text_hidden

    def _prototypes_of_last(self) -> Tensor:
        """Return the prototypes (n,E) of the last task's classes by its own routers; outside training they are kept."""
        if self._last_prototypes is not None:
            return self._last_prototypes
        classes = self.task_sizes[-1]
        prompts = self._embed("text", self._hidden_text(), len(self.task_sizes) - 1)
        prompts = prompts.reshape(classes, -1, prompts.shape[-1])
        prototypes = _unit(_unit(prompts).mean(dim=1)) if self.normalised else prompts.mean(dim=1)
        if not self.training and not torch.is_grad_enabled():
            self._last_prototypes = prototypes
        return prototypes

    def _prototypes_by_task(self) -> Sequence[Tensor]:
        return [*torch.split(self.prototypes, list(self.task_sizes[:-1])), self._prototypes_of_last()]


def _unit(features: Tensor) -> Tensor:
    """L2-normalise in float32 at least."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
