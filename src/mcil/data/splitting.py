"""Dividing clips into training, validation and test sets."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from mcil.errors import McilError
from mcil.types import SPLITS, Split


def stratified_split(
    labels: Sequence[str],
    sources: Sequence[str | None],
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> list[Split]:
    """Return a split for each clip, so that every class has nearly its ``fractions`` of train, val and test.

    Clips of one source stay together (None is a source of its own), also across classes. Sources are taken in
    an order shuffled by ``seed``, large ones first, and each goes where its classes lack most. A class with at
    least two sources gets clips in training and test; with a single source it is in training only.

    Raises:
        McilError: the fractions are no fractions.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise McilError(f"the fractions {fractions} for train, val and test must add up to 1, with some for train")
    groups: dict[tuple[str, str | int], list[int]] = defaultdict(list)
    for clip, source in enumerate(sources):
        groups[("own", clip) if source is None else ("named", source)].append(clip)
    members = list(groups.values())
    shuffled = np.random.default_rng(seed).permutation(len(members))
    order = sorted((members[place] for place in shuffled), key=len, reverse=True)

    sizes = Counter(labels)
    # What each class still lacks in each split, in clips.
    lack = {(name, split): f * sizes[name] for name in sizes for split, f in zip(SPLITS, fractions, strict=True)}
    needed: tuple[Split, ...] = ("train", "test") if fractions[2] > 0 else ("train",)
    missing = {name: list(needed) for name in sizes}
    left = Counter(name for clips in order for name in {labels[clip] for clip in clips})
    result: list[Split] = ["train"] * len(labels)
    for clips in order:
        counts = Counter(labels[clip] for clip in clips)
        scores: dict[Split, float] = {
            split: sum(count * lack[name, split] / sizes[name] for name, count in counts.items()) for split in SPLITS
        }
        for name in counts:
            if missing[name] and left[name] <= len(missing[name]):
                # No more sources of this class than splits that must have some of it.
                scores[missing[name][0]] += len(labels)
        # Of equal ones the later: a small class rather gets a clip to test than one more to train.
        chosen = max(reversed(SPLITS), key=lambda split: scores[split])
        for clip in clips:
            result[clip] = chosen
        for name, count in counts.items():
            lack[name, chosen] -= count
            left[name] -= 1
            if chosen in missing[name]:
                missing[name].remove(chosen)
    return result
