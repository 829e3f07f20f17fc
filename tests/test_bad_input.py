"""What users get wrong: each is one clear line and exit code 2, and nothing is left half-written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

import tiny
from command import call, refusal, tree
from mcil.cli.commands import COMMANDS
from mcil.errors import McilError
from mcil.files import read_json, write_json
from mcil.learner import Learner

ENCODERS = "--encoders '{builtin: {frames: 2, grid: 2}}' --jobs 1"
TRAINING = "--memory 12 --training.epochs 1 --training.batch_size 2 --training.protocol last"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_store(tmp_path_factory.mktemp("bad") / "store").path


@pytest.fixture
def store(made_store: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made_store, folder / "store"))


def write_clip(path: Path, seed: int, picture: bool = True, sound: bool = True) -> None:
    """Write a clip of 8 frames and half a second of sound."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        streams = []
        if picture:
            video = container.add_stream("mpeg4", rate=12)
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            frames = [av.VideoFrame.from_ndarray(random.integers(0, 255, (32, 32, 3), np.uint8)) for _ in range(8)]
            streams.append((video, frames, 1))
        if sound:
            audio = container.add_stream("aac", rate=16000, layout="mono")
            pieces = random.normal(0, 0.1, (8, 1, 1024)).astype(np.float32)
            streams.append((audio, [av.AudioFrame.from_ndarray(piece, "fltp", "mono") for piece in pieces], 1024))
        for stream, frames, step in streams:
            for number, frame in enumerate(frames):
                if step > 1:
                    frame.sample_rate = 16000
                frame.pts = number * step
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


@pytest.fixture(scope="module")
def good_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips") / "clips"
    for number in range(8):
        write_clip(root / "ab"[number % 2] / f"{number}.mp4", number)
    return root


@pytest.fixture
def clips(good_clips: Path, folder: Path) -> Path:
    return Path(shutil.copytree(good_clips, folder / "clips"))


def imported() -> str:
    """Import ``clips`` and return what was said about it."""
    said = call("data import folder clips --out clips.csv --fractions [0.5,0.25,0.25]")
    assert said.code == 0, said
    return said.err


def test_an_empty_folder() -> None:
    Path("empty").mkdir()
    assert "empty: no video, audio or image files in class folders" in refusal("data import folder empty --out out.csv")


def spoil_text(path: Path) -> None:
    path.write_text("this is no video\n" * 20)


