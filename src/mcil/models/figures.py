"""What networks of sound and picture tell alike of test clips; see :meth:`mcil.models.base.Network.figures`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from mcil.metrics.released import normalised_mutual_information
from mcil.models.fusion import correlation


class View(NamedTuple):
    """What a network makes of a batch: unit vectors (B,E), and ``unmasked`` (B,), the sound's weight in the fusion.

    The weight is 1 where the sound takes part fully and 0 where it is masked; a learnt threshold with its soft edge
    gives what is between. None stands for what is not read, and for what is not fused.
    """

    fused: Tensor
    visual: Tensor | None = None
    audio: Tensor | None = None
    unmasked: Tensor | None = None


def view_figures(views: Iterable[View], last_batch: bool = False) -> dict[str, Any]:
    """Return ``unmasked``, ``correlation``, ``visual_mean``, ``nmi_visual`` and ``nmi_audio``, as far as they exist.

    Args:
        views: of all test clips, batch by batch; of no clips there are no figures.
        last_batch: whether ``visual_mean`` is that of the last batch alone.
    """
    clips, sums = 0, dict[str, Tensor]()
    last: View | None = None
    for view in views:
        if not len(view.fused):
            continue
        clips, last = clips + len(view.fused), view
        parts = {"unmasked": view.unmasked, "visual_mean": view.visual}
        if view.visual is not None and view.audio is not None:
            parts["correlation"] = correlation(view.visual, view.audio)
        for name, part in parts.items():
            if part is not None:
                sums[name] = sums.get(name, 0) + part.cpu().double().sum(dim=0)
    figures: dict[str, Any] = {name: (total / clips).tolist() for name, total in sums.items()}
    if last is None:
        return figures
    if last_batch and last.visual is not None:
        figures["visual_mean"] = last.visual.mean(dim=0).tolist()
    for name, feature in (("nmi_visual", last.visual), ("nmi_audio", last.audio)):
        if feature is not None:
            figures[name] = normalised_mutual_information(feature.cpu(), last.fused.cpu())
    return figures
