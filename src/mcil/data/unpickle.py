"""Pickled dictionaries: read without running what they hold, arrays left in the file.

``numpy.save(path, dictionary)`` writes a pickle, as ``pickle.dump`` does, and a pickle may call any function. Here it
drives a stack machine that knows builtin containers, text and numbers only; for NumPy's names there are stand-ins of
this module, so that nothing of NumPy or of any other module is called by the file.

The content of long arrays is passed over: what remains is where it lies (:class:`StoredArray`), to be read when it is
asked for. A dictionary of 20 GB is so opened in little time and memory, and its arrays can be read in any order.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

from mcil.errors import McilError

# Content of at least so many bytes stays in the file.
_LONG = 2**16
# Whole and floating-point numbers, complex ones, booleans, and text of a fixed width.
_DTYPE = re.compile(r"[biufcSU]\d{1,9}")
# What may be a key. No tuples: hashing deeply nested ones overflows the stack of the interpreter.
_KEYS = (str, bytes, int, float, np.generic, type(None))


def read_dictionary(path: Path) -> dict[Any, Any]:
    """Return the dictionary in a file that ``numpy.save(path, dictionary)`` wrote, of any version.

    Keys are text or numbers. Values are text, bytes (below 64 KiB), numbers, None, lists, tuples, sets and
    dictionaries of such, and arrays as :class:`StoredArray`.

    Raises:
        McilError: the file is missing, is damaged, or holds anything else; nothing of it was run then.
    """
    return _read(path, _saved_by_numpy)


def read_plain_dictionary(path: Path) -> dict[Any, Any]:
    """Return the dictionary in a file that ``pickle.dump`` wrote, of protocol 2 or later.

    Keys, values and errors are those of :func:`read_dictionary`.
    """
    return _read(path, lambda path, file: _Machine(path, file).load())


def _saved_by_numpy(path: Path, file: BinaryIO) -> Any:
    """Return what is in the array without dimensions into which ``numpy.save`` puts an object."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header
    shape, _, dtype = read_header(file)
    if shape != () or dtype != np.dtype(object):
        _refuse("it holds an array, not a dictionary")
    outer = _Machine(path, file).load()
    return outer.objects[0] if isinstance(outer, StoredArray) and outer.objects else None


def _read(path: Path, load: Callable[[Path, BinaryIO], Any]) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            found = load(path, file)
        if not isinstance(found, dict):
            _refuse("it holds something else than a dictionary")
    except FileNotFoundError:
        raise McilError(f"{path}: no such file; check the path") from None
    except Exception as error:  # damaged instructions can go wrong in any way
        reason = ascii(str(error) or type(error).__name__)[1:-1]
        raise McilError(f"{path}: cannot be read as a pickled dictionary ({reason}); get the file again") from error
    return found


def _refuse(reason: str) -> NoReturn:
    """Raise the error of a pickle that holds what it must not."""
    raise pickle.UnpicklingError(reason)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return np.lib.format.read_array_header_2_0(file)