def spoil_cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoil_nothing(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("spoil", [spoil_text, spoil_cut, spoil_nothing])
def test_a_clip_that_cannot_be_decoded(clips: Path, spoil: Callable[[Path], None]) -> None:
    spoil(clips / "a" / "0.mp4")
    imported()
    said = call("data check clips.csv --jobs 1")
    assert said.code == 2
    assert "error: row 1 (a/0): clips/a/0.mp4: cannot be decoded" in said.out
    assert said.err == "mcil: clips.csv: 1 error and 0 warnings\n"
    extracted = call(f"extract clips.csv --out s {ENCODERS} --max_failures 1")
    assert extracted.code == 0
    assert "could not be read and were left out; see s/failures.csv" in extracted.err
    stopped = call(f"extract clips.csv --out t {ENCODERS} --max_failures 0")
    assert stopped.code == 2
    assert "1 clips cannot be read, more than the 0 that may fail: clips/a/0.mp4: cannot be decoded" in stopped.err
    assert stopped.err.splitlines()[-1].startswith("mcil: ")
    assert [name for name, content in tree(Path("t")).items() if content] == ["t/failures.csv"]
    assert "t: this feature store is not finished" in refusal("run t 2 --out runs")


def test_a_video_without_sound(clips: Path) -> None:
    write_clip(clips / "a" / "0.mp4", 0, sound=False)
    assert "1 of 8 videos have no sound (first: clips/a/0.mp4)" in imported()
    said = call("data check clips.csv --jobs 1")
    assert "warning: row 1 (a/0): has no sound, as other clips do" in said.out
    assert said.code == 0
    extracted = call(f"extract clips.csv --out s {ENCODERS}")
    assert extracted.code == 0
    assert "1 of 8 clips have no audio (first: 'a/0')" in extracted.err
    assert "set missing to 'drop' or 'zeros'" in refusal(f"run s 2 --out runs {TRAINING}")
    assert call(f"run s 2 --out runs --missing zeros {TRAINING}").code == 0


def test_a_sound_without_video(clips: Path) -> None:
    write_clip(clips / "a" / "0.mp4", 0, picture=False)
    assert "1 of 8 videos have no picture (first: clips/a/0.mp4)" in imported()
    assert "warning: row 1 (a/0): has no picture, as other clips do" in call("data check clips.csv --jobs 1").out
    assert "1 of 8 clips have no visual" in call(f"extract clips.csv --out s {ENCODERS}").err
    assert "1 of 8 clips have no visual" in refusal(f"run s 2 --out runs {TRAINING}")


def test_sounds_only(clips: Path) -> None:
    for number, path in enumerate(sorted(clips.rglob("*.mp4"))):
        write_clip(path, number, picture=False)
    imported()
    assert "no clip has visual files" in call(f"extract clips.csv --out s {ENCODERS}").err
    assert "no visual features in this store, only audio; set modality to 'audio'" in refusal("run s 2 --out runs")


def test_one_clip_in_a_class(clips: Path) -> None:
    write_clip(clips / "c" / "0.mp4", 99)
    assert "class 'c' has one clip only: nothing of it is left for testing" in imported()
    said = call("data check clips.csv --jobs 1")
    assert said.code == 2
    assert "error: class 'c' has no clip in test" in said.out
    call(f"extract clips.csv --out s {ENCODERS}")
    assert "s: class 'c' has no test clips; add some to the manifest" in refusal("run s 3 --out runs")


def test_one_class(clips: Path) -> None:
    shutil.rmtree(clips / "b")
    imported()
    said = call("data check clips.csv --jobs 1")
    assert said.code == 2
    assert "error: there is one class only, 'a'; at least 2 are needed" in said.out
    call(f"extract clips.csv --out s {ENCODERS}")
    assert "s: a scenario needs at least 2 classes" in refusal("run s 1 --out runs")


@pytest.mark.parametrize(("wrong", "right"), [("splt", "split"), ("lable", "label"), ("vidoe", "video"), ("idd", "id")])
@pytest.mark.parametrize(
    "command", ["data check m.csv", "extract m.csv --out s", "data import table m.csv --out out.csv"]
)
def test_a_manifest_with_a_wrong_column(wrong: str, right: str, command: str) -> None:
    Path("m.csv").write_text("id,label,split,video\n1,a,train,1.mp4\n".replace(right, wrong, 1))
    assert f"m.csv: unknown column '{wrong}'. Did you mean '{right}'?" in refusal(command)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id,label,split,video\n1,a,trian,x.mp4\n",
            "row 1, column 'split': unknown split 'trian'. Did you mean 'train'?",
        ),
        ("id,label,split,video\n1,,train,x.mp4\n", "row 1, column 'label' is empty"),
        ('a,b\n"1,2\n3', "cannot be read as a table"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_manifest_that_cannot_be_read(content: str, message: str) -> None:
    Path("m.csv").write_text(content)
    assert f"m.csv: {message}" in refusal("data check m.csv")


def test_a_store_of_another_encoder(clips: Path) -> None:
    imported()
    assert call(f"extract clips.csv --out s {ENCODERS}").code == 0
    other = refusal("extract clips.csv --out s --encoders '{builtin: {frames: 3}}' --jobs 1")
    assert "s: a store was begun here with other encoders; choose another folder or remove this one" in other


def test_a_learner_is_given_features_of_another_encoder() -> None:
    learner = Learner(memory=12, training=tiny.TRAINING)
    learner.learn(tiny.clips(0, 3), "abc", tiny.clips(0, 3, seed=2))
    learner.save("learner")
    before = tree(Path())
    loaded, other = Learner.load("learner"), tiny.clips(3, 6)
    assert other.audio is not None
    assert other.visual is not None
    wrong = type(other)(other.audio[:, :5], other.visual, other.labels)
    for use in (lambda: loaded.predict(wrong.audio, wrong.visual), lambda: loaded.learn(wrong, "def", wrong)):
        with pytest.raises(McilError, match="encode the clips as it was taught, or begin a new learner"):
            use()
    assert loaded.class_names == ("a", "b", "c")
    assert tree(Path()) == before


def test_a_run_whose_store_changed_begins_anew(store: Path) -> None:
    assert call(f"run store 3 --out runs {TRAINING}").code == 0
    first = tree(Path("runs"))
    shutil.rmtree(store)
    tiny.make_store(store, seed=5)
    assert call(f"run store 3 --out runs {TRAINING}").code == 0
    second = tree(Path("runs"))
    assert len(list(Path("runs").iterdir())) == 2
    assert first.items() <= second.items()


def test_a_damaged_store(store: Path) -> None:
    shard = store / "shards" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert "00000.safetensors" in refusal(f"run store 3 --out runs {TRAINING}")
    os.truncate(shard, 100)
    assert "00000.safetensors" in refusal("run store 3 --out other")


def test_files_of_a_run_that_are_cut_short(store: Path) -> None:
    command = f"run store 3 --out runs {TRAINING}"
    assert call(command).code == 0
    (run,) = Path("runs").iterdir()
    for content in ('{"method": ', "{}", "[]"):
        (run / "result.json").write_text(content)
        assert "result.json" in refusal(command)
        assert "result.json" in refusal("report runs")
    (run / "result.json").unlink()
    assert "this run is not finished; start it again with the same command" in refusal("report runs")
    os.truncate(run / "learner" / "learner.safetensors", 300)
    said = call(command)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "learner.safetensors: this learner is damaged" in said.err
    # As after a stop in the second task.
    shutil.rmtree(run / "learner")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "task-0-training.safetensors").write_bytes(b"half")
    said = call(command)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "task-0-training.safetensors: this checkpoint is damaged" in said.err
    assert "delete it and run the command again" in said.err


