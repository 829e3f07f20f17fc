"""MCIL-AudioCLIP as its paper describes it: adapters by task, adaptive fusion, diverse text, contrastive losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mcil.encoders.audioclip import load_audioclip
from mcil.encoders.clip import load_clip
from mcil.encoders.tower import Tower
from mcil.errors import McilError
from mcil.losses import instance_similarity, task_distillation, weighted_contrastive
from mcil.memory import SELECTORS, Selection, Selector
from mcil.methods.acil_av import AcilAv
from mcil.methods.base import METHODS, ClosedForm, GradientMethod
from mcil.methods.ncm import Ncm
from mcil.methods.slda import Slda
from mcil.models import Network
from mcil.models.backbone import Backbone, pixels, samples, token_ids
from mcil.models.closed_form import ClosedFormNet
from mcil.models.crops import RandomCrops
from mcil.models.fusion import AdaptiveFusion, Concatenation, Masking, Sum
from mcil.models.mixture import TowerAdapters
from mcil.models.trimodal import FIRST_SCALE, Fusion, StoredTower, TrimodalNet
from mcil.types import Modality, Outputs, Step


@METHODS.register("mcil-audioclip")
@dataclass(frozen=True)
class McilAudioClip(GradientMethod):
    """Chen et al., MCIL-AudioCLIP, ICASSP 2025, repaired: what its abstract and figure describe, on any encoders.

    Attributes:
        adapters: which towers have adapters: "all", those of "clips" (sound and picture), of "text", or "none".
        experts: adapters that a task brings at every place.
        top_k: experts that are active for a clip.
        noisy: whether the routers' scores are noisy in training.
        bottleneck: width of an adapter.
        dropout: in an adapter.
        adapter_scale: of what an adapter adds.
        fusion: "adaptive" (AAVFM), "concatenation", or "sum".
        masking: when the adaptive fusion masks the sound: "calibrated", "learned", "fixed" or "none".
        threshold: on the correlation of sound and picture, where it is fixed.
        masked_share: of the training clips that a calibrated threshold masks.
        batch_gate: the mean correlation of a batch decides for all its clips.
        prompts: a class is described by "all" prompts of its text, or by the "first".
        prototype: "normalised": prompts are normalised before their mean, and the mean after; "raw": neither.
        prior: what compares the classes of all tasks: the closed-form learner "acil-av", "slda" or "ncm" on frozen
            features, or "none".
        shared: what all tasks share is trained in the "first-task" or "always".
        projection: learn a projection of each modality into the space of the text; without, all have its width.
            Towers of an encoder need none.
        weighting: of clips in the contrastive loss: over "classes", over "clips", or "none" (cross-entropy).
        contrastive_weight: of the contrastive loss.
        information_weight: of the agreement (InfoNCE) of the fused features with each modality.
        temperature: of InfoNCE.
        modality_weight: of the cross-entropy of each modality alone.
        distillation_weight: of the distance to the old classes' scores before the task.
        distillation_temperature: of that.
        backbone: where the adapters are: beside stored "features"; or inside the towers of "audioclip" (sound, picture,
            text) or "clip" (picture, text; the sound is a stored feature), of which the store holds raw input.
        weights: of the backbone: a file or folder, for CLIP also a name on the hub.
        blocks: how many upper layers of each tower have adapters; 0 is all.
        augment: whether pictures are cut at random in training. Without, what is below the adapters is computed once.
    """

    source: ClassVar[str] = "Chen et al., MCIL-AudioCLIP, ICASSP 2025, repaired"
    uses_text: ClassVar[bool] = True
    uses_teacher: ClassVar[bool] = True
    above_zero: ClassVar[tuple[str, ...]] = (
        "experts",
        "top_k",
        "bottleneck",
        "temperature",
        "distillation_temperature",
    )

    adapters: Literal["all", "clips", "text", "none"] = "clips"
    experts: int = 4
    top_k: int = 2
    noisy: bool = True
    bottleneck: int = 64
    dropout: float = 0.1
    adapter_scale: float = 1.0
    fusion: Literal["adaptive", "concatenation", "sum"] = "adaptive"
    masking: Masking = "learned"
    threshold: float = 0.8
    masked_share: float = 0.1
    batch_gate: bool = False
    prompts: Literal["all", "first"] = "all"
    prototype: Literal["normalised", "raw"] = "normalised"
    prior: Literal["acil-av", "slda", "ncm", "none"] = "acil-av"
    shared: Literal["first-task", "always"] = "first-task"
    projection: bool = True
    weighting: Literal["classes", "clips", "none"] = "clips"
    contrastive_weight: float = 0.7
    information_weight: float = 0.3
    temperature: float = 0.07
    modality_weight: float = 0.5
    distillation_weight: float = 0.0
    distillation_temperature: float = 2.0
    backbone: Literal["features", "audioclip", "clip"] = "features"
    weights: str = ""
    blocks: int = 0
    augment: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be routed or learnt."""
        super().__post_init__()
        if self.top_k > self.experts:
            raise McilError(f"option 'top_k' must be at most 'experts' ({self.experts}), but it is {self.top_k}")
        if not self.masked_share <= 1:
            raise McilError(f"option 'masked_share' must be at most 1, but it is {self.masked_share}")
        if (self.backbone == "features") != (not self.weights):
            raise McilError("options 'backbone' and 'weights' go together: name the file of the backbone's weights")

    @property
    def standardised(self) -> bool:
        """Raw input, and features that already lie in the space of the text, must stay as they are."""
        return self.projection and self.backbone == "features"

    def rate(self, step: int, steps: int) -> float:
        """Fall from 1 to 0 along half a cosine."""
        return 0.5 * (1 + math.cos(math.pi * step / steps))

    def network(self, channels: Mapping[str, int], classes: int, modality: Modality) -> Network:
        """Return a new network without classes; it gets them with their text.

        Raises:
            McilError: widths do not fit, or the backbone's weights cannot be read.
        """
        everything, scale = self._towers(channels)
        read = [name for name in ("audio", "visual") if name in modality]
        towers = {name: everything[name] for name in (*read, "text")}
        frozen = {
            name: channels[name] if isinstance(towers[name], StoredTower) else towers[name].width for name in read
        }
        return TrimodalNet(
            towers,
            {name: self._adapters(tower) for name, tower in towers.items() if self._adapts(name)},
            self._fusion(towers["text"].width),
            self._prior(frozen, modality),
            modality,
            self.shared,
            self.prompts == "all",
            self.prototype == "normalised",
            self.uses_memory or self.distillation_weight > 0,
            scale,
            RandomCrops() if self.augment and isinstance(towers.get("visual"), Backbone) else None,
        )

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Return the weighted terms; new clips compete among the task's classes, and with exemplars among all.

        Among the task's classes only the experts count: the prior knows the clips by heart.
        """
        outputs, new = step.outputs, len(step.labels) - step.exemplars
        labels = step.labels[:new] - step.old_classes
        losses = {"contrastive": self.contrastive_weight * self._contrastive(outputs, labels)}
        views = [view[:new] for view in (outputs.audio, outputs.visual) if view is not None]
        if len(views) > 1 and self.information_weight:
            agreement = [instance_similarity(outputs.fused[:new], view, self.temperature) for view in views]
            losses["information"] = self.information_weight * torch.stack(agreement).sum()
        if len(views) > 1 and self.modality_weight:
            alone = [cross_entropy(_scores(outputs, view), labels) for view in views]
            losses["modalities"] = self.modality_weight * torch.stack(alone).sum()
        if step.exemplars:
            losses["replay"] = cross_entropy(outputs.logits, step.labels)
        if step.teacher is not None and self.distillation_weight:
            distance = task_distillation(
                outputs.logits, step.teacher.logits, step.task_sizes[:-1], self.distillation_temperature
            )
            losses["distillation"] = self.distillation_weight * distance
        return losses

    def _contrastive(self, outputs: Outputs, labels: Tensor) -> Tensor:
        """The contrastive loss of the new clips, which come first; the picture tells what is alike, else the sound."""
        new = len(labels)
        scores = _scores(outputs, outputs.fused[:new])
        if self.weighting == "none":
            return cross_entropy(scores, labels)
        view = outputs.audio if outputs.visual is None else outputs.visual
        assert view is not None
        similarity = (view[:new] @ view[:new].T + 1) / 2
        return weighted_contrastive(scores, labels, similarity, self.weighting)

    def _towers(self, channels: Mapping[str, int]) -> tuple[dict[str, Tower], float]:
        """Return the towers of "text" and of the modalities in ``channels``, and what cosines are multiplied by."""
        if self.backbone == "audioclip":
            loaded = load_audioclip(self.weights)
            return {
                "audio": Backbone(loaded.audio, loaded.sha256, samples),
                "visual": Backbone(loaded.visual, loaded.sha256, pixels(loaded.visual.size)),
                "text": Backbone(loaded.text, loaded.sha256, token_ids(loaded.text.vocabulary)),
            }, loaded.scales["visual-text"]
        towers: dict[str, Tower] = {}
        scale, width = FIRST_SCALE, channels["text"]
        if self.backbone == "clip":
            clip = load_clip(self.weights)
            towers["visual"] = Backbone(clip.visual, clip.sha256, pixels(clip.visual.size))
            towers["text"] = Backbone(clip.text, clip.sha256, token_ids(clip.text.vocabulary))
            scale, width = clip.scale, clip.text.width
        stored = {name: count for name, count in channels.items() if name not in towers}
        if not self.projection and any(count != width for count in stored.values()):
            sizes = ", ".join(f"{name} {count}" for name, count in stored.items() if name != "text")
            raise McilError(f"without a projection features must have the width of the text ({width}), not {sizes}")
        for name, count in stored.items():
            towers[name] = StoredTower(count, width if self.projection and name != "text" else None)
        return towers, scale

    def _adapts(self, name: str) -> bool:
        return self.adapters == "all" or self.adapters == ("text" if name == "text" else "clips")

    def _adapters(self, tower: Tower) -> TowerAdapters:
        places = len(tower.widths)
        if self.blocks > places:
            raise McilError(
                f"option 'blocks' is {self.blocks}, but a tower has {places} layers; choose at most so many"
            )
        return TowerAdapters(
            tower.widths,
            places - self.blocks if self.blocks else 0,
            experts=self.experts,
            top_k=self.top_k,
            noisy=self.noisy,
            bottleneck=self.bottleneck,
            dropout=self.dropout,
            scale=self.adapter_scale,
        )

    def _fusion(self, width: int) -> Fusion:
        if self.fusion == "adaptive":
            return AdaptiveFusion(width, self.masking, self.threshold, self.masked_share, self.batch_gate)
        return Concatenation(width) if self.fusion == "concatenation" else Sum()

    def _prior(self, channels: Mapping[str, int], modality: Modality) -> ClosedFormNet | None:
        if self.prior == "none":
            return None
        learners: dict[str, ClosedForm] = {"acil-av": AcilAv(), "slda": Slda(), "ncm": Ncm()}
        return learners[self.prior].network(channels, 0, modality)


def _scores(outputs: Outputs, features: Tensor) -> Tensor:
    """Return the scores (B,C_t) of unit vectors (B,E) for the current task's classes."""
    assert outputs.scale is not None
    assert outputs.prototypes is not None
    return outputs.scale * features @ outputs.prototypes.T


@METHODS.register("mcil-audioclip-memory")
@dataclass(frozen=True)
class McilAudioClipMemory(McilAudioClip):
    """The same with exemplars, whose classes compete with the new ones.

    Attributes:
        selection: how exemplars are chosen.
    """

    source: ClassVar[str] = "Chen et al., MCIL-AudioCLIP, ICASSP 2025, repaired; with exemplars"
    uses_memory: ClassVar[bool] = True

    selection: Selection = "random"

    @property
    def selector(self) -> Selector:
        """Chooses the exemplars of a class."""
        return SELECTORS[self.selection]
