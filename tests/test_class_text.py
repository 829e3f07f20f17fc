"""Text about the classes of a store: made, written, read, replaced; through extraction, a command and an importer."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from command import call, refusal
from mcil.data.class_text import ClassText, describe_classes, read_class_text, write_class_text
from mcil.data.extraction import extract
from mcil.data.importers.arrays import import_arrays
from mcil.data.store import FeatureStore
from mcil.encoders import ENCODERS, TextEncoder
from mcil.encoders.prompts import TEMPLATES, prompts_for
from mcil.errors import McilError
from mcil.files import write_tensors
from test_extraction import Colour, Loudness, contents, make_data

FILE = "text.safetensors"


class Letters(TextEncoder):
    """How often a, b and c come in a text, divided by ``unit``; it notes every text that it is given."""

    name = "letters"
    shape = (3,)

    def __init__(self, unit: float = 1.0) -> None:
        self.unit = unit
        self.asked: list[list[str]] = []

    def card(self) -> dict[str, Any]:
        return {"name": self.name, "modality": self.modality, "options": {"unit": self.unit}, "shape": [3]}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return np.array([[text.count(letter) / self.unit for letter in "abc"] for text in texts], np.float32)


class Tokens(Letters):
    """Token ids instead: the codes of the first four letters."""

    shape = (4,)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[ord(letter) for letter in text.ljust(4)[:4]] for text in texts], np.int32)


def letters(*, unit: float = 1.0) -> list[TextEncoder]:
    return [Letters(unit)]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line know the encoder of letters, for one test."""
    ENCODERS.names()
    monkeypatch.setitem(ENCODERS._items, "letters", letters)


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_store(tmp_path_factory.mktemp("text") / "store").path


@pytest.fixture
def store(made_store: Path, tmp_path: Path) -> Path:
    """A copy without text."""
    return Path(shutil.copytree(made_store, tmp_path / "store", ignore=shutil.ignore_patterns(FILE)))


@pytest.mark.parametrize("domain", TEMPLATES)
def test_every_prompt_of_every_class_is_encoded_equal_ones_once(domain: str) -> None:
    names = ["blackboard_wiping", "abba", "cab"]
    encoder = Letters()
    text = describe_classes(names, encoder, domain)
    assert text.class_names == tuple(names)
    assert text.domain == domain
    assert text.card == encoder.card()
    assert [list(row) for row in text.prompts] == prompts_for(names, domain)
    for row, values in zip(text.prompts, text.values.tolist(), strict=True):
        assert values == [[prompt.count(letter) for letter in "abc"] for prompt in row]
    asked = [prompt for batch in encoder.asked for prompt in batch]
    assert len(asked) == len(set(asked)) == len({prompt for row in text.prompts for prompt in row})
    assert max(map(len, encoder.asked)) <= 64


def test_classes_are_picked_by_name() -> None:
    text = describe_classes(["a", "bb", "ccc"], Letters(), "plain")
    assert text.of(["ccc", "a"]).tolist() == [[[0, 0, 3]], [[1, 0, 0]]]
    assert text.of([]).shape == (0, 1, 3)
    with pytest.raises(McilError, match=r"no text about the class 'cc'\. Did you mean 'ccc'\?.*mcil text"):
        text.of(["a", "cc"])


@pytest.mark.parametrize("encoder", [Letters(), Tokens()])
def test_what_is_written_is_read(tmp_path: Path, encoder: TextEncoder) -> None:
    assert read_class_text(tmp_path) is None
    text = describe_classes(["sea_waves", "é"], encoder, "sounds")
    assert write_class_text(tmp_path, text) == tmp_path / FILE
    read = read_class_text(tmp_path)
    assert read is not None
    assert (read.class_names, read.prompts, read.card, read.domain) == (
        text.class_names,
        text.prompts,
        text.card,
        text.domain,
    )
    assert torch.equal(read.values, text.values)
    assert read.values.dtype == text.values.dtype
    assert read.checksum == text.checksum


def test_the_checksum_is_of_the_content_and_of_no_place(tmp_path: Path) -> None:
    def text(names: Sequence[str] = ("a", "b"), unit: float = 1.0, domain: str = "plain") -> ClassText:
        return describe_classes(names, Letters(unit), domain)

    same = [text(), text()]
    for number, each in enumerate(same):
        write_class_text(tmp_path / str(number), each)
    files = [(tmp_path / str(number) / FILE).read_bytes() for number in range(2)]
    assert files[0] == files[1]
    different = [text(("b", "a")), text(("a", "c")), text(unit=2.0), text(domain="sounds")]
    moved = ClassText(same[0].class_names, same[0].prompts, same[0].values + 1, same[0].card, "plain")
    checksums = {each.checksum for each in [*same, *different, moved]}
    assert len(checksums) == 6


