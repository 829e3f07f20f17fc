import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mcil.data.extraction import extract
from mcil.data.manifest import write_manifest
from mcil.encoders import ENCODERS, Encoder
from mcil.encoders.weights import TorchEncoder
from mcil.errors import McilError
from mcil.files import sha256
from mcil.media import Clip
from mcil.types import ClipRecord


class Loudness(Encoder):
    """The sound's mean square, and how many clips were encoded together."""

    name = "loudness"
    modality = "audio"
    shape = (2,)

    def __init__(self, factor: float = 1.0, pause: float = 0.0) -> None:
        self.factor, self.pause = factor, pause

    def card(self) -> dict[str, Any]:
        return {"name": self.name, "factor": self.factor}

    def prepare(self, clip: Clip) -> np.ndarray:
        time.sleep(self.pause)
        return np.square(clip.waveform()[0]).mean(keepdims=True) * self.factor

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        return np.concatenate([prepared, np.full_like(prepared, len(prepared))], axis=1).astype(np.float32)


class Colour(Encoder):
    name = "colour"
    modality = "visual"
    shape = (1, 1, 3)

    def card(self) -> dict[str, Any]:
        return {"name": self.name, "grid": [1, 1]}

    def prepare(self, clip: Clip) -> np.ndarray:
        return clip.frames(np.zeros(1)).mean(axis=(0, 1, 2))[None, None]

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        return prepared.astype(np.float32)


class Steps(Loudness):
    """Loudness, in the first of three steps of time."""

    name = "steps"
    shape = (3, 2)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        return np.pad(super().encode(prepared)[:, None], ((0, 0), (0, 2), (0, 0)))


class Deadly(Loudness):
    def prepare(self, clip: Clip) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(clip)


def write_sound(path: Path, level: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.full(400, 1000 * level, np.int16).tobytes())


