import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import tiny
from mcil.data.sampler import displaced
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.errors import McilError
from mcil.experiment import Run, run
from mcil.experiment.folder import EventLog, RunFolder
from mcil.experiment.single import run_single
from mcil.learner import Learner
from mcil.training import Interrupted, TrainingOptions

SHORT = dataclasses.replace(tiny.TRAINING, epochs=2)
TIMES = {"seconds", "finished", "peak_memory_mb", "hardware"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return tiny.make_store(tmp_path_factory.mktemp("experiment") / "store")


def start(store: FeatureStore, out: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {"tasks": tiny.SIZES, "memory": 12, "training": SHORT}
    (one,) = run(store.path, out=out, **settings | changes)
    return one


def refusal(store: FeatureStore, out: Path, **changes: Any) -> str:
    """Return the one line that stops a run; nothing may have been written."""
    with pytest.raises(McilError) as error:
        start(store, out, **changes)
    assert not out.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def finished(store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(store, tmp_path_factory.mktemp("experiment") / "runs", label="ours", seeds=[3])


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


EXPECTED_EVENTS = [
    event for task in range(3) for event in (("epoch", task, 0), ("epoch", task, 1), ("task", task, None))
]


def told(folder: Path) -> list[tuple[Any, ...]]:
    return [(event["event"], event["task"], event.get("epoch")) for event in events_of(folder)]


def test_a_run_folder_holds_what_it_should(finished: Run) -> None:
    expected = {"config.yaml", "events.jsonl", "learner/learner.safetensors", "predictions.parquet", "result.json"}
    assert set(files(finished.folder)) - {".lock"} == expected
    assert finished.folder.name.startswith("av-cil-audio-visual-seed3-")
    assert json.loads((finished.folder / "result.json").read_text()) == finished.result


def test_the_result_says_everything(finished: Run, store: FeatureStore) -> None:
    result = finished.result
    assert result["method"] == "av-cil"
    assert result["label"] == "ours"
    assert result["protocol"] == "strict"
    assert result["modality"] == "audio-visual"
    assert result["seed"] == 3
    assert result["memory"] == 12
    assert result["parameters"] == 2 * (8 * 12 + 12) + 2 * (12 * 12 + 12) + 6 * 12 + 6
    assert result["task_sizes"] == [3, 2, 1]
    assert result["class_names"] == list("abcdef")
    assert result["data"]["checksum"] == store.checksum
    assert result["data"]["store"] == str(store.path)
    assert result["data"]["clips"] == {split: 6 * count for split, count in tiny.COUNTS.items()}
    assert result["seconds"] > 0
    assert result["peak_memory_mb"] > 10
    assert result["versions"]["torch"] == torch.__version__
    assert {"python", "mcil", "numpy"} <= set(result["versions"])
    assert {"device", "cores", "threads"} <= set(result["hardware"])
    for name in ("mean_accuracy", "average_forgetting", "final_forgetting", "last_accuracy", "backward_transfer"):
        assert math.isfinite(result[name])
    assert [[cell is None for cell in row] for row in result["accuracy_matrix"]] == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert len(result["step_accuracy"]) == 3


def test_predictions_are_of_all_seen_test_clips_with_all_inputs(finished: Run, store: FeatureStore) -> None:
    table = pl.read_parquet(finished.folder / "predictions.parquet")
    assert table.columns == ["after_task", "inputs", "row", "clip", "label", "prediction", "confidence"]
    scenario = Scenario(store, tiny.SIZES)
    for task, seen in enumerate((3, 5, 6)):
        rows = np.concatenate([t.test for t in scenario.tasks[: task + 1]])
        for inputs in ("audio-visual", "audio", "visual", "audio-shuffled", "visual-shuffled"):
            part = table.filter((pl.col("after_task") == task) & (pl.col("inputs") == inputs))
            assert part["row"].to_list() == rows.tolist()
            assert part["clip"].to_list() == [store.ids[row] for row in rows]
            assert part["label"].to_list() == scenario.class_ids(rows).tolist()
            assert part["prediction"].is_between(0, seen - 1).all()
            assert part["confidence"].is_between(1 / seen, 1).all()
    right = table.filter((pl.col("after_task") == 2) & (pl.col("inputs") == "audio-visual"))
    assert finished.result["last_accuracy"] == pytest.approx(100 * (right["label"] == right["prediction"]).mean())


def test_the_kept_learner_makes_the_last_predictions(finished: Run, store: FeatureStore) -> None:
    learner = Learner.load(finished.folder / "learner")
    last = pl.read_parquet(finished.folder / "predictions.parquet").filter(
        (pl.col("after_task") == 2) & (pl.col("inputs") == "audio-visual")
    )
    clips = Scenario(store, tiny.SIZES).clips(last["row"].to_numpy())
    assert learner.predict(clips.audio, clips.visual).labels.tolist() == last["prediction"].to_list()


@pytest.mark.parametrize("method", ["fine-tuning", "ncm"])
def test_shuffled_predictions_are_of_clips_with_the_sound_or_picture_of_another(
    store: FeatureStore, tmp_path: Path, method: str
) -> None:
    """The same other one for every method with one seed."""
    run = start(store, tmp_path, method=method, seeds=[3])
    table = pl.read_parquet(run.folder / "predictions.parquet").filter(pl.col("after_task") == 2)
    true, audio, visual = (
        table.filter(pl.col("inputs") == inputs) for inputs in ("audio-visual", "audio-shuffled", "visual-shuffled")
    )
    learner, clips = Learner.load(run.folder / "learner"), Scenario(store, tiny.SIZES).clips(true["row"].to_numpy())
    assert clips.audio is not None
    assert clips.visual is not None
    other = displaced(len(clips), 3, "shuffle", 2)
    for part, alone in (
        (audio, learner.predict(clips.audio[other], clips.visual)),
        (visual, learner.predict(clips.audio, clips.visual[other.argsort()])),
    ):
        assert part.select("row", "label").equals(true.select("row", "label"))
        assert part["prediction"].to_list() == alone.labels.tolist()
        np.testing.assert_allclose(part["confidence"], alone.confidence, rtol=1e-5)
        assert part["prediction"].to_list() != true["prediction"].to_list()
    assert set(run.result["shuffle_drop"]) == {"audio", "visual"}
    right = {part["inputs"][0]: (part["label"] == part["prediction"]).mean() for part in (true, audio, visual)}
    for name, drop in run.result["shuffle_drop"].items():
        assert drop["last"] == pytest.approx(100 * (right["audio-visual"] - right[f"{name}-shuffled"]))


def test_a_single_test_clip_is_not_shuffled(tmp_path: Path) -> None:
    store = tiny.make_store(tmp_path / "store", tiny.COUNTS | {"test": 1})
    run = start(store, tmp_path / "runs", tasks=[1, 5], method="ncm")
    table = pl.read_parquet(run.folder / "predictions.parquet")
    assert set(table.filter(pl.col("after_task") == 0)["inputs"]) == {"audio-visual", "audio", "visual"}
    for drop in run.result["shuffle_drop"].values():
        assert drop["mean"] == drop["last"]


def test_events_are_complete_and_in_order(finished: Run) -> None:
    assert told(finished.folder) == EXPECTED_EVENTS
    for event in events_of(finished.folder):
        assert event["seconds"] >= 0
        if event["event"] == "epoch":
            assert event["loss"] == pytest.approx(sum(event["losses"].values()))
            assert 0 <= event["validation_accuracy"] <= 100
        else:
            assert event["test_clips"] == 4 * (3, 5, 6)[event["task"]]
    assert finished.result["seconds"] == pytest.approx(sum(e["seconds"] for e in events_of(finished.folder)), abs=1e-3)


def test_the_configuration_can_be_read(finished: Run, store: FeatureStore) -> None:
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert config["store"] == str(store.path)
    assert config["tasks"] == [3, 2, 1]
    assert config["method"] == "av-cil"
    assert config["seed"] == 3
    assert config["data_checksum"] == store.checksum
    assert TrainingOptions(**config["training"]) == SHORT


def test_a_finished_run_is_not_run_again(finished: Run, store: FeatureStore) -> None:
    before = {name: (finished.folder / name).stat().st_mtime_ns for name in files(finished.folder) if name != ".lock"}
    again = start(store, finished.folder.parent, label="ours", seeds=[3])
    assert again == finished
    assert before == {name: (finished.folder / name).stat().st_mtime_ns for name in before}


def test_different_settings_have_different_folders(store: FeatureStore, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"method": "oracle"},
        {"options": {"temperature": 0.1}},
        {"memory": 13},
        {"tasks": 3},
        {"modality": "audio"},
        {"class_seed": 1},
        {"class_order": list("fedcba")},
        {"normalize": "none"},
        {"label": "other"},
        {"training": dataclasses.replace(tiny.TRAINING, epochs=9)},
        {"training": dataclasses.replace(tiny.TRAINING, protocol="last")},
    ]
    names = [tiny.experiment(store.path, **change).name for change in changes]
    assert len(set(names)) == len(names)
    # Neither the place of the store nor how often progress is saved changes what comes out.
    often = tiny.experiment(store.path, training=dataclasses.replace(tiny.TRAINING, checkpoint_seconds=0.0))
    elsewhere = tiny.experiment(tiny.make_store(tmp_path / "copy").path)
    other_data = tiny.experiment(tiny.make_store(tmp_path / "other", seed=9).path)
    assert often.name == elsewhere.name == names[0] != other_data.name


def test_naming_a_run_reads_no_features(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it copy those that are mapped already."""
    experiment = tiny.experiment(store.path)
    scenario = experiment.scenario()
    scenario.clips(scenario.tasks[0].train)

    def copied(self: FeatureStore, memo: Any) -> Any:
        raise AssertionError("the store was copied")

    monkeypatch.setattr(FeatureStore, "__deepcopy__", copied, raising=False)
    assert experiment.name


def test_seeds_run_side_by_side_as_one_after_the_other(store: FeatureStore, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"tasks": tiny.SIZES, "method": "fine-tuning", "seeds": [0, 1], "training": SHORT}
    alone = run(store.path, out=tmp_path / "alone", **settings)
    together = run(store.path, out=tmp_path / "together", jobs=2, **settings)
    assert [one.result["seed"] for one in alone] == [0, 1]
    assert alone[0].result["step_accuracy"] != alone[1].result["step_accuracy"]
    for one, other in zip(alone, together, strict=True):
        assert one.folder.name == other.folder.name
        assert told(other.folder) == EXPECTED_EVENTS
        for file in ("predictions.parquet", "learner/learner.safetensors"):
            assert (one.folder / file).read_bytes() == (other.folder / file).read_bytes()
        assert {k: v for k, v in one.result.items() if k not in TIMES} == {
            k: v for k, v in other.result.items() if k not in TIMES
        }


def test_what_does_not_fit_is_said_before_anything_is_written(store: FeatureStore, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert "there is no method 'av-cill'. Did you mean 'av-cil'?" in refusal(store, out, method="av-cill")
    assert "Did you mean 'temperature'?" in refusal(store, out, options={"temprature": 1.0})
    assert "a memory of 5 clips cannot hold one clip of each of 6 classes" in refusal(store, out, memory=5)
    assert "add up to 4, but the store has 6" in refusal(store, out, tasks=[2, 2])
    assert "modality must be one of audio, visual, audio-visual" in refusal(store, out, modality="both")
    assert "jobs must be 1 or more" in refusal(store, out, jobs=0)
    wrong_device = dataclasses.replace(SHORT, device="tpu")
    assert "device 'tpu' is not on this machine" in refusal(store, out, training=wrong_device)
    with pytest.raises(McilError, match="no feature store here; check the path"):
        run(tmp_path / "nowhere", 2, out=out)


@pytest.mark.parametrize("protocol", ["strict", "published"])
def test_a_store_without_validation_clips_needs_protocol_last(tmp_path: Path, protocol: str) -> None:
    bare = tiny.make_store(tmp_path / "store", {"train": 8, "test": 2})
    training = dataclasses.replace(SHORT, protocol=protocol)
    message = refusal(bare, tmp_path / "runs", training=training)
    assert f"protocol '{protocol}' chooses the best epoch on validation clips, and task 0 ('a' ...) has none" in message
    done = start(bare, tmp_path / "runs", training=dataclasses.replace(SHORT, protocol="last"))
    assert all(event.get("validation_accuracy") is None for event in events_of(done.folder))


def test_no_permission_to_write_is_one_line(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(McilError, match=r"cannot write .*a part of the path is a file"):
        start(store, tmp_path / "file")


def _hold(folder: Path, held: Any, release: Any) -> None:
    with RunFolder(folder).locked():
        held.set()
        release.wait(60)


def test_a_run_that_another_process_works_on_is_one_line(store: FeatureStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    folder = tmp_path / tiny.experiment(store.path, training=SHORT, label="av-cil").name
    other = context.Process(target=_hold, args=(folder, held, release))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(McilError, match="another process is working on this run; wait for it") as error:
            start(store, tmp_path)
        assert str(folder) in str(error.value)
        assert files(folder) == [".lock"]
    finally:
        release.set()
        other.join()
    assert start(store, tmp_path).folder == folder


class Stopped(Exception):
    """Ends a run where a test wants it."""


def stop(store: FeatureStore, out: Path, when: Callable[[dict[str, Any]], bool]) -> RunFolder:
    """Begin a run like :func:`start` with frequent checkpoints and stop it at an event."""
    often = dataclasses.replace(SHORT, checkpoint_seconds=0.0)
    experiment = tiny.experiment(store.path, training=often, label="av-cil")
    folder = RunFolder(out / experiment.name)

    def tell(event: dict[str, Any]) -> None:
        if when(event):
            raise Stopped

    with pytest.raises(Stopped):
        run_single(experiment, folder, tell)
    return folder


def resume(store: FeatureStore, folder: RunFolder) -> Run:
    return start(store, folder.path.parent, training=dataclasses.replace(SHORT, checkpoint_seconds=0.0))


def in_second_task(event: dict[str, Any]) -> bool:
    return bool(event["task"] == 1 and event.get("epoch") == 1)


@pytest.mark.parametrize("torn", ["", '{"event": "epoch", "task": 1, "ep', '{"event": "epoch", "losses": {"a": 1.0}'])
def test_events_stay_complete_and_ordered_after_a_stop_and_a_torn_line(
    store: FeatureStore, tmp_path: Path, torn: str
) -> None:
    folder = stop(store, tmp_path, in_second_task)
    with (folder.path / "events.jsonl").open("a") as file:
        file.write(torn)
    done = resume(store, folder)
    assert told(done.folder) == EXPECTED_EVENTS
    assert "checkpoints" not in {path.name for path in done.folder.iterdir()}


def test_events_that_are_damaged_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "task", "task": 0}\nrubbish\n')
    with pytest.raises(McilError, match=r"events\.jsonl: these events are damaged .*; delete the file") as error:
        EventLog(tmp_path / "events.jsonl")
    assert "\n" not in str(error.value)


def test_what_is_done_again_replaces_what_was_said_of_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for epoch, seconds in ((0, 1.0), (1, 2.0), (2, 4.0)):
        log.append({"event": "epoch", "task": 0, "epoch": epoch, "seconds": seconds})
    log = EventLog(path)
    log.append({"event": "epoch", "task": 0, "epoch": 1, "seconds": 8.0})
    log.append({"event": "task", "task": 0, "seconds": 16.0})
    log.close()
    assert [event["seconds"] for event in events_of(tmp_path)] == [1.0, 8.0, 4.0, 16.0]
    assert EventLog(path).seconds == 29.0


@pytest.mark.parametrize(
    ("file", "kept", "message"),
    [
        ("checkpoints/task-1-training.safetensors", 300, "this checkpoint is damaged"),
        ("checkpoints/task-1-training.safetensors", 0, "this checkpoint is damaged"),
        ("checkpoints/task-0/learner.safetensors", 300, "this learner is damaged"),
        ("predictions.parquet", 300, "its predictions are damaged"),
        ("predictions.parquet", 3, "its predictions are damaged"),
    ],
)
def test_kept_files_that_are_cut_short_are_one_line(
    store: FeatureStore, tmp_path: Path, file: str, kept: int, message: str
) -> None:
    folder = stop(store, tmp_path, in_second_task)
    os.truncate(folder.path / file, kept)
    with pytest.raises(McilError, match=message) as error:
        resume(store, folder)
    assert str(folder.path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "delete" in str(error.value)


def test_a_result_that_is_damaged_is_one_line(store: FeatureStore, tmp_path: Path) -> None:
    done = start(store, tmp_path, method="fine-tuning")
    (done.folder / "result.json").write_text('{"method": ')
    with pytest.raises(McilError, match=r"result\.json: this result of a run cannot be read"):
        start(store, tmp_path, method="fine-tuning")


def test_unfinished_files_of_a_killed_process_are_removed(store: FeatureStore, tmp_path: Path) -> None:
    folder = stop(store, tmp_path, in_second_task)
    half = [folder.path / ".predictions.parquet.x.part", folder.learner_checkpoint(0) / ".learner.safetensors.x.part"]
    for path in half:
        path.write_bytes(b"half")
    folder.learner_checkpoint(1).mkdir()  # of a learner that was not written yet
    done = resume(store, folder)
    assert not [name for name in files(done.folder) if name.endswith(".part")]
    assert told(done.folder) == EXPECTED_EVENTS


def test_ctrl_c_ends_a_run_that_can_go_on(store: FeatureStore, tmp_path: Path, finished: Run) -> None:
    experiment = tiny.experiment(store.path, training=SHORT, label="av-cil", method="av-cil")
    folder = RunFolder(tmp_path / experiment.name)
    pressed: list[int] = []

    def press(event: dict[str, Any]) -> None:
        if in_second_task(event) and not pressed:
            pressed.append(1)
            os.kill(os.getpid(), 2)

    with pytest.raises(Interrupted):
        run_single(experiment, folder, press)
    assert folder.training_checkpoint(1).exists()
    assert not folder.result_file.exists()
    assert told(folder.path)[-1] == ("epoch", 1, 1)
    assert told(start(store, tmp_path).folder) == EXPECTED_EVENTS


def test_one_modality_and_one_task(store: FeatureStore, tmp_path: Path) -> None:
    done = start(store, tmp_path, tasks=1, modality="audio", method="fine-tuning")
    assert done.result["average_forgetting"] is None
    table = pl.read_parquet(done.folder / "predictions.parquet")
    assert set(table["inputs"]) == {"audio"}
    assert done.result["shuffle_drop"] == {}
    assert len(table) == 6 * tiny.COUNTS["test"]
