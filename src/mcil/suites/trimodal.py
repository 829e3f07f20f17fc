"""Comparisons of learners that read text: MCIL-AudioCLIP beside what it should be measured against, and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcil.experiment import Experiment
from mcil.suites.base import Settings, suite

METHOD = "mcil-audioclip"
_BASELINES = ("fine-tuning", "slda", "acil-av", "oracle")

_OPTIONS: dict[str, Mapping[str, Any]] = {
    "whole": {},
    "without adapters (MIFE)": {"adapters": "none"},
    "without adapters, projections go on": {"adapters": "none", "shared": "always"},
    "adapters for text too": {"adapters": "all"},
    "one expert at a time": {"top_k": 1},
    "fusion (AAVFM) by sum": {"fusion": "sum"},
    "no sound masked": {"masking": "none"},
    "sound masked below 0.8": {"masking": "fixed"},
    "a tenth of training sounds masked": {"masking": "calibrated"},
    "one prompt": {"prompts": "first"},
    "prompts not normalised": {"prototype": "raw"},
    "contrast weighted over classes": {"weighting": "classes"},
    "contrast not weighted": {"weighting": "none"},
    "without agreement (InfoNCE)": {"information_weight": 0.0},
    "without each modality alone": {"modality_weight": 0.0},
    "prior slda": {"prior": "slda"},
    "prior ncm": {"prior": "ncm"},
    "without a prior": {"prior": "none"},
    "without a prior, without adapters": {"prior": "none", "adapters": "none"},
    "without a prior, fusion by sum": {"prior": "none", "fusion": "sum"},
    "without a prior, one prompt": {"prior": "none", "prompts": "first"},
    "all goes on learning": {"shared": "always"},
    "all goes on learning, distilled": {"shared": "always", "distillation_weight": 1.0},
}


@suite(
    "trimodal",
    "MCIL-AudioCLIP and what it is measured against",
    "figures",
    ("steps", "inputs", "figures", "runs", "costs"),
)
def trimodal(settings: Settings) -> list[Experiment]:
    """MCIL-AudioCLIP from sound, picture and both, by concatenation and with exemplars, beside baselines.

    They are zero-shot recognition (aligned by the first task, or by every one), fine-tuning, closed-form learners and
    the oracle.
    """
    rows = [
        settings.experiment(METHOD),
        settings.experiment(METHOD, f"{METHOD}, audio only", modality="audio"),
        settings.experiment(METHOD, f"{METHOD}, visual only", modality="visual"),
        settings.experiment(METHOD, f"{METHOD}, concatenation", options={"fusion": "concatenation"}),
        settings.experiment(f"{METHOD}-memory"),
        settings.experiment("zero-shot"),
        settings.experiment("zero-shot", "zero-shot, every task aligned", options={"alignment": "every-task"}),
        *(settings.experiment(method) for method in _BASELINES),
    ]
    return [row for row in rows if row.method in settings.methods]


@suite("trimodal-parts", "Parts of MCIL-AudioCLIP", "figures", ("steps", "figures", "runs", "costs"))
def trimodal_parts(settings: Settings) -> list[Experiment]:
    """MCIL-AudioCLIP with a part left out or changed: adapters, fusion, text, losses, prior."""
    return [settings.experiment(METHOD, label, options=options) for label, options in _OPTIONS.items()]
