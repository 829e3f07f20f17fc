"""The benchmarks of class-incremental learning: which classes, in which order, in tasks of which sizes.

Sources: Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023, and the class numbers of its published data;
for those of three modalities :mod:`mcil.data.trimodal`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from mcil.data.trimodal import published_splits


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as in the paper, or of the published configuration.
        class_order: the class names in their order of arrival; the position is the class id.
        task_sizes: the number of classes of each task.
        memory: exemplars at most, in clips; 0 where it was published without a memory.
        clips: how many clips were published to train, to validate and to test on; None where that is not known.
    """

    name: str
    class_order: tuple[str, ...]
    task_sizes: tuple[int, ...]
    memory: int
    clips: tuple[int, int, int] | None = None

    def has_classes(self, names: Iterable[str]) -> bool:
        """Whether ``names`` are the classes of this benchmark, in whatever order."""
        return set(names) == set(self.class_order)


def benchmark_of(names: Iterable[str]) -> Benchmark | None:
    """Return the benchmark that has exactly the classes ``names``; None where there is none, or more than one."""
    wanted = set(names)
    found = [benchmark for benchmark in BENCHMARKS.values() if benchmark.has_classes(wanted)]
    return found[0] if len(found) == 1 else None


_ORDERS = json.loads((files("mcil.data") / "class_orders.json").read_text(encoding="utf-8"))

BENCHMARKS = {
    name: Benchmark(name, tuple(_ORDERS[name]), task_sizes, memory, clips)
    for name, task_sizes, memory, clips in (
        ("AVE-CI", (7,) * 4, 340, (3294, 391, 394)),
        ("K-S-CI", (6,) * 5, 500, (19220, 1947, 1958)),
        ("VS100-CI", (10,) * 10, 1500, (51195, 5000, 5000)),
    )
} | {name: Benchmark(name, order, task_sizes, memory=0) for name, (order, task_sizes) in published_splits().items()}
