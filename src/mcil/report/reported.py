"""Numbers that a paper reports for the benchmarks. They are never ours: they stand in a column of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mcil.data.benchmarks import BENCHMARKS

LABEL = "reported by Pian et al. 2023 (not ours)"


class Reported(NamedTuple):
    """Mean accuracy and average forgetting in percent, as printed; None where the paper gives none."""

    mean_accuracy: float
    average_forgetting: float | None = None


def benchmark_of_runs(class_names: Sequence[str], task_sizes: Sequence[int]) -> str | None:
    """Return the benchmark whose classes these are, in its order of arrival and its tasks; None where there is none."""
    for name, benchmark in BENCHMARKS.items():
        if tuple(class_names) == benchmark.class_order and tuple(task_sizes) == benchmark.task_sizes:
            return name
    return None


def reported(benchmark: str, label: str, modality: str) -> Reported | None:
    """Return what the paper reports for a method, or a variant of AV-CIL, that learns from ``modality``; or None."""
    return _REPORTED.get(benchmark, {}).get((label, modality))


# Source of all: Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023.
_METHODS = {
    "fine-tuning": ((42.40, 70.99), (41.18, 89.62), (26.21, 89.37)),
    "lwf": ((58.07, 26.90), (65.54, 16.55), (59.34, 23.01)),
    "icarl-nme": ((56.15, 11.71), (64.51, 18.70), (56.19, 12.80)),
    "icarl-fc": ((65.88, 26.08), (65.54, 40.57), (64.22, 29.94)),
    "ss-il": ((61.94, 22.49), (69.71, 10.53), (69.20, 9.75)),
    "afc-nme": ((68.46, 14.18), (69.13, 27.30), (61.41, 23.30)),
    "afc-lsc": ((65.21, 28.11), (67.02, 33.56), (57.76, 29.64)),
    "av-cil": ((74.04, 7.63), (73.06, 6.48), (72.80, 5.49)),
    "oracle": ((76.85, None), (80.43, None), (78.63, None)),
}
# Mean accuracy from audio and from visual features alone.
_ONE_MODALITY = {
    "fine-tuning": ((38.41, 35.68), (32.60, 38.49), (24.40, 23.06)),
    "oracle": ((63.66, 61.55), (53.39, 71.94), (66.22, 61.75)),
}
# AV-CIL on AVE-CI with some of its terms: instance (I) and class (C) similarity, attention distillation (VAD).
_ABLATION = {
    "none": 62.15,
    "I": 68.38,
    "C": 63.81,
    "VAD": 63.49,
    "I + C": 69.01,
    "I + VAD": 72.35,
    "C + VAD": 63.95,
    "all": 74.04,
}


def _collected() -> dict[str, dict[tuple[str, str], Reported]]:
    found: dict[str, dict[tuple[str, str], Reported]] = {}
    for place, benchmark in enumerate(("AVE-CI", "K-S-CI", "VS100-CI")):
        numbers = {(method, "audio-visual"): Reported(*row[place]) for method, row in _METHODS.items()}
        for method, rows in _ONE_MODALITY.items():
            for modality, accuracy in zip(("audio", "visual"), rows[place], strict=True):
                numbers[method, modality] = Reported(accuracy)
        found[benchmark] = numbers
    found["AVE-CI"] |= {(label, "audio-visual"): Reported(accuracy) for label, accuracy in _ABLATION.items()}
    return found


_REPORTED = _collected()
