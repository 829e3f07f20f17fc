"""What encoders over a neural codec share: whole hops of a sound, and a look at hidden layers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOGETHER = 4  # sounds at once: a codec needs some hundred MB for ten seconds


def whole_hops(sound: Tensor, hop: int) -> Tensor:
    """Lengthen a sound (n,) to the next multiple of ``hop`` by reflection; one shorter than a hop is repeated."""
    short = -len(sound) % hop
    if len(sound) < hop:
        return sound.repeat(math.ceil(hop / len(sound)))[:hop]
    return F.pad(sound[None], (0, short), mode="reflect")[0] if short else sound


def encode_whole_hops(
    waveforms: Tensor, lengths: Sequence[int], hop: int, encode: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Encode each sound by itself or beside those of its length, so that no tokens depend on a neighbour.

    A codec's convolutions see padding across a mask, so sounds of other lengths are never put beside it.

    Args:
        waveforms: (B,n) with zeros after ``lengths`` samples.
        lengths: of each sound, in samples, at least 1.
        hop: samples a token.
        encode: sounds (b,1,m), m a multiple of ``hop``, to tokens (b,T,D).

    Returns:
        For each sound its tokens (T_b,D).
    """
    groups: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
    for place, (waveform, length) in enumerate(zip(waveforms, lengths, strict=True)):
        sound = whole_hops(waveform[:length], hop)
        groups[len(sound)].append((place, sound))
    found: dict[int, Tensor] = {}
    for group in groups.values():
        for start in range(0, len(group), TOGETHER):
            places, sounds = zip(*group[start : start + TOGETHER], strict=True)
            found.update(zip(places, encode(torch.stack(sounds)[:, None]), strict=True))
    return [found[place] for place in range(len(waveforms))]


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Keep what ``modules`` return within the block, by their place in the list; the hooks go whatever happens."""
    kept: dict[int, Tensor] = {}

    def keep(place: int) -> Callable[[nn.Module, object, Tensor | tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, __: object, output: Tensor | tuple[Tensor, ...]) -> None:
            kept[place] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
