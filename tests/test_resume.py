"""Real kills: a run that is killed at any moment and started again ends with the same bytes on a CPU."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mcil.experiment import run

METHODS = ("av-cil", "oracle", "afc-nme")
EVERY_STEP = dataclasses.replace(tiny.TRAINING, epochs=2, checkpoint_seconds=0.0)
TIMES = {"seconds", "finished", "peak_memory_mb"}

# Where a run kills itself: just before the n-th time that a file whose path ends so is put in its place, or removed.
KILLS = [
    ("os.rename", "config.yaml", 1),
    ("os.rename", "task-0-training.safetensors", 1),  # nothing kept yet
    ("os.rename", "task-0-training.safetensors", 3),  # in the first epoch
    ("os.rename", "task-0-training.safetensors", 5),  # the last step of an epoch, right before its validation
    ("os.rename", "predictions.parquet", 1),  # the task is learnt, not kept
    ("os.rename", "task-0/learner.safetensors", 1),  # its folder is there, its file is not
    ("os.remove", "task-0-training.safetensors", 1),  # the task is kept, what it makes superfluous too
    ("os.rename", "task-1-training.safetensors", 2),
    ("os.rename", "task-1/learner.safetensors", 1),
    ("os.rename", "task-2-training.safetensors", 1),
    ("os.rename", "task-2-training.safetensors", 1),
    ("os.remove", "task-2-training.safetensors", 1),
    ("os.rename", "learner", 1),
    ("os.rename", "result.json", 1),
]
UNDISTURBED = (0, "", "", 0)


def _run(store: Path, out: Path, method: str, signal_number: int, call: str, ending: str, count: int) -> None:
    """Run an experiment in this process, which sends itself a signal at a place as in KILLS (count 0: at none)."""
    torch.set_num_threads(1)
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == call and str(arguments[event == "os.rename"]).endswith(ending):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal_number)

    sys.addaudithook(watch)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        run(store, tiny.SIZES, method, out=out, memory=12, training=EVERY_STEP)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@pytest.fixture(scope="module")
def context() -> Any:
    """Processes that are forked from one that has everything imported, so that each starts at once."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["mcil.experiment", "sklearn.cluster", "tiny"])
    return server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_store(tmp_path_factory.mktemp("resume") / "store").path


def begin(context: Any, *arguments: Any) -> int:
    process = context.Process(target=_run, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return int(process.exitcode)


def outcome(out: Path) -> dict[str, Any]:
    """Return all that must be the same: every file's bytes, without the times in JSON."""
    (folder,) = out.iterdir()
    kept: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    kept["result.json"] = without_times(kept["result.json"])
    kept["events.jsonl"] = [without_times(line) for line in kept["events.jsonl"].splitlines()]
    return kept


def without_times(line: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name not in TIMES}


@pytest.fixture(scope="module", params=METHODS)
def uninterrupted(
    request: pytest.FixtureRequest, context: Any, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("resume") / "whole"
    assert begin(context, store, out, request.param, *UNDISTURBED) == 0
    return request.param, outcome(out)


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    context: Any, store: Path, tmp_path: Path, uninterrupted: tuple[str, dict[str, Any]]
) -> None:
    method, whole = uninterrupted
    for place in KILLS:
        assert begin(context, store, tmp_path, method, signal.SIGKILL, *place) == -signal.SIGKILL, place
    assert begin(context, store, tmp_path, method, *UNDISTURBED) == 0
    assert outcome(tmp_path) == whole
    assert {"predictions.parquet", "learner/learner.safetensors", "result.json"} <= set(whole)


@pytest.mark.parametrize("ending", ["task-0-training.safetensors", "task-2-training.safetensors"])
def test_ctrl_c_ends_cleanly_and_the_run_goes_on_to_the_same_bytes(
    context: Any, store: Path, tmp_path: Path, uninterrupted: tuple[str, dict[str, Any]], ending: str
) -> None:
    method, whole = uninterrupted
    assert begin(context, store, tmp_path, method, signal.SIGINT, "os.rename", ending, 2) == 130
    (folder,) = tmp_path.iterdir()
    assert (folder / "checkpoints" / ending).exists()
    assert not list(folder.rglob("*.part"))
    assert begin(context, store, tmp_path, method, *UNDISTURBED) == 0
    assert outcome(tmp_path) == whole


def await_file(folder: Path, name: str, process: subprocess.Popen[str]) -> None:
    """Wait until a run under ``folder`` has written a file called ``name``."""
    for _ in range(6000):
        if list(folder.glob(f"*/checkpoints/{name}")):
            return
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.01)
    raise AssertionError(f"no {name} after a minute")


def test_the_command_goes_on_after_a_kill_and_after_ctrl_c(store: Path, tmp_path: Path) -> None:
    """The same from outside, with signals at whatever moment they come."""
    training = dataclasses.replace(EVERY_STEP, epochs=15)
    command = [sys.executable, "-m", "mcil", "run", str(store), "[3,2,1]", "--memory", "12"]
    command += ["--out", str(tmp_path / "killed")]
    command += [f"--training.{name}={value}" for name, value in dataclasses.asdict(training).items()]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start()
    await_file(tmp_path / "killed", "task-0-training.safetensors", first)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    second = start()
    await_file(tmp_path / "killed", "task-1-training.safetensors", second)
    second.send_signal(signal.SIGINT)
    _, said = second.communicate(timeout=60)
    assert second.returncode == 130
    assert "Run the same command again to go on" in said
    assert "Traceback" not in said
    third = start()
    out, said = third.communicate(timeout=60)
    assert third.returncode == 0, said
    assert "av-cil-audio-visual-seed0-" in out
    run(store, tiny.SIZES, out=tmp_path / "whole", memory=12, training=training)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_ctrl_c_stops_runs_that_go_on_side_by_side_and_begins_no_other(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mcil", "run", str(store), "[3,2,1]", "--memory", "12", "--out", str(tmp_path)]
    command += ["--seeds", "0..2", "--jobs", "2", "--training.epochs", "5000", "--training.checkpoint_seconds", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    await_file(tmp_path, "task-0-training.safetensors", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again to go on" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("*-seed2-*"))
    assert not list(tmp_path.rglob("*.part"))
