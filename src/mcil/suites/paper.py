"""The comparisons of Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023, on anyone's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcil.experiment import Experiment
from mcil.methods import METHODS
from mcil.suites.base import MODALITIES, Settings, suite

_ALWAYS = ("runs", "costs", "provenance")
_BY_TASK = ("steps", "matrices", "forgetting")


@suite(
    "table1",
    "Every method",
    "figures",
    (*_BY_TASK, "confusions", "classes", "inputs", "figures", *_ALWAYS),
)
def table1(settings: Settings) -> list[Experiment]:
    """Mean accuracy and forgetting of every method (table 1 of the paper)."""
    return [settings.experiment(method) for method in settings.methods]


@suite("table2", "What is learnt from", "modality", _ALWAYS)
def table2(settings: Settings) -> list[Experiment]:
    """Every method that learns from sound, from pictures and from both (table 2 of the paper)."""
    return [settings.experiment(method, modality=modality) for method in settings.methods for modality in MODALITIES]


@suite("table3", "Parts of AV-CIL", "figures", (*_BY_TASK, *_ALWAYS))
def table3(settings: Settings) -> list[Experiment]:
    """AV-CIL without some of its terms: instance (I) and class (C) similarity, attention distillation (VAD).

    As in the paper's ablation, every subset of the three. Besides: the other normalisation of the class similarity, and
    everything without task-wise distillation (TKD) or without the separated softmax (SS-CE).
    """
    weights = {"I": "instance_weight", "C": "class_weight", "VAD": "attention_weight"}
    subsets = [(), ("I",), ("C",), ("VAD",), ("I", "C"), ("I", "VAD"), ("C", "VAD"), ("I", "C", "VAD")]
    variants: dict[str, Mapping[str, Any]] = {}
    for kept in subsets:
        label = "all" if len(kept) == len(weights) else " + ".join(kept) or "none"
        variants[label] = {option: 0.0 for term, option in weights.items() if term not in kept}
    everything = settings.experiment("av-cil")
    normalised = everything.options.get("class_normalization", "batch")
    other = "positives" if normalised == "batch" else "batch"
    variants |= {
        f"all, C divided by {other}": {"class_normalization": other},
        "all without TKD": {"task_distillation_weight": 0.0},
        "all without SS-CE": {"separated_softmax": False},
    }
    return [settings.experiment("av-cil", label, options=options) for label, options in variants.items()]


@suite("memory", "How much memory", "memory", _ALWAYS)
def memory(settings: Settings) -> list[Experiment]:
    """Mean accuracy of every method with a memory against the number of exemplars kept."""
    return [
        settings.experiment(method, memory=size)
        for method in settings.methods
        if METHODS[method].uses_memory
        for size in settings.memory_sizes
    ]


@suite("steps", "Accuracy as classes are added", "step", ("steps", "forgetting", *_ALWAYS))
def steps(settings: Settings) -> list[Experiment]:
    """Accuracy of every method after each task."""
    return [settings.experiment(method) for method in settings.methods]


@suite("attention", "Where the network looks", "figures", ("attention", "inputs", "steps", *_ALWAYS))
def attention(settings: Settings) -> list[Experiment]:
    """What attention distillation (VAD) keeps of where AV-CIL looks, on clips with video."""
    return [
        settings.experiment("av-cil", modality="audio-visual"),
        settings.experiment("av-cil", "av-cil without VAD", modality="audio-visual", options={"attention_weight": 0.0}),
    ]
