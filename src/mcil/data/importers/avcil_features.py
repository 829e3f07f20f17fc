"""The published features of the audio-visual class-incremental benchmarks become a feature store.

Pian et al., "Audio-Visual Class-Incremental Learning", ICCV 2023. Dictionaries are read by :mod:`mcil.data.unpickle`,
which runs nothing of what they hold. Features stay in their files until their shard is written, so that memory holds
one shard, whatever the size of the files, and a stopped import goes on where it was.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mcil.data.benchmarks import benchmark_of
from mcil.data.importers import IMPORTERS
from mcil.data.progress import progress
from mcil.data.shards import DTYPES, ArraySpec, Failure
from mcil.data.store import FeatureStore
from mcil.data.unpickle import StoredArray, read_dictionary
from mcil.data.writer import StoreWriter
from mcil.errors import McilError
from mcil.types import SPLITS, ClipRecord, Split

logger = logging.getLogger(__name__)

LISTS = ("all_classId_vid_dict.npy", "all_id_category_dict.npy", "category_encode_dict.npy")
AUDIO = "audio_pretrained_feature/audio_pretrained_feature_dict.npy"
VISUAL = (
    "visual_pretrained_feature/visual_pretrained_feature_dict.npy",
    "visual_pretrained_feature/visual_features.h5",
)

_FRAMES, _PATCHES, _WIDTH = 8, 196, 768
_FOUND = {"audio": (_WIDTH,), "visual": (_FRAMES * _PATCHES, _WIDTH)}
_STORED = {"audio": (_WIDTH,), "visual": (_FRAMES, _PATCHES, _WIDTH)}
_ENCODERS = {
    "audio": {
        "name": "audiomae",
        "modality": "audio",
        "revision": "features as published with AV-CIL",
        "preprocessing": "published",
        "shape": [_WIDTH],
    },
    "visual": {
        "name": "videomae",
        "modality": "visual",
        "revision": "features as published with AV-CIL",
        "preprocessing": "published",
        "shape": [_FRAMES, _PATCHES, _WIDTH],
        "grid": [14, 14],
        "view": "centre",
    },
}


@IMPORTERS.register("avcil-features")
def import_avcil_features(
    root: Path, out: Path = Path("store"), dtype: Literal["float16", "float32", "bfloat16"] = "float16"
) -> Path:
    """Turn the published features of AVE, Kinetics-Sounds or VGGSound100 into a store.

    ``root`` holds ``all_classId_vid_dict.npy``, ``all_id_category_dict.npy``, ``category_encode_dict.npy``,
    ``audio_pretrained_feature/audio_pretrained_feature_dict.npy``, and in ``visual_pretrained_feature`` either
    ``visual_pretrained_feature_dict.npy`` or ``visual_features.h5``. Videos without features are left out and listed in
    ``failures.csv``. Stopped at any moment and called again, it goes on where it was.

    Args:
        root: the folder of one data set.
        out: the folder of the store.
        dtype: of the visual features; those of sound are stored as float32.

    Returns:
        ``out``.

    Raises:
        McilError: a file is missing, is damaged, holds anything but names, numbers and arrays, or does not fit the
            others; or features have another shape or are not finite.
    """
    root, out = Path(root), Path(out)
    classes, records = _read_lists(root)
    with _open_visual(root) as visual:
        sources: dict[str, _Features] = {"audio": _Dictionary(root / AUDIO), "visual": visual}
        if not any(all(str(record.source) in source for source in sources.values()) for record in records):
            raise McilError(f"{root}: not one of the {len(records)} listed videos has features; check the files")
        benchmark = benchmark_of(classes)
        counts = tuple(sum(record.split == split for record in records) for split in SPLITS)
        if benchmark is not None and benchmark.clips not in (None, counts):
            logger.warning("%s has %s clips (train, val, test); %s are listed", benchmark.name, benchmark.clips, counts)
        card = {
            "encoders": _ENCODERS,
            "source": {"files": {source.path.name: source.path.stat().st_size for source in sources.values()}},
            "class_order": classes,
            **({} if benchmark is None else {"benchmark": benchmark.name}),
        }
        specs = {"audio": ArraySpec(_STORED["audio"], "float32"), "visual": ArraySpec(_STORED["visual"], dtype)}
        failures = _write(out, specs, records, card, sources)
    if failures:
        logger.warning("%d videos have no features and were left out; see %s", failures, out / "failures.csv")
    return FeatureStore(out).path


def _read_lists(root: Path) -> tuple[list[str], list[ClipRecord]]:
    """Return the class names by class id, and the listed clips; ``source`` is the id of a clip's video."""
    missing = [name for name in (*LISTS, AUDIO) if not (root / name).is_file()]
    if missing:
        raise McilError(f"{root}: {missing[0]} is not there; check the folder")
    listed, named, numbers = (read_dictionary(root / name) for name in LISTS)
    classes = _class_names(root / LISTS[2], numbers)
    records: list[ClipRecord] = []
    splits: dict[str, Split] = {}
    repeated = []
    for split in SPLITS:
        for video, name in _videos(root, split, listed.get(split), named.get(split), classes):
            if video in splits:
                repeated.append(video)
            clip = f"{video} ({split})" if video in splits else video
            splits.setdefault(video, split)
            records.append(ClipRecord(clip, name, split, source=video))
    if repeated:
        logger.warning("%d videos are in several splits, as published (first: %s)", len(repeated), repeated[0])
    return classes, records


