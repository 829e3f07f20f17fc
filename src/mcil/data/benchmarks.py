"""The audio-visual class-incremental benchmarks: which classes, in which order, in how many tasks.

Source: Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023, and the class numbers of its published data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as in the paper.
        class_order: the class names in their order of arrival; the position is the class id.
        tasks: number of tasks, of equally many classes.
        memory: exemplars at most, in clips.
        clips: how many clips were published to train, to validate and to test on.
    """

    name: str
    class_order: tuple[str, ...]
    tasks: int
    memory: int
    clips: tuple[int, int, int]

    def has_classes(self, names: Iterable[str]) -> bool:
        """Whether ``names`` are the classes of this benchmark, in whatever order."""
        return set(names) == set(self.class_order)


def benchmark_of(names: Iterable[str]) -> Benchmark | None:
    """Return the benchmark that has exactly the classes ``names``, or None."""
    found = set(names)
    return next((benchmark for benchmark in BENCHMARKS.values() if benchmark.has_classes(found)), None)


_ORDERS = json.loads((files("mcil.data") / "class_orders.json").read_text(encoding="utf-8"))

BENCHMARKS = {
    name: Benchmark(name, tuple(_ORDERS[name]), tasks, memory, clips)
    for name, tasks, memory, clips in (
        ("AVE-CI", 4, 340, (3294, 391, 394)),
        ("K-S-CI", 5, 500, (19220, 1947, 1958)),
        ("VS100-CI", 10, 1500, (51195, 5000, 5000)),
    )
}
