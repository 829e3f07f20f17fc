"""Fetching published features from the Hugging Face hub, and turning them into a feature store."""

from __future__ import annotations

import io
import lzma
import re
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from mcil.data.importers.avcil_features import AUDIO, LISTS, VISUAL, import_avcil_features
from mcil.data.progress import progress
from mcil.errors import McilError, reason
from mcil.files import atomic_path, explain_write_errors

DataSet = Literal["AVE", "ksounds", "VGGSound_100"]

_HUB = "wiberg/AV-CIL_features"
# Where the lists of videos are not with the features, the published code has them, in folders of other names.
_LISTS_URL = "https://raw.githubusercontent.com/weiguoPian/AV-CIL_ICCV2023/{commit}/data/{folder}/{name}"
_LISTS_COMMIT = "430c7044324cdc8d4ae9e8e1ede69a30a1891b71"
_LISTS_FOLDER = {"AVE": "AVE", "ksounds": "kinetics-sounds", "VGGSound_100": "VGGSound_100"}
# How the names of a data set's files and folders begin.
_NAMES = {
    "AVE": ("AVE",),
    "ksounds": ("KS", "ksounds", "kinetics-sounds", "kinetics_sounds"),
    "VGGSound_100": ("VS100", "VGGSound_100", "VGGSound100"),
}
_PLACES = {PurePosixPath(place).name: place for place in (*LISTS, AUDIO, *VISUAL)}

# X.zip.aa, X.zip.partaa, X.zip.part-00, X.tar.gz.001 ...; X.tar.gz is no part of X.tar
_PART = re.compile(
    r"(?P<name>.+\.(?:zip|tar|tgz|gz|bz2|xz|npy|h5))[._-](?:part)?[._-]?(?P<number>(?!gz|xz)[a-z]{2}|\d{2,4})"
)
_TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_BLOCK = 2**20


def fetch_avcil_features(
    dataset: DataSet,
    out: Path = Path("store"),
    source: Path | None = None,
    dtype: Literal["float16", "float32", "bfloat16"] = "float16",
) -> Path:
    """Fetch the published features of a benchmark of AV-CIL and turn them into a store.

    They are downloaded from the hub's data set wiberg/AV-CIL_features; an interrupted download goes on when it is
    called again. Parts of an archive are read as one file, and only the files that are needed are unpacked, into
    ``OUT-unpacked-DATASET``, which is removed when the store is complete.

    Args:
        dataset: AVE, ksounds or VGGSound_100.
        out: the folder of the store.
        source: a local copy of the hub's data set, or of a part of it; nothing is downloaded that is there.
        dtype: of the visual features; those of sound are stored as float32.

    Returns:
        ``out``.

    Raises:
        McilError: the hub cannot be reached, a file or a part of one is missing or damaged, there is not enough room
            on the disk, or what was fetched is not what the importer ``avcil-features`` reads.
    """
    out = Path(out)
    folder = (_download(dataset) if source is None else Path(source)).absolute()
    if not folder.is_dir():
        raise McilError(f"{folder}: no such folder; check the path")
    found = _find(_files_of(dataset, folder))
    if AUDIO not in found or not found.keys() & set(VISUAL):
        raise McilError(f"{folder}: no features of {dataset} are there, neither as files nor in archives; check it")
    unpacked = out.with_name(f"{out.name}-unpacked-{dataset}")
    for name in LISTS:
        if name not in found and not (unpacked / name).is_file():
            _download_list(dataset, name, unpacked / name)
    _unpack(found, unpacked)
    import_avcil_features(unpacked, out, dtype)
    shutil.rmtree(unpacked)
    return out