CONFIG = "store: store\ntasks: 3\nout: runs\nmemory: 12\n"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("metod: oracle\n", "no option 'metod'. Did you mean 'method'?"),
        ("trainin: {epochs: 2}\n", "no option 'trainin.epochs'. Did you mean 'training.epochs'?"),
        ("training: {epochz: 2}\n", "no option 'training.epochz'. Did you mean 'training.epochs'?"),
        ("options: {temprature: 1}\n", "method 'av-cil' has no option 'temprature'. Did you mean 'temperature'?"),
        ("options: {temperature: hot}\n", "option 'temperature' must be of type float, but it is 'hot'"),
        ("options: [1]\n", "c.yaml: options: it must be of type dict"),
        ("training: {epochs: many}\n", "c.yaml: training.epochs: it must be of type int, not many"),
        ("training: {epochs: null}\n", "training: epochs must be of type int"),
        ("training: 3\n", "training: it must be a mapping of options to values, not 3"),
        ("modality: sound\n", "c.yaml: modality: it must be one of 'audio', 'visual', 'audio-visual', not sound"),
        ("seeds: [0, x]\n", "c.yaml: seeds: it must be of type int, Sequence[int], str, not [0, 'x']"),
        ("a: [1\n", "c.yaml: the configuration cannot be read as YAML"),
    ],
)
def test_a_configuration_with_a_mistake(store: Path, added: str, message: str) -> None:
    Path("c.yaml").write_text(CONFIG + added)
    assert message in refusal("run --config c.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "is no YAML mapping"),
        (b"just text", "is no YAML mapping"),
        (b"", "is no YAML mapping"),
        (b"\x00\x01", "cannot be read as YAML"),
        (b"\xff\xfe\x00\x80", "is no text file"),
    ],
)
def test_a_file_that_is_no_configuration(content: bytes, message: str) -> None:
    Path("c.yaml").write_bytes(content)
    assert f"c.yaml: the configuration {message}" in refusal("run --config c.yaml")


