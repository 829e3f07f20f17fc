"""Files that are either whole or not there: atomic writes, JSON, checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcil.errors import McilError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file would be larger than is allowed here (ulimit -f, or the file system); raise that limit",
    errno.EACCES: "no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "no permission to write there; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "a folder of the path is not there and cannot be made; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file of that name is in the way; choose another folder or remove it",
}


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write at ``path`` into a :class:`McilError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise McilError(f"cannot write {path}: {_REASONS[error.errno]}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed to ``path``.

    When the body raises, the temporary file is removed and ``path`` is left as it was.

    Raises:
        McilError: the disk is full, or the place cannot be written to.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Read JSON from ``path``; ``what`` names it in the error.

    Raises:
        McilError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise McilError(f"{path}: no {what} here; check the path") from None
    except (ValueError, OSError) as error:
        raise McilError(f"{path}: this {what} cannot be read ({error}); make it again") from error


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any) -> None:
    """Write named tensors and JSON ``metadata`` to one safetensors file, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(contiguous, {"mcil": json.dumps(metadata, allow_nan=False)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and the metadata that :func:`write_tensors` wrote; ``what`` names the file in the error.

    Raises:
        McilError: the file is missing, damaged, or was not written by mcil.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["mcil"])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise McilError(f"{path}: no {what} here; check the path") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise McilError(f"{path}: this {what} is damaged ({error}); delete it and run the command again") from error