def _download(dataset: DataSet) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"{name}*" for name in _NAMES[dataset]]
    try:
        return Path(snapshot_download(_HUB, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError, RuntimeError) as error:
        wanted = " ".join(f"--include '{pattern}'" for pattern in patterns)
        raise McilError(
            f"{_HUB} cannot be had from the hub ({reason(error)}); where there is a network run `hf download {_HUB} "
            f"--repo-type dataset {wanted} --local-dir FOLDER`, and give --source FOLDER"
        ) from error


def _download_list(dataset: DataSet, name: str, target: Path) -> None:
    """Fetch one of the lists of videos from the published code."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    url = _LISTS_URL.format(commit=_LISTS_COMMIT, folder=_LISTS_FOLDER[dataset], name=name)
    try:
        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(url, timeout=60) as answer, atomic_path(target) as temporary:
            temporary.write_bytes(answer.read())
    except (OSError, HTTPException) as error:
        raise McilError(
            f"{name} of {dataset} is not among the files and cannot be downloaded ({error}); get {url}, put it into a "
            "folder with the features, and give that as --source"
        ) from error


@dataclass(frozen=True)
class _File:
    """A file, whole or in parts. ``name`` is its path below the folder, without the number of a part."""

    name: str
    parts: tuple[Path, ...]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the parts as one file."""
        joined = io.BufferedReader(_Joined(self.parts), _BLOCK)
        with joined:
            yield joined

    @property
    def size(self) -> int:
        return sum(part.stat().st_size for part in self.parts)


class _Joined(io.RawIOBase):
    """Files one after the other, read as if they were one."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._files = [part.open("rb") for part in parts]
        self._begins = [0, *accumulate(part.stat().st_size for part in parts)]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._begins[-1]}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._begins, self._place) - 1
        if number >= len(self._files):
            return 0
        self._files[number].seek(self._place - self._begins[number])
        count = self._files[number].readinto(buffer)
        self._place += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _files_of(dataset: DataSet, folder: Path) -> list[_File]:
    """Return the files below ``folder`` that may be of a data set, parts of one together, the likeliest first.

    Raises:
        McilError: a part is missing between others.
    """
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder.parent)
        if path.is_file() and _owner(place) in (dataset, None):
            match = _PART.fullmatch(str(place))
            found[match["name"] if match else str(place)][match["number"] if match else ""] = path
    files = []
    for name, parts in sorted(found.items(), key=lambda item: _owner(Path(item[0])) is None):
        ordered = [""] if "" in parts else sorted(parts, key=_number)
        numbers = [_number(part) for part in ordered]
        first = 1 if ordered[0].isdigit() and numbers[0] == 1 else 0
        if numbers != list(range(first, first + len(numbers))):
            raise McilError(f"{folder}: a part of {Path(name).name} is missing, there are only {', '.join(ordered)}")
        files.append(_File(name, tuple(parts[part] for part in ordered)))
    return files


def _owner(place: Path) -> str | None:
    """Return the data set that the innermost name in a path tells; ``AVE_features.zip`` is of AVE, ``AVEC`` is not."""
    for part in reversed(place.parts):
        for dataset, names in _NAMES.items():
            if any(re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", part, re.IGNORECASE) for name in names):
                return dataset
    return None


def _number(part: str) -> int:
    """Return the number of a part: 001 is 1, aa is 0, ab is 1; a file that is not in parts has 0."""
    if part.isdigit():
        return int(part)
    return sum((ord(letter) - ord("a")) * 26**place for place, letter in enumerate(reversed(part)))


@dataclass(frozen=True)
class _Found:
    """Where a file that is needed is: it is ``file``, or the member of that archive that is called ``member``."""

    file: _File
    member: str | None
    size: int


def _find(files: Sequence[_File]) -> dict[str, _Found]:
    """Return where the files are that the importer needs, by their places in its folder; whole files count first."""
    found: dict[str, _Found] = {}
    for file in files:
        place = _PLACES.get(PurePosixPath(file.name).name)
        if place is not None:
            found.setdefault(place, _Found(file, None, file.size))
    for file in files:
        if file.name.endswith((".zip", *_TAR)):
            with _members(file) as members:
                for name, (size, _) in members.items():
                    place = _PLACES.get(PurePosixPath(name).name)
                    if place is not None:
                        found.setdefault(place, _Found(file, name, size))
    return found


@contextmanager
def _members(archive: _File) -> Iterator[dict[str, tuple[int, Callable[[], Any]]]]:
    """Yield size and opener of the regular files in an archive, by name; links and folders are no such files."""
    try:
        with archive.open() as stream:
            if archive.name.endswith(".zip"):
                with zipfile.ZipFile(stream) as zipped:
                    infos = [info for info in zipped.infolist() if not info.is_dir() and not _is_link(info)]
                    yield {info.filename: (info.file_size, partial(zipped.open, info)) for info in infos}
            else:
                with tarfile.open(fileobj=stream, mode="r:*") as tar:
                    members = [member for member in tar if member.isreg()]
                    yield {member.name: (member.size, partial(tar.extractfile, member)) for member in members}
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        raise McilError(
            f"{archive.name}: cannot be unpacked ({error}); one of its {len(archive.parts)} files is missing or damaged"
        ) from error


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _unpack(found: dict[str, _Found], folder: Path) -> None:
    """Put the files that are needed into their places: links to whole files, copies of others.

    Names in archives never become paths here. A copy that an earlier call made is kept.

    Raises:
        McilError: there is not enough room, or a file is damaged.
    """
    links = {place: item for place, item in found.items() if item.member is None and len(item.file.parts) == 1}
    with explain_write_errors(folder):
        for place, item in links.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).unlink(missing_ok=True)
            (folder / place).symlink_to(item.file.parts[0].absolute())
        folder.mkdir(parents=True, exist_ok=True)
    copies = {
        place: item
        for place, item in found.items()
        if place not in links and not ((folder / place).is_file() and (folder / place).stat().st_size == item.size)
    }
    needed, free = sum(item.size for item in copies.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise McilError(f"{folder}: {needed / 1e9:.0f} GB are needed to unpack, and {free / 1e9:.0f} GB are free")
    with progress("unpacking, in MiB", sum(item.size // _BLOCK for item in copies.values())) as advance:
        for place, item in copies.items():
            with _open(item) as source, atomic_path(folder / place) as temporary, temporary.open("wb") as target:
                while block := source.read(_BLOCK):
                    target.write(block)
                    if len(block) == _BLOCK:
                        advance()
            if (folder / place).stat().st_size != item.size:
                (folder / place).unlink()
                raise McilError(f"{item.file.name}: {Path(place).name} in it is cut short; get it again")


@contextmanager
def _open(item: _Found) -> Iterator[BinaryIO]:
    if item.member is None:
        with item.file.open() as file:
            yield file
        return
    with _members(item.file) as members, members[item.member][1]() as file:
        yield file