def make_data(folder: Path, count: int = 10, broken: tuple[int, ...] = ()) -> Path:
    """Clips of sound and picture; the last has no picture, the one before no sound, and ``broken`` ones no sense."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for n in range(count):
        write_sound(folder / f"{n}.wav", n)
        Image.new("RGB", (4, 4), (n, 2 * n, 3 * n)).save(folder / f"{n}.png")
        if n in broken:
            (folder / f"{n}.wav").write_text("no sound")
        audio = None if n == count - 2 else f"{n}.wav"
        image = None if n == count - 1 else f"{n}.png"
        records.append(ClipRecord(f"c{n}", "ab"[n % 2], "train", audio=audio, image=image))
    write_manifest(folder / "m.csv", records)
    return folder / "m.csv"


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def test_every_clip_is_encoded(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    store = extract(manifest, tmp_path / "s", [Colour(), Loudness()], jobs=1, batch_size=4, clips_per_shard=6)
    rows = np.arange(10)
    expected = (rows * 1000 / 32768.0) ** 2
    audio, visual = store.read("audio", rows), store.read("visual", rows)
    assert audio.dtype == torch.float32
    assert visual.dtype == torch.float16
    have = np.array([n != 8 for n in rows])
    np.testing.assert_allclose(audio[:, 0].numpy(), np.where(have, expected, 0), rtol=1e-5)
    # Batches end with shards: 4 + 2 of the first six clips, 3 of the others.
    assert audio[:, 1].tolist() == [4, 4, 4, 4, 2, 2, 3, 3, 0, 3]
    assert visual[:, 0, 0].tolist() == [[n, 2 * n, 3 * n] for n in range(9)] + [[0, 0, 0]]
    assert store.index["has_audio"].to_list() == have.tolist()
    assert store.index["has_visual"].to_list() == [True] * 9 + [False]
    assert store.card["encoders"]["visual"] == {"name": "colour", "grid": [1, 1]}
    clip = store.media(3)
    assert clip is not None
    assert clip.frames(np.zeros(1))[0, 0, 0].tolist() == [3, 6, 9]
    (tmp_path / "data" / "3.wav").unlink()
    assert store.media(3) is None


def test_processes_and_place_do_not_change_the_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_data(tmp_path / name, broken=(2,))
    builtin = ENCODERS["builtin"](frames=2, grid=2)
    alone = extract(tmp_path / "a" / "m.csv", tmp_path / "one", builtin, jobs=1)
    many = extract(tmp_path / "b" / "m.csv", tmp_path / "two", builtin, jobs=2)
    first, second = contents(alone.path), contents(many.path)
    assert first.pop("card.json") != second.pop("card.json")  # only the folder of the media differs
    assert first == second
    assert alone.checksum == many.checksum


@pytest.mark.parametrize(("dtype", "stored"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_dtype(tmp_path: Path, dtype: Any, stored: torch.dtype) -> None:
    store = extract(make_data(tmp_path / "data"), tmp_path / "s", [Colour()], dtype=dtype, jobs=1)
    assert store.read("visual", np.array([1])).dtype == stored


def test_sounds_of_several_steps_are_stored_as_token_maps_are(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    vectors = extract(manifest, tmp_path / "v", [Loudness()], jobs=1).read("audio", np.arange(10))
    store = extract(manifest, tmp_path / "s", [Steps()], jobs=1)
    assert store.shapes == {"audio": (3, 2)}
    sounds = store.read("audio", np.arange(10))
    assert torch.equal(sounds[:, 0], vectors.half())
    assert sounds[:, 1:].count_nonzero() == sounds[8].count_nonzero() == 0  # clip 8 has no sound
    assert not store.index["has_audio"][8]


def test_what_does_not_fit_the_dtype_is_named(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    with pytest.raises(McilError, match=r"clip 'c1': its audio features .* float16.*try float32"):
        extract(manifest, tmp_path / "s", [Loudness(1e9)], dtype="float16", jobs=1)
    assert extract(manifest, tmp_path / "t", [Loudness(1e9)], jobs=1).shapes == {"audio": (2,)}


def test_unreadable_clips_are_listed_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_data(tmp_path / "data", broken=(4,))
    (tmp_path / "data" / "6.wav").unlink()
    store = extract(manifest, tmp_path / "s", [Loudness()], jobs=1, max_failures=2, clips_per_shard=3)
    assert "2 clips could not be read" in caplog.text
    assert store.ids == [f"c{n}" for n in range(10) if n not in (4, 6)]
    lines = (tmp_path / "s" / "failures.csv").read_text().splitlines()
    assert lines[0] == "row,id,reason"
    assert lines[1].startswith("5,c4,4.wav: ")
    assert lines[2].startswith("7,c6,6.wav: ")
    write_sound(tmp_path / "data" / "6.wav", 6)
    again = extract(manifest, tmp_path / "s", [Loudness()], jobs=1, max_failures=2, clips_per_shard=3)
    assert len(again) == 8
    mended = extract(manifest, tmp_path / "s", [Loudness()], jobs=1, clips_per_shard=3, retry=True)
    assert mended.ids == [f"c{n}" for n in range(10) if n != 4]


def test_too_many_failures_stop(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data", broken=(1, 5, 6))
    with pytest.raises(McilError, match=r"2 clips cannot be read, more than the 1 .*1\.wav.*5\.wav") as error:
        extract(manifest, tmp_path / "s", [Loudness()], jobs=1, clips_per_shard=3)
    assert "\n" not in str(error.value)
    listed = tmp_path / "s" / "failures.csv"
    assert str(listed) in str(error.value)
    assert len(listed.read_text().splitlines()) == 3
    for n in (1, 5, 6):
        write_sound(tmp_path / "data" / f"{n}.wav", n)
    # The same command, once the files are mended.
    assert len(extract(manifest, tmp_path / "s", [Loudness()], jobs=1, clips_per_shard=3)) == 10
    assert listed.read_text() == "row,id,reason\n"


def test_nothing_readable_leaves_only_the_list(tmp_path: Path) -> None:
    make_data(tmp_path / "data", broken=(0, 1))
    records = [ClipRecord(f"c{n}", "a", "train", audio=f"{n}.wav") for n in range(2)]
    write_manifest(tmp_path / "data" / "m.csv", records)
    with pytest.raises(McilError, match="not one of 2 clips"):
        extract(tmp_path / "data" / "m.csv", tmp_path / "s", [Loudness()], jobs=1, max_failures=2)
    assert list(contents(tmp_path / "s")) == ["failures.csv"]


def test_a_complete_store_is_returned_at_once(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    before = contents(extract(manifest, tmp_path / "s", [Loudness()], jobs=1).path)
    times = [p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")]
    for n in range(10):
        (tmp_path / "data" / f"{n}.wav").unlink()
    extract(manifest, tmp_path / "s", [Loudness()], jobs=1)
    assert contents(tmp_path / "s") == before
    assert times == [p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")]


def test_a_modality_that_no_clip_has_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_data(tmp_path)
    write_manifest(tmp_path / "a.csv", [ClipRecord("x", "a", "train", audio="1.wav")])
    store = extract(tmp_path / "a.csv", tmp_path / "s", [Colour(), Loudness()], jobs=1)
    assert list(store.shapes) == ["audio"]
    assert "no clip has visual files" in caplog.text
    with pytest.raises(McilError, match="none of these encoders"):
        extract(tmp_path / "a.csv", tmp_path / "t", [Colour()], jobs=1)
    assert not (tmp_path / "t").exists()


def test_wishes_that_do_not_fit(tmp_path: Path) -> None:
    manifest = make_data(tmp_path / "data")
    extract(manifest, tmp_path / "s", [Loudness()], jobs=1)
    with pytest.raises(McilError, match="with other encoders"):
        extract(manifest, tmp_path / "s", [Loudness(2.0)], jobs=1)
    with pytest.raises(McilError, match="with another dtype"):
        extract(manifest, tmp_path / "s", [Loudness()], jobs=1, dtype="float16")
    with pytest.raises(McilError, match="from another manifest"):
        extract(make_data(tmp_path / "other", 9), tmp_path / "s", [Loudness()], jobs=1)
    with pytest.raises(McilError, match="'loudness' and 'loudness' both encode audio"):
        extract(manifest, tmp_path / "t", [Loudness(), Loudness()], jobs=1)
    with pytest.raises(McilError, match="batch_size and clips_per_shard must be at least 1"):
        extract(manifest, tmp_path / "t", [Loudness()], jobs=1, batch_size=0)
    with pytest.raises(McilError, match="no encoder"):
        extract(manifest, tmp_path / "t", [], jobs=1)
    with pytest.raises(McilError, match="no such file"):
        extract(tmp_path / "m.csv", tmp_path / "t", [Loudness()], jobs=1)


class Long(Loudness):
    """What was read of a clip takes 100 MB; its first byte is the clip's number."""

    shape = (1,)

    def prepare(self, clip: Clip) -> np.ndarray:
        array = np.zeros(100_000_000, np.uint8)
        array[0] = int(clip.record.id[1:])
        return array

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        assert prepared.nbytes <= 256 * 2**20
        return prepared[:, :1].astype(np.float32)


