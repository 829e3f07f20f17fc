"""Comparisons of ``sam-audio-cil``: what is fused by what is distilled, its parts, closed-form heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcil.experiment import Experiment
from mcil.methods.sam_audio_analytic import LEARNERS
from mcil.suites.base import Settings, suite

METHOD = "sam-audio-cil"
FUSIONS = ("audio", "visual", "naive", "guided")

_DISTILLATION: dict[str, Mapping[str, Any]] = {
    "none": {"feature_weight": 0.0, "logit_weight": 0.0},
    "feature": {"logit_weight": 0.0},
    "logit": {"feature_weight": 0.0},
    "both": {},
}

_PARTS: dict[str, Mapping[str, Any]] = {
    "whole": {},
    "picture asks sound (fusion context)": {"fusion": "context"},
    "network of AV-CIL (fusion avcil)": {"fusion": "avcil"},
    "frames all the same": {"temporal": "mean"},
    "sound and picture side by side": {"join": "concat"},
    "without positions": {"positions": "none"},
    "without dropout": {"dropout": 0.0},
    "cosine head": {"head": "cosine"},
    "old and new classes apart in the cross-entropy": {"cross_entropy": "separated"},
    "exemplars by herding": {"selection": "herding"},
    "features distilled by squared distance": {"feature_loss": "mse"},
    "fused features distilled only": {"features": "fused"},
    "features distilled on exemplars only": {"feature_clips": "exemplars"},
    "logits distilled on exemplars only": {"logit_clips": "exemplars"},
    "logits distilled task by task": {"logits": "task-wise"},
    "attention distilled too": {"attention_weight": 1.0},
    "distillation grows with the old classes": {"adaptive": True},
}

# The four systems of the paper's figure 1, in its order.
_FIGURE = (
    ("visual, both", "visual only"),
    ("audio, both", "audio only"),
    ("naive, both", "naive fusion"),
    ("guided, both", "guided attention"),
)


@suite(
    "sam-audio",
    "Fusion and distillation of sam-audio-cil (a reconstruction)",
    "pair",
    ("forgetting", "runs", "costs", "provenance"),
    featured=_FIGURE,
)
def sam_audio(settings: Settings) -> list[Experiment]:
    """sam-audio-cil that reads sound, picture or both, by what is distilled: nothing, features, logits or both.

    Every row learns from the same clips of both modalities; with fusion "audio" or "visual" the network reads one.
    """
    return [
        settings.experiment(
            METHOD, f"{fusion}, {distilled}", modality="audio-visual", options={"fusion": fusion, **options}
        )
        for fusion in FUSIONS
        for distilled, options in _DISTILLATION.items()
    ]


@suite("sam-audio-parts", "Parts of sam-audio-cil", "figures", ("steps", "runs", "costs"))
def sam_audio_parts(settings: Settings) -> list[Experiment]:
    """sam-audio-cil with one part changed: attention, network, head, losses, exemplars."""
    return [
        settings.experiment(METHOD, label, modality="audio-visual", options=options)
        for label, options in _PARTS.items()
    ]


@suite("sam-audio-analytic", "Closed-form heads on guided attention", "figures", ("steps", "runs", "costs"))
def sam_audio_analytic(settings: Settings) -> list[Experiment]:
    """Closed-form learners over the network of the first task, guided and naive, and over the features as they are.

    The distilled network stands above them.
    """
    rows = [settings.experiment(METHOD, modality="audio-visual")]
    for learner in LEARNERS:
        rows += [
            settings.experiment(
                "sam-audio-analytic",
                f"{learner} over {fusion} fusion",
                modality="audio-visual",
                options={"learner": learner, "fusion": fusion},
            )
            for fusion in ("guided", "naive")
        ]
        rows.append(settings.experiment(learner, f"{learner} without a network", modality="audio-visual"))
    return rows


@suite("sam-audio-weights", "Weights of distillation in sam-audio-cil", "figures", ("runs", "costs"))
def sam_audio_weights(settings: Settings) -> list[Experiment]:
    """sam-audio-cil by the weights of both distillations, and by whether old and new classes compete."""
    return [
        settings.experiment(
            METHOD,
            f"{classes}, features {feature:g}, logits {logit:g}",
            modality="audio-visual",
            options={"cross_entropy": classes, "feature_weight": feature, "logit_weight": logit},
        )
        for classes in ("unified", "separated")
        for feature in (0.5, 1.0, 5.0)
        for logit in (0.1, 0.25, 1.0)
    ]