def test_a_configuration_that_does_not_exist() -> None:
    assert "nope.yaml" in refusal("run --config nope.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", f"no command; choose one of {', '.join(COMMANDS)}. See: mcil --help"),
        ("rum", f"there is no command 'rum' (choose from {', '.join(map(repr, COMMANDS))}). Did you mean 'run'?"),
        ("data chek x", "Did you mean 'check'? See: mcil data --help"),
        ("data import foldr a b", "Did you mean 'folder'?"),
        ("run", "required: store, tasks. See: mcil run --help"),
        ("run store 3 --metod x", "--metod x. Did you mean 'method'?"),
        ("run store 3 --trainin.epochs 3", "Did you mean 'training.epochs'?"),
        ("run store 3 4", "no option or place for 4"),
        ("run store 3 --method av-cill", "there is no method 'av-cill'. Did you mean 'av-cil'?"),
        ("run store 3 --options.temprature 1", "Did you mean 'temperature'?"),
        ("run store 3 --training.epochs 0", "epochs must be 1 or more"),
        ("run store 3 --training.protocol strickt", "it must be one of 'strict', 'published', 'last', not strickt"),
        ("run store x", "tasks: it must be of type int, Sequence[int], not x"),
        ("run store 99", "99 tasks of 6 classes are not possible"),
        ("run store [3,2]", "add up to 5, but the store has 6 classes"),
        ("run nope 3", "nope: no feature store here"),
        ("run . 3", ".: this folder is no feature store"),
        ("run store 3 --seeds a..b", "cannot read the seeds 'a..b'"),
        ("run store 3 --seeds 0,0", "each only once"),
        ("run store 3 --seeds 4..1", "at least one"),
        ("run store 3 --seeds=-1", "the seeds -1 must be 0 or more"),
        ("run store 3 --jobs 0", "jobs must be 1 or more"),
        ("run store 3 --memory 1", "set memory to 6 or more"),
        ("run store 3 --class_order [a,b,c,d,e,g]", "names 'g', which is not in the store"),
        ("extract nope.csv", "nope.csv: no such file"),
        ("extract m.csv --encoders bultin", "there is no encoder 'bultin'. Did you mean 'builtin'?"),
        ("extract m.csv --encoders '{builtin: {frame: 2}}'", "has no option 'frame'. Did you mean 'frames'?"),
        ("extract m.csv --encoders '{builtin: {frames: x}}'", "option 'frames' must be of type int, but it is 'x'"),
        ("extract m.csv --encoders '{builtin: 3}'", "cannot read the encoders"),
        ("extract m.csv --dtype int8", "it must be one of 'auto', 'float32', 'float16', 'bfloat16', not int8"),
        ("extract m.csv --jobs 0", "jobs must be 1 or more"),
        ("data check m.csv --jobs 0", "jobs must be 1 or more"),
        ("data make made --jobs 0", "jobs must be 1 or more"),
        ("data make made --classes 99", "choose 3 to 36"),
        ("data make store", "store: holds other files"),
        ("data import folder store --out out.csv --source '('", "is no regular expression"),
        ("demo --jobs 0", "jobs must be 1 or more"),
        ("demo --epochs 0", "epochs must be 1 or more"),
        ("report", "required: runs. See: mcil report --help"),
        ("report nope", "nope: there is no such folder"),
        ("report store", "store: this is no run folder and holds none"),
        ("report store --ot x", "Did you mean 'out'?"),
    ],
)
def test_a_call_with_a_mistake(store: Path, line: str, message: str) -> None:
    Path("m.csv").write_text("id,label,split,video\n1,a,train,1.mp4\n")
    assert message in refusal(line)


@pytest.mark.parametrize("place", ["/proc/nowhere", "file/below", "file"])
def test_where_nothing_can_be_written(store: Path, clips: Path, place: str) -> None:
    Path("file").write_text("in the way")
    imported()
    np.savez("a.npz", audio=np.zeros((4, 3)), y=np.array([0, 0, 1, 1]), split=np.array([0, 2, 0, 2]))
    lines = [f"run store 3 --out {place}", f"extract clips.csv --out {place} {ENCODERS}", f"data make {place}"]
    lines += [f"data import arrays a.npz --out {place}", f"data import folder clips --out {place}/m.csv"]
    for line in lines:
        assert f"cannot write {place}" in refusal(line), line


def test_a_report_where_nothing_can_be_written(store: Path) -> None:
    assert call(f"run store 3 --out runs {TRAINING}").code == 0
    assert "cannot write /proc/nowhere" in refusal("report runs --out /proc/nowhere")


def test_arrays_that_do_not_fit() -> None:
    whole = {"audio": np.zeros((4, 3)), "y": np.array([0, 0, 1, 1]), "split": np.array([0, 2, 0, 2])}
    np.savez("a.npz", **whole | {"audio": np.array([{"a": 1}] * 4, dtype=object)})
    assert "a.npz: cannot be read as a NumPy archive (.npz) without pickles" in refusal(
        "data import arrays a.npz --out s"
    )
    np.savez("b.npz", audio=whole["audio"], y=whole["y"], splt=whole["split"])
    assert "b.npz: no array 'split' for split. Did you mean 'splt'?" in refusal("data import arrays b.npz --out s")
    np.savez("c.npz", **whole | {"split": np.full(4, 7)})
    assert "split has the number 7, but there are 3 names for it" in refusal("data import arrays c.npz --out s")
    np.save("d.npy", np.zeros(3))
    assert "d.npy: holds one array without a name" in refusal("data import arrays d.npy --out s")
    Path("e.npz").write_bytes(Path("a.npz").read_bytes()[:100])
    assert "e.npz: cannot be read as a NumPy archive" in refusal("data import arrays e.npz --out s")


def test_a_store_of_another_version(store: Path) -> None:
    card = read_json(store / "card.json", "card")
    write_json(store / "card.json", card | {"version": 99})
    assert "format version 99" in refusal("run store 3")
    (store / "card.json").write_text(json.dumps({"format": "something else"}))
    assert "card.json does not describe a feature store" in refusal("run store 3")