def test_long_sounds_are_encoded_before_they_fill_the_memory(tmp_path: Path) -> None:
    store = extract(make_data(tmp_path / "data", 7), tmp_path / "s", [Long()], jobs=1)
    assert store.read("audio", np.arange(7))[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 6]


class Unloadable(TorchEncoder):
    """Its weights cannot be read, which only shows once they are loaded."""

    name = "unloadable"
    modality = "audio"
    shape = (2,)

    def card(self) -> dict[str, Any]:
        return {"name": self.name}

    def prepare(self, clip: Clip) -> np.ndarray:
        raise AssertionError("a clip is decoded")

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        raise AssertionError("a clip is encoded")

    def load(self) -> torch.nn.Module:
        raise McilError("these weights cannot be read")


def test_devices_and_weights_are_looked_at_before_clips_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    manifest = make_data(tmp_path / "data")
    for device, message in (("cpu", "these weights"), ("cuda", "unloadable: device cuda was asked for")):
        with pytest.raises(McilError, match=message):
            extract(manifest, tmp_path / "s", [Unloadable(device)], jobs=1)
        assert not (tmp_path / "s").exists()
    (tmp_path / "s").mkdir()
    with pytest.raises(McilError, match="these weights"):
        extract(manifest, tmp_path / "s", [Unloadable("cpu")], jobs=1)
    assert (tmp_path / "s").is_dir()
    assert extract(manifest, tmp_path / "s", [Loudness()], jobs=1).read("audio", [1]).any(), "the folder can be used"


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(McilError, match="a worker process ended unexpectedly") as error:
        extract(make_data(tmp_path / "data"), tmp_path / "s", [Deadly()], jobs=2)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s").exists(), "nothing was finished"


SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from mcil.data.extraction import extract
from test_extraction import Colour, Loudness

def run(out, jobs, pause):
    encoders = [Loudness(pause=pause), Colour()]
    extract(Path({manifest!r}), Path(out), encoders, jobs=jobs, batch_size=2, clips_per_shard=3)

def in_a_fork(out, moment):
    \"\"\"Extract in a process that dies of SIGKILL when it flushes a file for the moment-th time.\"\"\"
    child = os.fork()
    if child == 0:
        flush, count = os.fsync, 0
        def fsync(handle):
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(handle)
        os.fsync = fsync
        try:
            run(out, 1, 0.0)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        for moment in range(1, 16):
            out = sys.argv[2] + "/" + str(moment)
            print(in_a_fork(out, moment), in_a_fork(out, max(1, moment // 2)), in_a_fork(out, 0))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a script that extracts, and what an uninterrupted run gives."""
    folder = tmp_path_factory.mktemp("kills")
    manifest = make_data(folder / "data", broken=(3,))
    encoders = [Loudness(), Colour()]
    store = extract(manifest, folder / "whole", encoders, jobs=1, batch_size=2, clips_per_shard=3)
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), manifest=str(manifest)))
    return script, contents(store.path)


def start(script: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_killed_at_any_write_it_goes_on_to_the_same_bytes(whole: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    script, expected = whole
    output, errors = start(script, "kill", tmp_path).communicate()
    assert "Error" not in errors
    codes = [[int(code) for code in line.split()] for line in output.splitlines()]
    # Each file is flushed twice, before it is renamed and its folder after that: four shards, the list of failures,
    # the index and the card. So the fifteenth moment never comes.
    assert [first for first, _, _ in codes] == [-signal.SIGKILL] * 14 + [0]
    assert sum(second == -signal.SIGKILL for _, second, _ in codes) >= 8
    assert [last for _, _, last in codes] == [0] * 15
    for moment in range(1, 16):
        assert contents(tmp_path / str(moment)) == expected


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_it_decodes_it_goes_on_and_leaves_no_process(
    whole: tuple[Path, dict[str, str]], tmp_path: Path, how: signal.Signals
) -> None:
    script, expected = whole
    process = start(script, "run", tmp_path / "s", 2, 1.0)
    while not (tmp_path / "s" / "shards" / "00000.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.02)
    children = members(process.pid)
    assert len(children) > 2
    # Ctrl-C reaches all processes of a terminal.
    os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode != 0, errors
    assert errors.count("Traceback") == (how == signal.SIGINT)
    deadline = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []
    assert len(list((tmp_path / "s" / "shards").glob("*.safetensors"))) < 4
    # The pause is no part of the encoder's card, so this is the same store.
    assert start(script, "run", tmp_path / "s", 1, 0).wait(60) == 0
    assert contents(tmp_path / "s") == expected


def members(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found