def _class_names(file: Path, numbers: dict[Any, Any]) -> list[str]:
    """Return the names in the order of their numbers, which must be 0, 1, 2 ..."""
    try:
        by_number = {int(number): str(name) for name, number in numbers.items()}
    except (TypeError, ValueError):
        by_number = {}
    if not numbers or len(by_number) != len(numbers) or sorted(by_number) != list(range(len(numbers))):
        raise McilError(f"{file}: the numbers of the {len(numbers)} classes are not 0, 1, 2 ...; get the file again")
    return [by_number[number] for number in range(len(numbers))]


def _videos(root: Path, split: Split, listed: Any, named: Any, classes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield video and class name of the clips of a split, class after class."""
    by_class, names = root / LISTS[0], root / LISTS[1]
    if not isinstance(listed, dict) or not isinstance(named, dict):
        raise McilError(f"{names if isinstance(listed, dict) else by_class}: it has no split '{split}'")
    found: dict[str, list[int]] = defaultdict(list)
    for number, videos in listed.items():
        if not isinstance(videos, list) or number not in range(len(classes)):
            raise McilError(f"{by_class}: class {number} of '{split}' is no list of videos of a known class")
        for video in videos:
            found[str(video)].append(int(number))
    for video, numbers in found.items():
        name = named.get(video)
        if name not in classes or classes.index(name) not in numbers:
            said = f"'{classes[numbers[0]]}' ({numbers[0]})"
            raise McilError(f"{by_class}: '{video}' of '{split}' is listed as {said}, but {names.name} says '{name}'")
        yield video, name
    if twice := [video for video, numbers in found.items() if len(numbers) > 1]:
        logger.warning("%d videos of %s are listed more than once (first: %s)", len(twice), split, twice[0])


class _Features(Protocol):
    """Where the features of one modality are."""

    path: Path

    def __contains__(self, video: str) -> bool: ...

    def read(self, video: str) -> npt.NDArray[Any]: ...


class _Dictionary:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays = read_dictionary(path)

    def __contains__(self, video: str) -> bool:
        return video in self._arrays

    def read(self, video: str) -> npt.NDArray[Any]:
        array = self._arrays[video]
        if not isinstance(array, StoredArray):
            kind = type(array).__name__
            raise McilError(f"{self.path}: under '{video}' is no array but a {kind}; get the file again")
        return array.load()


class _Hdf5:
    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file

    def __contains__(self, video: str) -> bool:
        return video in self._file

    def read(self, video: str) -> npt.NDArray[Any]:
        import h5py

        try:
            # Links and outside storage could lead to any other file of the machine.
            item = self._file[video] if isinstance(self._file.get(video, getlink=True), h5py.HardLink) else None
            if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
                raise McilError(f"{self.path}: '{video}' is no array in this file; get the file again")
            found: npt.NDArray[Any] = item[()]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise McilError(f"{self.path}: '{video}' cannot be read ({error}); get the file again") from error
        return found


@contextmanager
def _open_visual(root: Path) -> Iterator[_Features]:
    dictionary, hdf5 = (root / name for name in VISUAL)
    if dictionary.is_file():
        yield _Dictionary(dictionary)
        return
    if not hdf5.is_file():
        raise McilError(f"{root}: neither {VISUAL[0]} nor {VISUAL[1]} is there; check the folder")
    import h5py

    try:
        file = h5py.File(hdf5, "r")
    except OSError as error:
        raise McilError(f"{hdf5}: cannot be read as HDF5 ({error}); get the file again") from error
    with file:
        yield _Hdf5(hdf5, file)


def _write(
    out: Path,
    specs: dict[str, ArraySpec],
    records: Sequence[ClipRecord],
    card: dict[str, Any],
    sources: dict[str, _Features],
) -> int:
    """Write what is still to be written of the store, shard after shard; return how many videos had no features."""
    with StoreWriter(out, specs, records, card) as writer:
        pending = writer.pending()
        clips = sum(len(writer.rows(number)) for number in pending)
        with progress("converting", len(records), len(records) - clips) as advance:
            for number in pending:
                failures = [
                    Failure(row, f"no {' and '.join(lacking)} features")
                    for row in writer.rows(number)
                    if (lacking := [name for name, source in sources.items() if str(records[row].source) not in source])
                ]
                rows = sorted(set(writer.rows(number)) - {failure.row for failure in failures})
                arrays = {
                    name: torch.empty(len(rows), *spec.shape, dtype=DTYPES[spec.dtype]) for name, spec in specs.items()
                }
                for place, row in enumerate(rows):
                    for name, source in sources.items():
                        arrays[name][place] = _checked(source, str(records[row].source), name, specs[name])
                    advance()
                for _ in failures:
                    advance()
                writer.write(number, rows, arrays, [True] * len(rows), [True] * len(rows), failures)
        writer.finish()
        return len(writer.failures())


def _checked(source: _Features, video: str, name: str, spec: ArraySpec) -> torch.Tensor:
    """Return the features of a video as float32, in the shape in which they are stored."""
    found = source.read(video)
    if found.shape != _FOUND[name]:
        raise McilError(f"{source.path}: '{video}' has shape {found.shape}; {_FOUND[name]} is needed")
    if found.dtype.kind != "f":
        raise McilError(f"{source.path}: '{video}' is of type {found.dtype}; floating-point numbers are needed")
    largest = max(abs(float(found.min())), abs(float(found.max())))  # NaN if one value is
    if not np.isfinite(largest):
        raise McilError(f"{source.path}: the features of '{video}' are not finite; get the file again")
    if largest > torch.finfo(DTYPES[spec.dtype]).max:
        raise McilError(f"{source.path}: the features of '{video}' do not fit into {spec.dtype}; choose float32")
    return torch.from_numpy(found.astype(np.float32)).reshape(spec.shape)
