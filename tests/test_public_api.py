"""``import mcil`` as a program uses it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mcil
import tiny


@pytest.mark.parametrize("name", mcil.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mcil, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'learner_of_everything'"):
        _ = mcil.learner_of_everything


def test_importing_mcil_loads_nothing_heavy() -> None:
    check = "import sys, mcil; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'polars')))"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


def test_a_program_in_ten_lines(tmp_path: Path) -> None:
    tiny.make_store(tmp_path / "store")

    store = mcil.FeatureStore(tmp_path / "store")
    scenario = mcil.Scenario(store, tasks=3)
    learner = mcil.Learner("av-cil", memory=12, training=mcil.TrainingOptions(epochs=3, batch_size=6))
    for task in scenario.tasks:
        learner.learn(scenario.clips(task.train), task.class_names, scenario.clips(task.val))
    learner.save(tmp_path / "learner")
    test = scenario.clips(np.concatenate([task.test for task in scenario.tasks]))
    predicted = mcil.Learner.load(tmp_path / "learner").predict(test.audio, test.visual)
    right = 100 * (predicted.labels == test.labels).float().mean().item()

    assert learner.class_names == tuple("abcdef")
    assert predicted.probabilities.shape == (len(test), 6)
    assert 0 <= right <= 100
    assert predicted.labels.tolist() == learner.predict(test.audio, test.visual).labels.tolist()


def test_runs_and_metrics(tmp_path: Path) -> None:
    store = tiny.make_store(tmp_path / "store")
    options: dict[str, Any] = {"memory": 12, "training": tiny.TRAINING, "out": tmp_path / "runs"}
    one, two = mcil.run(store.path, 3, "fine-tuning", seeds="0..1", **options)
    assert [one.result["seed"], two.result["seed"]] == [0, 1]
    spread = mcil.metrics.mean_and_spread([one.result["mean_accuracy"], two.result["mean_accuracy"]])
    assert spread.mean == pytest.approx((one.result["mean_accuracy"] + two.result["mean_accuracy"]) / 2)


def test_mistakes_are_one_kind_of_error(tmp_path: Path) -> None:
    for mistake in (
        lambda: mcil.FeatureStore(tmp_path),
        lambda: mcil.Learner("av-cill"),
        lambda: mcil.Learner(options={"temprature": 1.0}),
        lambda: mcil.TrainingOptions(epochs="many"),
        lambda: mcil.create_encoders("bultin"),
    ):
        with pytest.raises(mcil.McilError) as error:
            mistake()
        assert "\n" not in str(error.value)
