import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcil.data.scenario import Scenario
from mcil.data.shards import ArraySpec
from mcil.data.store import FeatureStore
from mcil.data.writer import StoreWriter
from mcil.errors import McilError
from mcil.types import ClipRecord

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def make_store(path: Path, leave_out: tuple[str, str] | None = None, names: list[str] = NAMES) -> FeatureStore:
    clips = [
        (name, split) for split in ("test", "train", "val", "train") for name in names if (name, split) != leave_out
    ]
    labels, splits = zip(*clips, strict=True)
    return FeatureStore.write(path, labels=labels, splits=splits, audio=np.ones((len(clips), 2)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_store(tmp_path_factory.mktemp("scenario") / "s")


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two classes, 4 clips each; the last clip of each has no visual."""
    records = [ClipRecord(f"{n}{i}", n, "test" if i == 0 else "train") for n in "ab" for i in range(4)]
    path = tmp_path_factory.mktemp("scenario") / "p"
    specs = {"audio": ArraySpec((2,), "float32"), "visual": ArraySpec((1, 1, 2), "float32")}
    with StoreWriter(path, specs, records, {}) as writer:
        seen = [i < 3 for _ in "ab" for i in range(4)]
        tensors = {"audio": torch.ones(8, 2), "visual": torch.zeros(8, 1, 1, 2)}
        writer.write(0, list(range(8)), tensors, [True] * 8, seen)
        writer.finish()
    return FeatureStore(path)


@given(
    tasks=st.integers(1, 5) | st.sampled_from([[3, 2], [1, 1, 3], [5], [1, 4]]),
    seed=st.none() | st.integers(0, 99),
)
def test_tasks_divide_classes_and_rows(store: FeatureStore, tasks: int | list[int], seed: int | None) -> None:
    scenario = Scenario(store, tasks, seed=seed, modality="audio")
    assert sorted(scenario.class_names) == NAMES
    assert [name for task in scenario.tasks for name in task.class_names] == list(scenario.class_names)
    sizes = [len(task.class_names) for task in scenario.tasks]
    if isinstance(tasks, int):
        assert len(sizes) == tasks
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)
    else:
        assert sizes == tasks
    everything = []
    for index, task in enumerate(scenario.tasks):
        assert task.index == index
        assert task.old_classes == sum(sizes[:index])
        for split, rows in (("train", task.train), ("val", task.val), ("test", task.test)):
            everything += rows.tolist()
            for row in rows:
                assert store.splits[row] == split
                assert store.labels[row] in task.class_names
                assert scenario.class_names[int(scenario.class_ids(np.array([row]))[0])] == store.labels[row]
    assert sorted(everything) == list(range(len(store)))


def test_orders(store: FeatureStore) -> None:
    assert Scenario(store, 2, modality="audio").class_names == tuple(NAMES)
    order = ["dog", "ant", "eel", "bee", "cat"]
    scenario = Scenario(store, 2, order=order, modality="audio")
    assert scenario.class_names == tuple(order)
    assert scenario.tasks[0].class_names == ("dog", "ant", "eel")
    shuffled = [Scenario(store, 2, seed=seed, modality="audio").class_names for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": [2, 2]}, "add up to 4, but the store has 5 classes"),
        ({"tasks": [5, 0]}, "at least one class"),
        ({"tasks": []}, "at least one class"),
        ({"tasks": 6}, "6 tasks of 5 classes"),
        ({"tasks": 0}, "0 tasks of 5 classes"),
        ({"order": ["ant", "be", "cat", "dog", "eel"]}, "'be', which is not in the store. Did you mean 'bee'"),
        ({"order": NAMES[:4]}, "lacks 'eel'"),
        ({"order": [*NAMES, "ant"]}, "'ant' twice"),
        ({"order": NAMES, "seed": 1}, "not both"),
        ({"modality": "audio-visual"}, "no visual features in this store, only audio"),
    ],
)
def test_wishes_that_do_not_fit(store: FeatureStore, arguments: dict, message: str) -> None:
    with pytest.raises(McilError, match=message):
        Scenario(store, **{"tasks": 2, "modality": "audio", **arguments})


def test_stores_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(McilError, match="needs at least 2 classes; this store has 1"):
        Scenario(make_store(tmp_path / "one", names=["ant"]), 1, modality="audio")
    with pytest.raises(McilError, match="class 'cat' has no training clips"):
        Scenario(make_store(tmp_path / "train", ("cat", "train")), 2, modality="audio")
    with pytest.raises(McilError, match="class 'dog' has no test clips"):
        Scenario(make_store(tmp_path / "test", ("dog", "test")), 2, modality="audio")
    without_val = Scenario(make_store(tmp_path / "val", ("dog", "val")), 5, modality="audio")
    assert [len(task.val) for task in without_val.tasks] == [1, 1, 1, 0, 1]


def test_clips_that_lack_a_modality(partial: FeatureStore) -> None:
    with pytest.raises(McilError, match=r"2 of 8 clips have no visual \(first: 'a3'\)"):
        Scenario(partial, 2)
    assert [len(task.train) for task in Scenario(partial, 2, missing="drop").tasks] == [2, 2]
    assert [len(task.train) for task in Scenario(partial, 2, missing="zeros").tasks] == [3, 3]
    assert [len(task.train) for task in Scenario(partial, 2, modality="audio").tasks] == [3, 3]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"modality": "audiovisual"}, "modality must be one of audio, visual, audio-visual, not 'audiovisual'"),
        ({"missing": "skip"}, "missing must be one of error, drop, zeros, not 'skip'"),
    ],
)
def test_unknown_wishes_are_refused(tmp_path: Path, wish: dict[str, Any], said: str) -> None:
    store = FeatureStore.write(
        tmp_path / "store", labels=list("aabb"), splits=["train", "test"] * 2, audio=np.zeros((4, 3))
    )
    with pytest.raises(McilError, match=re.escape(said)):
        Scenario(store, 2, **wish)