@dataclass(frozen=True)
class _Stretch:
    """Bytes that were passed over. With ``text`` they are UTF-8, and each letter stands for one byte of content."""

    offset: int
    length: int
    text: bool = False


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: str, *_: Any) -> None:
        self.objects = code in ("O", "O8")
        if not self.objects and not _DTYPE.fullmatch(code):
            _refuse(f"arrays of type '{code}' are not admitted")
        self.dtype = np.dtype(code)

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take the byte order from what ``numpy.dtype.__setstate__`` would be given."""
        _, order, *structure = state
        if any(part is not None for part in structure[:3]):
            _refuse("arrays with fields are not admitted")
        self.dtype = self.dtype.newbyteorder(order)


class StoredArray:
    """Stands for an array. Its content is still in the file where it is long.

    Attributes:
        shape: of the array.
        dtype: of its elements.
        objects: what an array of objects holds; None for all others.
    """

    def __init__(self, path: Path) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.objects: list[Any] | None = None
        self._path = path
        self._order: Any = "C"
        self._content: _Stretch | bytes = b""

    def load(self) -> npt.NDArray[Any]:
        """Return the array, read from the file.

        Raises:
            McilError: the file is gone, has changed, or is damaged here.
        """
        content = self._content
        try:
            if isinstance(content, _Stretch):
                with self._path.open("rb") as file:
                    file.seek(content.offset)
                    data = file.read(content.length)
                content = data.decode("utf-8").encode("latin1") if content.text else data
            return np.frombuffer(content, self.dtype).reshape(self.shape, order=self._order)
        except (OSError, ValueError) as error:
            raise McilError(f"{self._path}: an array in it cannot be read ({error}); get the file again") from error

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take what ``numpy.ndarray.__setstate__`` would be given."""
        _, shape, kind, fortran, content = state
        self.describe(content, kind, shape, "F" if fortran else "C")

    def describe(self, content: Any, kind: _Type, shape: tuple[int, ...], order: str) -> None:
        """Say what the array is: ``content`` as bytes, as text of one letter a byte, passed over, or as objects."""
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            _refuse("an array has an impossible shape")
        if kind.objects:
            if not isinstance(content, list) or len(content) != prod(shape):
                _refuse("an array has not as many objects as its shape says")
            self.objects = content
        else:
            self._content = _as_bytes(content)
            length = self._content.length if isinstance(self._content, _Stretch) else len(self._content)
            needed = prod(shape) * kind.dtype.itemsize
            # How many bytes text stands for is only seen when it is read.
            if not needed <= length <= (2 * needed if _is_text(content) else needed):
                _refuse("an array has not as many bytes as its shape says")
        self.shape, self.dtype, self._order = shape, kind.dtype, order


def _as_bytes(content: Any) -> _Stretch | bytes:
    if isinstance(content, str):
        return content.encode("latin1")
    if not isinstance(content, (_Stretch, bytes)):
        _refuse("the content of an array is no bytes")
    return content


def _is_text(content: Any) -> bool:
    return isinstance(content, _Stretch) and content.text


def _encode(text: str | _Stretch, codec: str) -> _Stretch | bytes:
    """Stand for ``_codecs.encode``, by which protocol 2 turns text into bytes."""
    if codec != "latin1" or not isinstance(text, (str, _Stretch)):
        _refuse("text in another code than latin1")
    return _as_bytes(text)


def _scalar(kind: _Type, content: Any) -> Any:
    """Stand for ``numpy._core.multiarray.scalar``."""
    data = _as_bytes(content)
    if kind.objects or isinstance(data, _Stretch) or len(data) != kind.dtype.itemsize:
        _refuse("a NumPy number is damaged")
    return np.frombuffer(data, kind.dtype)[0]


def _keys(items: Iterable[Any]) -> list[Any]:
    items = list(items)
    for item in items:
        if not isinstance(item, _KEYS):
            _refuse(f"a {type(item).__name__} is no key or member of a set")
    return items


def _values(items: list[Any]) -> list[Any]:
    for item in items:
        if isinstance(item, _Stretch):
            _refuse(f"text or bytes of {item.length} bytes outside an array")
    return items


class _Exact:
    """A file that gives as many bytes as are asked for, and never makes room for more than it has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, count: int) -> bytes:
        if count >= _LONG:
            self._check(count)
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError("it is cut short")
        return data

    def readline(self) -> bytes:
        return self._file.readline(_LONG)

    def pass_over(self, count: int, text: bool) -> _Stretch:
        self._check(count)
        offset = self._file.tell()
        self._file.seek(count, os.SEEK_CUR)
        return _Stretch(offset, count, text)

    def _check(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise EOFError("it is cut short")


class _Instructions(dict[int, Any]):
    """What the machine does by opcode; others are refused by name."""

    def __missing__(self, code: int) -> NoReturn:
        names = {ord(known.code): known.name for known in pickletools.opcodes}
        _refuse(f"the instruction {names.get(code, code)} is not admitted")


def _taken(*names: str) -> _Instructions:
    """Return Python's own instructions of these names."""
    codes = [getattr(pickle, name)[0] for name in names]
    return _Instructions({code: pickle._Unpickler.dispatch[code] for code in codes})


