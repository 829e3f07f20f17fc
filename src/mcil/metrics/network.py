"""Figures of what a network tells besides predictions: experts, masked sounds, how alike tasks are.

What a network tells after each task is under the names of ``mcil.models.Network.figures``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcil.metrics.outcomes import FloatArray, mean, ratio
from mcil.metrics.released import released_metric1, released_metric2, task_similarity


def load_imbalance(shares: npt.ArrayLike) -> float:
    """How unevenly the experts of a tower are picked: 0 where all get the same, for ``shares`` (places, experts).

    The coefficient of variation of a place's shares, ``sqrt( 1/n * sum (p - 1/n)^2 ) * n`` for n experts whose shares p
    sum to 1, mean over the places. With k picks a clip it is ``sqrt(n/k - 1)`` at most. NaN where nothing was picked.
    Source: Shazeer et al. 2017, whose loss for balance is its square.
    """
    values = np.asarray(shares, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"the shares must be (places, experts), not {values.shape}")
    return float(mean(ratio(values.std(axis=1), values.mean(axis=1))))


def network_figures(figures: Sequence[Mapping[str, Any]], steps: FloatArray, matrix: FloatArray) -> dict[str, Any]:
    """Figures of a run from what its network told; only those for which it told enough after every task.

    Args:
        figures: what it told after each of the T tasks.
        steps: step accuracies (T,) in percent.
        matrix: accuracy matrix (T,T) in percent.

    Returns:
        ``unmasked`` (T,), the sound's mean weight in the fusion, 0 to 1; ``load_imbalance`` {tower: (T,)}, see
        :func:`load_imbalance`; ``task_similarity`` {"text", "visual": (T,)}, see
        :func:`mcil.metrics.released.task_similarity`; ``released`` {"metric1", "metric2"}, which are to compare with
        the release of MCIL-AudioCLIP only. NaN where a figure cannot be computed.

    Raises:
        ValueError: there are figures of another number of tasks.
    """
    if len(figures) != len(steps):
        raise ValueError(f"there are figures of {len(figures)} tasks, and accuracies of {len(steps)}")
    told = {name: [after[name] for after in figures] for name in figures[0] if all(name in after for after in figures)}
    found: dict[str, Any] = {}
    if "unmasked" in told:
        found["unmasked"] = np.array(told["unmasked"], dtype=np.float64)
    if towers := told.get("load", [{}])[0]:
        found["load_imbalance"] = {
            tower: np.array([load_imbalance(load[tower]) for load in told["load"]]) for tower in towers
        }
    similarity = {name: task_similarity(told[f"{name}_mean"]) for name in ("text", "visual") if f"{name}_mean" in told}
    if similarity:
        found["task_similarity"] = similarity
    released = {}
    if len(similarity) == 2:
        both = (similarity["text"] + similarity["visual"]) / 2
        released["metric1"] = released_metric1(steps, matrix, both)
    if "nmi_visual" in told and "nmi_audio" in told:
        released["metric2"] = released_metric2(steps, matrix, told["nmi_visual"][-1], told["nmi_audio"][-1])
    return found | ({"released": released} if released else {})
