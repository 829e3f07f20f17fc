"""Scenarios: in which order the classes of a store arrive, and which rows each task is learnt and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from mcil.data.class_text import read_class_text
from mcil.data.store import FeatureStore
from mcil.errors import McilError, did_you_mean
from mcil.types import Batch, Modality, Rows, Split, Task

Missing = Literal["error", "drop", "zeros"]
_NEEDS: dict[Modality, tuple[Literal["audio", "visual"], ...]] = {
    "audio": ("audio",),
    "visual": ("visual",),
    "audio-visual": ("audio", "visual"),
}


class Scenario:
    """Index arithmetic over a feature store; it holds no arrays.

    Attributes:
        store: the store whose rows the tasks name.
        modality: which arrays are used.
        class_names: in order of arrival; the class id is the position.
        tasks: their class ids are contiguous and start where the task before ended.
    """

    def __init__(
        self,
        store: FeatureStore,
        tasks: int | Sequence[int],
        order: Sequence[str] | None = None,
        seed: int | None = None,
        modality: Modality = "audio-visual",
        missing: Missing = "error",
    ) -> None:
        """Divide the classes of ``store`` into tasks.

        Args:
            store: where the clips are.
            tasks: a number of tasks of equal size (sizes differ by one where it does not divide, larger ones
                first), or the number of classes of each task.
            order: all class names in order of arrival; alphabetical where neither it nor ``seed`` is given.
            seed: shuffles the alphabetical order.
            modality: what is to be learnt from.
            missing: what to do with clips that lack a modality: stop, leave them out, or take zeros for it.

        Raises:
            McilError: the store and these wishes do not fit.
        """
        for what, value, known in (("modality", modality, list(_NEEDS)), ("missing", missing, get_args(Missing))):
            if value not in known:
                raise McilError(f"{what} must be one of {', '.join(known)}, not '{value}'.{did_you_mean(value, known)}")
        self.store = store
        self.modality = modality
        for name in _NEEDS[modality]:
            if name not in store.shapes:
                has = ", ".join(sorted(store.shapes))
                raise McilError(f"{store.path}: no {name} features in this store, only {has}; set modality to '{has}'")
        self.class_names = _order_of(store, order, seed)
        ids = {name: number for number, name in enumerate(self.class_names)}
        self._ids: Rows = np.array([ids[label] for label in store.labels], dtype=np.int64)
        usable = _usable_rows(store, modality, missing)
        splits = np.array(store.splits)
        self._check_classes(usable, splits)
        self.tasks = []
        sizes = _sizes_of(len(ids), tasks)
        for index, (size, first) in enumerate(zip(sizes, accumulate(sizes, initial=0), strict=False)):
            inside = usable & (self._ids >= first) & (self._ids < first + size)
            rows: dict[Split, Rows] = {
                split: np.flatnonzero(inside & (splits == split)) for split in ("train", "val", "test")
            }
            self.tasks.append(Task(index, self.class_names[first : first + size], first, **rows))

    def class_ids(self, rows: Rows) -> torch.Tensor:
        """Return the class ids of store rows, int64 (len(rows),)."""
        return torch.from_numpy(self._ids[rows])

    def clips(self, rows: Rows) -> Batch:
        """Read store rows: the arrays of the scenario's modality, as stored, and the class ids."""
        audio, visual = (
            self.store.read(name, rows) if name in _NEEDS[self.modality] else None for name in ("audio", "visual")
        )
        return Batch(audio, visual, self.class_ids(rows))

    def text(self, task: Task) -> torch.Tensor | None:
        """Return the text of a task's classes (n,P,...), or None where the store has none."""
        text = read_class_text(self.store.path)
        return None if text is None else text.of(task.class_names)

    def __repr__(self) -> str:
        sizes = [len(task.class_names) for task in self.tasks]
        return f"Scenario({len(self.class_names)} classes, tasks of {sizes}, {self.modality})"

    def _check_classes(self, usable: npt.NDArray[np.bool_], splits: npt.NDArray[np.str_]) -> None:
        for split, word in (("train", "training"), ("test", "test")):
            present = set(self._ids[usable & (splits == split)].tolist())
            lacking = [name for number, name in enumerate(self.class_names) if number not in present]
            if lacking:
                more = f" (and {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
                raise McilError(
                    f"{self.store.path}: class '{lacking[0]}' has no {word} clips{more}; "
                    "add some to the manifest or leave the class out of it"
                )


def _order_of(store: FeatureStore, order: Sequence[str] | None, seed: int | None) -> tuple[str, ...]:
    names = sorted(set(store.labels))
    if len(names) < 2:
        raise McilError(
            f"{store.path}: a scenario needs at least 2 classes; this store has {len(names)}; add clips of another"
        )
    if order is None:
        if seed is None:
            return tuple(names)
        return tuple(names[place] for place in np.random.default_rng(seed).permutation(len(names)))
    if seed is not None:
        raise McilError("give the class order or a seed that shuffles it, not both")
    for name in order:
        if name not in names:
            raise McilError(f"the class order names '{name}', which is not in the store.{did_you_mean(name, names)}")
        if list(order).count(name) > 1:
            raise McilError(f"the class order names '{name}' twice; name every class once")
    if lacking := [name for name in names if name not in set(order)]:
        raise McilError(f"the class order lacks '{lacking[0]}' ({len(lacking)} in all); name every class once")
    return tuple(order)


def _sizes_of(classes: int, tasks: int | Sequence[int]) -> list[int]:
    if isinstance(tasks, int):
        if not 1 <= tasks <= classes:
            raise McilError(f"{tasks} tasks of {classes} classes are not possible; choose 1 to {classes}")
        each, more = divmod(classes, tasks)
        return [each + 1] * more + [each] * (tasks - more)
    sizes = list(tasks)
    if not sizes or min(sizes) < 1:
        raise McilError(f"the task sizes {sizes} are not possible; each task needs at least one class")
    if sum(sizes) != classes:
        raise McilError(f"the task sizes {sizes} add up to {sum(sizes)}, but the store has {classes} classes")
    return sizes


def _usable_rows(store: FeatureStore, modality: Modality, missing: Missing) -> npt.NDArray[np.bool_]:
    usable = np.ones(len(store), dtype=np.bool_)
    if missing == "zeros":
        return usable
    for name in _NEEDS[modality]:
        has = store.index[f"has_{name}"].to_numpy()
        if missing == "error" and not has.all():
            lacking = np.flatnonzero(~has)
            raise McilError(
                f"{store.path}: {len(lacking)} of {len(store)} clips have no {name} (first: "
                f"'{store.ids[lacking[0]]}'); set missing to 'drop' or 'zeros', or choose another modality"
            )
        usable &= has
    return usable
