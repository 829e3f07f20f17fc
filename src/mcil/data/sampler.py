"""Batches as index arithmetic: the order of an epoch depends on the seed and the epoch only.

Nothing is remembered between epochs, so a run that was stopped finds its place again from (epoch, step).
"""

from __future__ import annotations

import hashlib
from itertools import cycle, islice

import torch
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part, so that each use has randomness of its own."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def shuffled_batches(count: int, size: int, *seed: int | str) -> list[Tensor]:
    """Split a permutation of ``range(count)`` into batches of ``size``; the last partial one is dropped.

    With fewer clips than ``size`` there is one batch of all of them. ``count`` 0 gives no batch.
    """
    if count == 0:
        return []
    order = torch.randperm(count, generator=generator(*seed))
    return [order] if count < size else list(torch.split(order[: count - count % size], size))


def displaced(count: int, *seed: int | str) -> Tensor:
    """Return a permutation (count,) of ``range(count)`` that leaves nothing in its place; ``count`` is 2 or more.

    Shuffled into a circle, each takes the place of the one before.
    """
    if count < 2:
        raise ValueError(f"{count} cannot change places; it takes 2")
    circle = torch.randperm(count, generator=generator(*seed))
    places = torch.empty_like(circle)
    places[circle] = circle.roll(1)
    return places


def paired_batches(
    new: int, exemplars: int, new_size: int, exemplar_size: int, *seed: int | str
) -> list[tuple[Tensor, Tensor]]:
    """Pair each batch of new clips with one of exemplars, which start over when they run out (AV-CIL).

    Returns:
        For every step of the epoch the indices of new clips (in ``range(new)``) and of exemplars (in
        ``range(exemplars)``; empty when there are none).
    """
    new_batches = shuffled_batches(new, new_size, *seed, "new")
    nothing = torch.empty(0, dtype=torch.int64)
    exemplar_batches = shuffled_batches(exemplars, exemplar_size, *seed, "exemplars") or [nothing]
    return list(zip(new_batches, islice(cycle(exemplar_batches), len(new_batches)), strict=True))


def joint_batches(new: int, exemplars: int, size: int, *seed: int | str) -> list[tuple[Tensor, Tensor]]:
    """Shuffle new clips and exemplars into one set and split it into batches of ``size`` (iCaRL, AFC).

    Returns:
        As :func:`paired_batches`; how many of a batch's clips are exemplars is left to chance.
    """
    return [
        (batch[batch < new], batch[batch >= new] - new)
        for batch in shuffled_batches(new + exemplars, size, *seed, "joint")
    ]
