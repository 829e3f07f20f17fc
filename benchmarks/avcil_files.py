"""Made files laid out as the published features of AV-CIL, shared by tests and benchmarks."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mcil.data.benchmarks import BENCHMARKS
from mcil.data.importers.avcil_features import AUDIO, LISTS, VISUAL

Array = np.ndarray[Any, Any]
CLASSES = BENCHMARKS["AVE-CI"].class_order


def write_dictionary(path: Path, dictionary: Mapping[Any, Any], protocol: int | None = None) -> Path:
    """Write ``dictionary`` as ``numpy.save`` does, or with another protocol of pickles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if protocol is None:
        np.save(path, dictionary, allow_pickle=True)  # type: ignore[arg-type]
        return path
    outer = np.array(dictionary, dtype=object)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(outer))
        pickle.dump(outer, file, protocol=protocol)
    return path


def audio_of(number: int) -> Array:
    return np.random.default_rng(number).normal(size=768).astype(np.float32)


def visual_of(number: int) -> Array:
    """Return made token maps (1568, 768) of a video; they differ between videos, frames and patches."""
    rng = np.random.default_rng(number)
    return rng.normal(size=(1568, 1)).astype(np.float32) + rng.normal(size=768).astype(np.float32)


def many_visuals(count: int) -> Iterator[Array]:
    """Yield ``count`` different token maps (1568, 768), views of one buffer that takes little more room than one."""
    buffer = np.random.default_rng(0).normal(size=1568 * 768 + count).astype(np.float32)
    for begin in range(count):
        yield buffer[begin : begin + 1568 * 768].reshape(1568, 768)


def videos(counts: Mapping[str, int], classes: int = len(CLASSES)) -> dict[str, list[list[str]]]:
    """Return {split: [videos of class 0, of class 1, ...]} with ``counts`` videos of each class."""
    return {
        split: [[f"{split}-{number}-{n}" for n in range(count)] for number in range(classes)]
        for split, count in counts.items()
    }


def write_lists(root: Path, listed: Mapping[str, list[list[str]]], names: tuple[str, ...] = CLASSES) -> None:
    by_class = {split: dict(enumerate(groups)) for split, groups in listed.items()}
    by_video = {
        split: {video: names[number] for number, group in enumerate(groups) for video in group}
        for split, groups in listed.items()
    }
    numbers = {names[number]: number for number in range(len(next(iter(listed.values()))))}
    for name, content in zip(LISTS, (by_class, by_video, numbers), strict=True):
        write_dictionary(root / name, content)


def write_features(root: Path, names: list[str], hdf5: bool = False, protocol: int | None = None) -> None:
    """Write made features of the videos ``names``: of the n-th, those of the number n."""
    write_dictionary(root / AUDIO, {name: audio_of(n) for n, name in enumerate(names)}, protocol)
    if not hdf5:
        write_dictionary(root / VISUAL[0], {name: visual_of(n) for n, name in enumerate(names)}, protocol)
        return
    import h5py

    (root / VISUAL[1]).parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / VISUAL[1], "w") as file:
        for n, name in enumerate(names):
            file.create_dataset(name, data=visual_of(n))


def flat(listed: Mapping[str, list[list[str]]]) -> list[str]:
    return [video for groups in listed.values() for group in groups for video in group]


class _Lazy:
    """Stands for a dictionary whose items are made while it is pickled, so that it needs not fit into memory."""

    def __init__(self, items: Iterable[tuple[str, Array]]) -> None:
        self._items = items

    def __len__(self) -> int:
        return 2  # more than one, which is all that pickling asks

    def items(self) -> Iterable[tuple[str, Array]]:
        return self._items


class _Pickler(pickle._Pickler):
    """Writes the instructions that NumPy's own pickler writes, but keeps no array alive to refer to it again."""

    dispatch = {**pickle._Pickler.dispatch, _Lazy: pickle._Pickler.save_dict}  # noqa: RUF012

    def memoize(self, obj: Any) -> None:
        index = len(self.memo)
        self.write(self.put(index))
        again = not isinstance(obj, (np.ndarray, tuple)) and not (isinstance(obj, bytes) and len(obj) > 1)
        self.memo[id(obj) if again else -1 - index] = index, obj if again else None


def stream_dictionary(path: Path, items: Iterable[tuple[str, Array]], protocol: int = 4) -> None:
    """Write a dictionary of arrays byte for byte as NumPy pickles it; a thousand items are in memory at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    outer = np.array(None, dtype=object)
    outer[()] = _Lazy(items)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(outer))
        _Pickler(file, protocol).dump(outer)
