"""Pickled dictionaries: what numpy.save wrote is read, anything else is refused and nothing is run."""

from __future__ import annotations

import functools
import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from benchmarks.avcil_files import stream_dictionary, write_dictionary
from mcil.data.unpickle import StoredArray, read_dictionary
from mcil.errors import McilError

PROTOCOLS = (2, 3, 4, 5)
NUMBERS = np.random.default_rng(0)


def header() -> bytes:
    """Return what stands in front of the pickle of a dictionary."""
    file, outer = io.BytesIO(), np.array({}, dtype=object)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(outer))
    return file.getvalue()


def write_pickle(path: Path, content: bytes) -> Path:
    path.write_bytes(header() + content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(McilError) as error:
        read_dictionary(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def plain(value: Any) -> Any:
    return value.load() if isinstance(value, StoredArray) else value


def assert_same(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            loaded = found[key].load()
            assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype) == (loaded.shape, loaded.dtype)
            np.testing.assert_array_equal(loaded, value)
        else:
            assert found[key] == value
            assert type(found[key]) is type(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dictionaries_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    shared = NUMBERS.normal(size=(3, 2))
    expected = {
        "long": NUMBERS.normal(size=(70, 300)).astype(np.float32),
        "longer": NUMBERS.integers(0, 256, size=200_000, dtype=np.uint8),
        "short": shared,
        "again": shared,
        "columns first": np.asfortranarray(NUMBERS.normal(size=(120, 110))),
        "big endian": np.arange(5, dtype=">i4"),
        "names": np.array(["a", "long name"]),
        "empty": np.zeros((0, 3)),
        "single": np.array(1.5),
        3: [1, -(2**40), True, None, 2.5, b"bytes", "t\u00e9xt"],
        "nested": {"a": {0: ["v1", "v2"], np.int64(1): ("v3",)}, "b": {}},
        "set": {1, 2},
        "frozen": frozenset({"x"}),
        "number": np.float32(0.25),
        -1.5: "",
    }
    assert_same(read_dictionary(write_dictionary(tmp_path / "d.npy", expected, protocol)), expected)


def test_what_numpy_save_writes(tmp_path: Path) -> None:
    expected = {f"v{n}": NUMBERS.normal(size=(20, 10)) for n in range(2500)}
    path = write_dictionary(tmp_path / "d.npy", expected)
    assert_same(read_dictionary(path), expected)
    stream_dictionary(tmp_path / "s.npy", expected.items())
    assert (tmp_path / "s.npy").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_names_of_numpy_1(tmp_path: Path, protocol: int) -> None:
    expected = {"a": np.arange(30_000.0), "b": np.float64(3)}
    outer = np.array(expected, dtype=object)
    content = pickle.dumps(outer, protocol=protocol)
    assert b"numpy._core." in content
    if protocol == 3:  # in others the name's length stands before it
        content = content.replace(b"numpy._core.", b"numpy.core.")
    else:
        content = content.replace(b"\x15numpy._core.multiarray", b"\x14numpy.core.multiarray").replace(
            b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray"
        )
    assert_same(read_dictionary(write_pickle(tmp_path / "d.npy", content)), expected)


def test_a_dictionary_of_python_2(tmp_path: Path) -> None:
    """As Python 2 wrote it: bytes are the instruction BINSTRING, keys too."""

    def array(content: bytes, shape: bytes) -> bytes:
        kind = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        return made + b"(K\x01(" + shape + b"t" + kind + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"

    short, long = np.arange(2, dtype="<f4"), np.arange(50_000, dtype="<f4")
    outer = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01)"
    outer += b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]}("
    items = (
        b"U\x05short" + array(short.tobytes(), b"K\x02") + b"U\x04long" + array(long.tobytes(), b"J\x50\xc3\x00\x00")
    )
    path = write_pickle(tmp_path / "d.npy", outer + items + b"uatb.")
    assert_same(read_dictionary(path), {"short": short, "long": long})


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.text(max_size=5) | st.integers(),
        stn.arrays(
            stn.floating_dtypes() | stn.integer_dtypes() | stn.boolean_dtypes() | stn.complex_number_dtypes(),
            stn.array_shapes(min_dims=0, max_side=4),
        )
        | st.lists(st.text() | st.integers() | st.none()),
        max_size=4,
    ),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_any_dictionary_comes_back(tmp_path: Path, values: dict[Any, Any], protocol: int) -> None:
    assert_same(read_dictionary(write_dictionary(tmp_path / "d.npy", values, protocol)), values)


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Ordinary:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Runs(os.system, "touch ran"), "posix.system"),
        (Runs(eval, "open('ran', 'w')"), "eval"),
        (Runs(functools.partial, print), "functools.partial"),
        (Runs(getattr, "x", "upper"), "getattr"),
        (Ordinary(), "Ordinary"),
        (np.load, "numpy"),
        (OrderedDict(a=1), "OrderedDict"),
        (Path("x"), "pathlib"),
        (1j, "complex"),
    ],
)
def test_other_things_are_refused_by_name_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_dictionary(tmp_path / "d.npy", {"fine": 1, "bad": value}, protocol)
    said = refusal(path)
    assert name in said or "copy" in said  # old protocols make objects by way of copyreg
    assert "only NumPy arrays and builtin containers are admitted" in said or "is not admitted" in said
    assert list(Path().iterdir()) == [Path("d.npy")]


def test_a_function_as_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_pickle(tmp_path / "d.npy", pickle.dumps(Runs(os.system, "touch ran")))
    assert "posix.system" in refusal(path)
    assert list(Path().iterdir()) == [Path("d.npy")]