class _Machine(pickle._Unpickler):
    """Python's pickle machine in Python, less what can name, make or change objects other than those above."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch = _taken(
        *("PROTO", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET"),
        *("LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("SHORT_BINSTRING", "SHORT_BINBYTES", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2"),
        *("TUPLE3", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "GLOBAL", "STACK_GLOBAL", "REDUCE"),
    )

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._source = _Exact(file)
        super().__init__(self._source, encoding="latin1")
        multiarray = {"_reconstruct": lambda *_: StoredArray(path), "scalar": _scalar}
        builtin = {
            "set": lambda items: set(_keys(items)),
            "frozenset": lambda items: frozenset(_keys(items)),
            "bytes": lambda: b"",  # protocol 2 has no other word for no bytes
        }
        self._stand_ins: dict[str, dict[str, Any]] = {
            "numpy": {"dtype": _Type, "ndarray": None},
            "numpy.core.multiarray": multiarray,
            "numpy._core.multiarray": multiarray,
            "numpy._core.numeric": {"_frombuffer": self._from_buffer},
            "numpy.core.numeric": {"_frombuffer": self._from_buffer},
            "_codecs": {"encode": _encode},
            "builtins": builtin,
            "__builtin__": builtin,
        }
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in; nothing is imported."""
        try:
            return self._stand_ins[module][name]
        except KeyError:
            _refuse(f"it wants {module}.{name}, and only NumPy arrays and builtin containers are admitted")

    def _from_buffer(self, content: Any, kind: _Type, shape: tuple[int, ...], order: str) -> StoredArray:
        """Stand for ``numpy._core.numeric._frombuffer``, by which protocol 5 makes arrays."""
        array = StoredArray(self._path)
        array.describe(content, kind, shape, order)
        return array

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (StoredArray, _Type)):
            _refuse(f"a {type(target).__name__} is given a state")
        target.set_state(state)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(_values(items))
        elif type(target) is dict:
            target.update(zip(_keys(items[::2]), _values(items[1::2]), strict=True))
        elif type(target) is set:
            target.update(_keys(items))
        else:
            _refuse(f"a {type(target).__name__} is given members")

    def _extend_by(self, count: int) -> None:
        items = self.stack[-count:]
        del self.stack[-count:]
        self._extend(items)

    def _frozenset(self) -> None:
        members = self.pop_mark()
        self.stack.append(frozenset(_keys(members)))

    def _bytes(self, size: str, convert: Callable[[bytes], Any], text: bool = False) -> None:
        (length,) = struct.unpack(size, self._source.read(struct.calcsize(size)))
        long = length >= _LONG
        self.stack.append(self._source.pass_over(length, text) if long else convert(self._source.read(length)))

    dispatch |= {
        # Frames only say how much can be read at once; content must be found where it lies in the file.
        pickle.FRAME[0]: lambda self: self._source.read(8),
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: lambda self: self._extend_by(1),
        pickle.SETITEM[0]: lambda self: self._extend_by(2),
        pickle.APPENDS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.SETITEMS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.ADDITEMS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.FROZENSET[0]: _frozenset,
        pickle.BINBYTES[0]: lambda self: self._bytes("<I", bytes),
        pickle.BINBYTES8[0]: lambda self: self._bytes("<Q", bytes),
        pickle.BYTEARRAY8[0]: lambda self: self._bytes("<Q", bytes),
        pickle.BINSTRING[0]: lambda self: self._bytes("<I", lambda data: data.decode("latin1")),
        pickle.BINUNICODE[0]: lambda self: self._bytes("<I", bytes.decode, text=True),
        pickle.BINUNICODE8[0]: lambda self: self._bytes("<Q", bytes.decode, text=True),
    }