def test_a_file_that_cannot_be_used_is_one_line_and_is_replaced(tmp_path: Path) -> None:
    text = describe_classes(["a", "b"], Letters(), "plain")
    path = write_class_text(tmp_path, text)
    whole = path.read_bytes()
    header = {"format": "mcil text of classes", "version": 1, "checksum": text.checksum, **text.plan}

    def cut() -> None:
        path.write_bytes(whole[:-4])

    def flipped() -> None:
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])

    def other(tensors: dict[str, torch.Tensor], metadata: Any) -> Any:
        return lambda: write_tensors(path, tensors, metadata)

    values = {"values": text.values}
    for damage, message in (
        (cut, "damaged"),
        (flipped, "is damaged; make it again with `mcil text`"),
        (other(values, {**header, "version": 2}), "format version 2, and this mcil reads version 1"),
        (other(values, {"format": "a learner"}), "no text about classes"),
        (other(values, [1]), "no text about classes"),
        (other({}, header), "damaged"),
        (other(values, {**header, "class_names": ["a"]}), "damaged"),
        (other(values, {**header, "prompts": 3}), "damaged"),
        (other(values, {key: value for key, value in header.items() if key != "card"}), "damaged"),
        (lambda: path.write_text("no tensors"), "damaged"),
    ):
        damage()
        with pytest.raises(McilError, match=message) as caught:
            read_class_text(tmp_path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        write_class_text(tmp_path, text)
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["a", "a"], np.ones((2, 3)), "same name"),
        (["a"], np.ones((2, 3)), r"1 names, .* values \(2, 1, 3\)"),
        (["a", "b"], np.ones(2), r"values \(2,\)"),
        (["a", "b"], np.ones((2, 3, 4, 5)), "are needed"),
        (["a", "b"], np.ones((2, 0)), "above 0"),
        (["a", "b"], np.array([[1.0], [np.nan]]), "class 'b' are not finite"),
        (["a"], np.array([["x"]]), "numbers are needed"),
        ([], np.ones((0, 3)), "above 0"),
    ],
)
def test_values_that_do_not_fit_are_refused(names: list[str], values: np.ndarray, message: str) -> None:
    with pytest.raises(McilError, match=f"text about classes: .*{message}"):
        ClassText.given(names, values, {})


def test_what_an_encoder_gives_is_checked() -> None:
    class Odd(Letters):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return super().encode(texts).astype(np.float64)

    with pytest.raises(McilError, match=r"float64; float32 or int32"):
        describe_classes(["a"], Odd(), "plain")
    with pytest.raises(McilError, match="no classes"):
        describe_classes([], Letters(), "plain")
    with pytest.raises(McilError, match="same name"):
        describe_classes(["a", "a"], Letters(), "plain")


def test_extraction_describes_the_classes_and_leaves_the_store_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    manifest, encoder = make_data(tmp_path / "data"), Letters()
    plain = extract(manifest, tmp_path / "plain", [Loudness()], jobs=1)
    store = extract(manifest, tmp_path / "s", [Loudness(), encoder], jobs=1)
    assert store.checksum == plain.checksum
    assert contents(plain.path) == {name: value for name, value in contents(store.path).items() if name != FILE}
    expected = describe_classes(["a", "b"], Letters(), "general")
    first = read_class_text(store.path)
    assert first is not None
    assert first.checksum == expected.checksum

    before, asked = contents(store.path), len(encoder.asked)
    times = [path.stat().st_mtime_ns for path in store.path.rglob("*")]
    extract(manifest, store.path, [Loudness(), encoder], jobs=1)
    extract(manifest, store.path, [Loudness()], jobs=1)  # without a text encoder, text stays
    assert contents(store.path) == before
    assert [path.stat().st_mtime_ns for path in store.path.rglob("*")] == times
    assert len(encoder.asked) == asked, "text that is there already is not encoded again"
    assert "replaced" not in caplog.text

    (store.path / FILE).unlink()  # as after a kill between the store and its text
    extract(manifest, store.path, [Loudness(), encoder], jobs=1)
    assert contents(store.path) == before
    for changes in ({"encoders": [Loudness(), Letters(2.0)]}, {"encoders": [Loudness(), encoder], "prompts": "plain"}):
        extract(manifest, store.path, jobs=1, **changes)
        now = contents(store.path)
        assert {name for name in now if now[name] != before[name]} == {FILE}
        assert "text that was there is replaced" in caplog.text
        caplog.clear()
    assert FeatureStore(store.path).checksum == plain.checksum


def test_wishes_for_text_that_cannot_be_met_are_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    for encoders, prompts, message in (
        ([Loudness(), Letters()], "genral", "Did you mean 'general'"),
        ([Letters()], "general", "'letters' reads text only, no clips"),
        ([Colour(), Letters(), Letters()], "general", "both encode text"),
    ):
        with pytest.raises(McilError, match=message):
            extract(manifest, tmp_path / "s", encoders, jobs=1, prompts=prompts)
        assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("register")