DICT = b"\x80\x04}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x80\x04cos\nsystem\n.", "os.system"),
        (b"(S'echo'\nios\nsystem\n.", "STRING"),
        (b"(ios\nsystem\n.", "INST"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pid\n.", "PERSID"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x09ndarray.x\x93.", "numpy.ndarray.x"),
        (b"\x80\x04(\x8c\x01a\x81.", "NEWOBJ"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\xff", "255"),
        (DICT + b"N}b.", "given a state"),
        (DICT + b"]Ns.", "a list is no key"),
        (DICT + b"N\x85Ns.", "a tuple is no key"),
        (b"\x80\x04\x8f(]\x90.", "a list is no key"),
        (b"\x80\x04(]\x91.", "a list is no key"),
        (b"\x80\x04NNa.", "given members"),
        (DICT + b"Na.", ""),
        (b"\x80\x09.", "protocol"),
        (b"\x80\x04h\x05.", "Memo value"),
        (b"\x80\x04B\xff\xff\xff\xff.", "cut short"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "cut short"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "cut short"),
        (b"\x80\x04}.", "something else than a dictionary"),
        (b"\x80\x04K\x01.", "something else than a dictionary"),
        (b"\x80\x04" + b"0" * 3 + b".", ""),
        (b".", ""),
        (b"", "cut short"),
        (b"c\xff\xff\n\xff\n.", ""),
    ],
)
def test_instructions_that_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    assert why in refusal(write_pickle(tmp_path / "d.npy", content))


def test_deeply_nested_keys_do_not_overflow_the_stack(tmp_path: Path) -> None:
    nested = b"\x80\x04}N" + b"\x85" * 300_000 + b"Ns."
    assert "a tuple is no key" in refusal(write_pickle(tmp_path / "d.npy", nested))


def test_arrays_that_are_not_admitted(tmp_path: Path) -> None:
    fields = np.zeros(2, dtype=[("a", "f4")])
    assert "type 'V4' are not admitted" in refusal(write_dictionary(tmp_path / "a.npy", {"x": fields}))
    dates = np.array(["2020-01-01"], dtype="M8[D]")
    assert "type 'M8' are not admitted" in refusal(write_dictionary(tmp_path / "b.npy", {"x": dates}))
    np.save(tmp_path / "c.npy", np.arange(3))
    assert "an array, not a dictionary" in refusal(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    assert "an array, not a dictionary" in refusal(tmp_path / "d.npy")
    np.save(tmp_path / "e.npy", np.array([1, 2], dtype=object).reshape(2)[0:1].reshape(()), allow_pickle=True)
    assert "something else than a dictionary" in refusal(tmp_path / "e.npy")
    long = write_dictionary(tmp_path / "f.npy", {"x": "y" * 100_000})
    assert "100000 bytes outside an array" in refusal(long)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_array_whose_shape_does_not_fit_its_bytes(tmp_path: Path, protocol: int) -> None:
    outer = pickle.dumps(np.array({"x": np.zeros(7, np.uint8)}, dtype=object), protocol=protocol)
    changed = outer.replace(b"K\x07\x85", b"K\x08\x85")
    assert changed != outer
    assert "not as many bytes" in refusal(write_pickle(tmp_path / "d.npy", changed))


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing.npy")
    assert "cannot be read" in refusal(tmp_path)
    for content in (b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{}", header()[:-20]):
        (tmp_path / "d.npy").write_bytes(content)
        assert "cannot be read as a pickled dictionary" in refusal(tmp_path / "d.npy")


def test_a_file_that_is_cut_short_anywhere(tmp_path: Path) -> None:
    whole = write_dictionary(tmp_path / "d.npy", {"a": np.zeros(20_000), "b": [1, "x"], "c": np.ones(3)}).read_bytes()
    for length in {*range(0, 400, 3), *range(len(whole) - 400, len(whole), 3), len(whole) // 2}:
        (tmp_path / "c.npy").write_bytes(whole[:length])
        refusal(tmp_path / "c.npy")


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = write_dictionary(tmp_path / "d.npy", {"a": np.zeros(20_000)})
    array = read_dictionary(path)["a"]
    os.truncate(path, 5000)
    with pytest.raises(McilError, match="cannot be read"):
        array.load()
    path.unlink()
    with pytest.raises(McilError, match="cannot be read"):
        array.load()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_and_never_run(tmp_path: Path, data: st.DataObject) -> None:
    protocol = data.draw(st.sampled_from(PROTOCOLS))
    value = {"a": np.arange(6.0), "b": [1, ("x", {"y"})], 3: np.float32(1), "run": Runs(os.system, "exit 3")}
    content = bytearray(pickle.dumps(np.array(value, dtype=object), protocol=protocol))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(("change", "insert", "remove"))):
            case "change":
                content[place] = data.draw(st.integers(0, 255))
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
            case "remove":
                del content[place : place + data.draw(st.integers(1, 8))]
    path = write_pickle(tmp_path / "d.npy", bytes(content))
    ran = []
    original, os.system = os.system, lambda *arguments: ran.append(arguments) or 0
    try:
        found = read_dictionary(path)
        for item in found.values():
            plain(item)
    except McilError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        os.system = original
    assert ran == []


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = write_pickle(tmp_path / "d.npy", content)
    try:
        assert isinstance(read_dictionary(path), dict)
    except McilError as error:
        assert "\n" not in str(error)  # noqa: PT017