def test_the_command_adds_text_and_says_what_it_replaces(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    before = contents(store)
    said = call("text store --encoder letters --prompts plain")
    assert said.code == 0, said
    assert said.out == f"wrote store/{FILE}\n"
    assert said.err == ""
    text = read_class_text(store)
    assert text is not None
    assert text.class_names == tuple("abcdef")
    assert text.values[:3, 0].tolist() == np.eye(3).tolist()
    assert {name: value for name, value in contents(store).items() if name != FILE} == before
    assert call("text store --encoder letters --prompts plain").err == ""
    other = call("text store --encoder '{letters: {unit: 2.0}}' --prompts sounds")
    assert other.err == f"store/{FILE}: the text that was there is replaced\n"
    text = read_class_text(store)
    assert text is not None
    assert text.domain == "sounds"
    assert text.values.shape == (6, len(TEMPLATES["sounds"]), 3)


@pytest.mark.usefixtures("register")
def test_extract_takes_prompts_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    options = "{builtin: {frames: 1, grid: 1}, letters: {}}"
    said = call(f"extract data/m.csv --out s --encoders '{options}' --jobs 1 --prompts classroom")
    assert said.code == 0, said
    text = read_class_text(tmp_path / "s")
    assert text is not None
    assert text.domain == "classroom"


@pytest.mark.usefixtures("register")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("text nowhere --encoder letters", "nowhere: no feature store here"),
        ("text store --encoder builtin", "'builtin' reads no text"),
        ("text store --encoder leters", "Did you mean 'letters'"),
        ("text store --encoder letters --prompts clasroom", "Did you mean 'classroom'"),
        ("text", "store"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    monkeypatch.chdir(store.parent)
    assert words in refusal(line)


def archive(path: Path, **changes: Any) -> Path:
    """Write features of 12 clips of the classes z, y and x, with what an encoder said of the classes."""
    arrays: dict[str, Any] = {
        "audio": np.arange(60, dtype=np.float32).reshape(12, 5),
        "y": np.arange(12) % 3,
        "split": np.arange(12) // 3 % 3,
        "class_names": np.array(["z", "y", "x"]),
        "text": np.arange(12, dtype=np.float64).reshape(3, 4),
    }
    np.savez(path, **{name: array for name, array in {**arrays, **changes}.items() if array is not None})
    return path


def test_text_comes_with_imported_arrays(tmp_path: Path) -> None:
    file = archive(tmp_path / "f.npz")
    store = FeatureStore(import_arrays(file, tmp_path / "s"))
    text = read_class_text(store.path)
    assert text is not None
    assert (text.class_names, text.prompts, text.domain) == (("z", "y", "x"), ((), (), ()), "given")
    assert text.card == {"source": {"file": "f.npz", "array": "text"}}
    assert text.values.dtype == torch.float32
    assert text.of(["x", "z"]).tolist() == [[[8, 9, 10, 11]], [[0, 1, 2, 3]]]
    without = import_arrays(archive(tmp_path / "f.npz", text=None), tmp_path / "w")
    assert read_class_text(without) is None
    assert FeatureStore(without).checksum == store.checksum

    several = np.arange(24.0).reshape(3, 2, 4)
    archive(file, text=None, said=several)
    import_arrays(file, tmp_path / "s", text="said")
    text = read_class_text(store.path)
    assert text is not None
    assert torch.equal(text.values, torch.from_numpy(several).float())


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"text": np.ones((2, 4))}, {}, r"3 names, .* values \(2, 1, 4\)"),
        ({"class_names": None, "y": np.array(["a", "b", "c"] * 4)}, {}, "add class_names"),
        ({"y": np.array(["x", "y", "v"] * 4)}, {}, "no text about the class 'v'"),
        ({"text": np.full((3, 4), np.inf)}, {}, "not finite"),
        ({}, {"text": "txt"}, "no array 'txt' for text. Did you mean 'text'"),
    ],
)
def test_text_that_does_not_fit_leaves_no_store(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    file = archive(tmp_path / "f.npz", **changes)
    with pytest.raises(McilError, match=message) as caught:
        import_arrays(file, tmp_path / "s", **options)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_the_header_says_all_to_other_readers(tmp_path: Path) -> None:
    from safetensors import safe_open

    text = describe_classes(["a"], Letters(), "plain")
    with safe_open(write_class_text(tmp_path, text), "pt") as file:
        header = json.loads(file.metadata()["mcil"])
    assert header == {
        "format": "mcil text of classes",
        "version": 1,
        "checksum": text.checksum,
        "class_names": ["a"],
        "prompts": [["a"]],
        "card": Letters().card(),
        "domain": "plain",
    }
