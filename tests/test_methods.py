"""What every registered method must do: the contract that a new method is held to by being there.

What each is given stands in `tests/tiny_methods.py`.
A method that lives elsewhere is held to it too: `pytest tests/test_methods.py -p my_method -k my-method`.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mcil.training.engine
import tiny
from mcil.data.sampler import generator
from mcil.data.scenario import Scenario
from mcil.data.store import FeatureStore
from mcil.errors import McilError
from mcil.experiment import Experiment
from mcil.experiment.folder import RunFolder
from mcil.experiment.single import run_single
from mcil.files import read_tensors
from mcil.learner import Learner
from mcil.memory import SELECTORS
from mcil.methods import METHODS, GradientMethod, Method, create_method
from mcil.models import AudioVisualNet
from mcil.types import Batch, Modality, Rows
from tiny_methods import MEMORY, Given, given


class AuditedStore(FeatureStore):
    """A store that lets a learner read the current task only; ``task`` is moved on by the test."""

    def __init__(self, path: Path, old_train: bool, old_val: bool) -> None:
        super().__init__(path)
        self.task = 0
        self.allowed_old = {"test", *(["train"] if old_train else []), *(["val"] if old_val else [])}
        self.task_of = [task.index for task in Scenario(FeatureStore(path), tiny.SIZES).tasks for _ in task.class_names]
        self.reads = 0

    def read(self, name: Literal["audio", "visual"], rows: Rows) -> Tensor:
        for row in rows.tolist():
            task = self.task_of["abcdef".index(self.labels[row])]
            assert task <= self.task, f"row {row} of the later task {task} was read in task {self.task}"
            assert task == self.task or self.splits[row] in self.allowed_old, f"old {self.splits[row]} row {row}"
        self.reads += len(rows)
        return super().read(name, rows)


@dataclasses.dataclass(frozen=True)
class Audited(Experiment):
    """An experiment that is given an audited store."""

    audited: list[AuditedStore] = dataclasses.field(default_factory=list)

    def open_store(self) -> AuditedStore:
        return self.audited[0]

    def config(self) -> dict[str, Any]:
        return {"method": self.method}


@dataclasses.dataclass(frozen=True)
class Learnt:
    """One method's run over three unequal tasks, of which the last brings one class."""

    given: Given
    method: Method
    events: list[dict[str, Any]]
    result: dict[str, Any]
    folder: Path
    scenario: Scenario

    def learner(self) -> Learner:
        return Learner.load(self.folder / "learner")


def experiment(given: Given, **changes: Any) -> Experiment:
    values = {"method": given.name, "options": given.options, "memory": MEMORY, "training": given.training}
    return tiny.experiment(given.store, **values | changes)


def learn(given: Given, folder: Path, protocol: str = "strict", seed: int = 0) -> Learnt:
    method = create_method(given.name, given.options)
    audited = AuditedStore(given.store, method.cumulative, method.cumulative or protocol == "published")
    plain = experiment(given, training=dataclasses.replace(given.training, protocol=protocol), seed=seed)
    values = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    watched = Audited(**values, audited=[audited])
    events: list[dict[str, Any]] = []

    def note(event: dict[str, Any]) -> None:
        events.append(event)
        audited.task += event["event"] == "task"

    result = run_single(watched, RunFolder(folder), note)
    assert audited.reads > 0
    return Learnt(given, method, events, result, folder, watched.scenario())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what methods are given."""
    return tmp_path_factory.mktemp("given")


@pytest.fixture(scope="module", params=METHODS.names())
def learnt(request: pytest.FixtureRequest, made: Path, tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    return learn(given(request.param, made), tmp_path_factory.mktemp("methods") / "run")


def probabilities(learner: Learner, audio: Tensor | None, visual: Tensor | None) -> Tensor:
    return learner.predict(audio, visual).probabilities


def descends(method: Method, task: int) -> bool:
    """Return whether a method learns a task by gradient descent."""
    return isinstance(method, GradientMethod) and not (method.trains_once and task)


def test_it_learns_unequal_tasks_with_finite_losses_and_reads_no_old_row(learnt: Learnt) -> None:
    told = [event for event in learnt.events if event["event"] != "task"]
    trained = [task for task in range(len(tiny.SIZES)) if descends(learnt.method, task)]
    assert [(event["event"], event["task"]) for event in told] == [
        told_of
        for task in range(len(tiny.SIZES))
        for told_of in ([("epoch", task)] * learnt.given.training.epochs if task in trained else [("fit", task)])
    ]
    for event in told:
        if event["event"] == "fit":
            assert event["clips"] == tiny.COUNTS["train"] * tiny.SIZES[event["task"]]
            continue
        assert event["losses"]
        assert all(math.isfinite(loss) for loss in event["losses"].values())
        assert event["loss"] == pytest.approx(sum(event["losses"].values()))
    assert learnt.result["task_sizes"] == list(tiny.SIZES)
    assert learnt.method.source


def test_nothing_that_it_keeps_or_predicts_is_not_a_number(learnt: Learnt) -> None:
    learner = learnt.learner()
    assert learner.network is not None
    assert all(tensor.isfinite().all() for tensor in learner.network.state_dict().values())
    confidence = pl.read_parquet(learnt.folder / "predictions.parquet")["confidence"]
    assert len(confidence)
    assert confidence.is_between(0, 1).all()


def test_it_learns_something(learnt: Learnt) -> None:
    assert learnt.result["accuracy_matrix"][0][0] > 50  # of three classes


def test_its_memory_stays_within_the_budget(learnt: Learnt) -> None:
    memory = learnt.learner().memory
    if not learnt.method.uses_memory:
        assert memory is None
        assert learnt.result["memory"] == 0
        return
    assert memory is not None
    assert [len(clips) for clips in memory.classes] == [MEMORY // tiny.CLASSES] * tiny.CLASSES
    assert learnt.result["memory"] == MEMORY


def test_shuffling_a_modality_changes_its_predictions_and_one_that_it_does_not_read_no_bit(learnt: Learnt) -> None:
    clips = learnt.scenario.clips(np.concatenate([task.test for task in learnt.scenario.tasks]))
    assert clips.audio is not None
    assert clips.visual is not None
    learner, turn = learnt.learner(), torch.arange(len(clips)).roll(5)
    together = probabilities(learner, clips.audio, clips.visual)
    sound = probabilities(learner, clips.audio[turn], clips.visual)
    changed = [probabilities(learner, clips.audio, clips.visual[turn])]
    if learnt.given.hears:
        changed.append(sound)
    else:
        assert torch.equal(sound, together)
    for shuffled in changed:
        # Of logarithms, since a method may be too sure of itself for probabilities to tell.
        change = together.clamp_min(1e-30).log() - shuffled.clamp_min(1e-30).log()
        assert change.abs().amax() > 1e-3
    assert set(learnt.result["shuffle_drop"]) == {"audio", "visual"}
    both = probabilities(learner, clips.audio[turn], clips.visual[turn])
    torch.testing.assert_close(both, together[turn])


def learn_next(given: Given, learner: Learner, checkpoint: Path | None = None, count: int = 8) -> list[dict[str, Any]]:
    """Let a learner learn the next of the tasks abc, de, f, and return what it told."""
    events: list[dict[str, Any]] = []
    old, names = len(learner.class_names), ("abc", "de", "f")[len(learner.task_sizes)]
    seen = old + len(names)
    train = given.clips(0 if learner.method.cumulative else old, seen, count)
    validation = given.clips(old, seen, 3, seed=2)
    learner.learn(train, names, validation, checkpoint, events.append, given.text[old:seen])
    return [{name: value for name, value in event.items() if name != "seconds"} for event in events]


@pytest.mark.parametrize("after", [1, 2])
def test_what_is_loaded_predicts_the_same_and_learns_on_the_same(learnt: Learnt, tmp_path: Path, after: int) -> None:
    """Stored logits, means of exemplars and whatever else a method keeps are saved with it."""
    given = learnt.given
    kept = given.learner()
    for _ in range(after):
        learn_next(given, kept)
    kept.save(tmp_path / "a")
    loaded = Learner.load(tmp_path / "a")
    assert tiny.saved(loaded, tmp_path / "b") == (tmp_path / "a" / "learner.safetensors").read_bytes()
    test = given.clips(0, len(kept.class_names), seed=3)
    for audio, visual in ((test.audio, test.visual), (test.audio, None), (None, test.visual)):
        assert torch.equal(probabilities(kept, audio, visual), probabilities(loaded, audio, visual))
    while len(kept.task_sizes) < 3:
        assert learn_next(given, kept) == learn_next(given, loaded)
        assert tiny.saved(kept, tmp_path / "c") == tiny.saved(loaded, tmp_path / "d")
    assert torch.equal(probabilities(kept, test.audio, test.visual), probabilities(loaded, test.audio, test.visual))


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(
    learnt: Learnt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every task: from the middle of an epoch, from its end, and from the middle of the next."""
    given = learnt.given
    if learnt.method.closed_form:  # a pass takes seconds, and is done again
        learn_next(given, given.learner(), tmp_path / "checkpoint")
        assert not (tmp_path / "checkpoint").exists()
        return
    training = dataclasses.replace(given.training, epochs=2, checkpoint_seconds=0.0, modality_dropout=0.5)
    learner = given.learner(training=training)
    for task in range(3):
        if not descends(learnt.method, task):  # as a closed form
            learn_next(given, learner, tmp_path / f"checkpoint-{task}", count=13)
            assert not (tmp_path / f"checkpoint-{task}").exists()
            continue
        before = tmp_path / f"before-{task}"
        if task:
            learner.save(before)
        with copied_checkpoints(monkeypatch, tmp_path / f"task-{task}") as checkpoints:
            whole = learn_next(given, learner, tmp_path / f"checkpoint-{task}", count=13)
        expected = tiny.saved(learner, tmp_path / "whole")
        steps = len(checkpoints) // training.epochs
        assert steps > 1
        for path, place in (
            (checkpoints[0], (0, 1)),
            (checkpoints[steps - 1], (0, steps)),
            (checkpoints[steps], (1, 1)),
        ):
            reached = read_tensors(path, "checkpoint")[1]["place"]
            assert (reached["epoch"], reached["step"]) == place
            again = Learner.load(before) if task else given.learner(training=training)
            assert learn_next(given, again, path, count=13) == whole[place[0] :]
            assert tiny.saved(again, tmp_path / "again") == expected


def test_a_run_that_dies_again_and_again_ends_with_the_same_bytes(learnt: Learnt, tmp_path: Path) -> None:
    """In the first task, in the second, between that and its keeping, in the last."""
    again = experiment(learnt.given)
    folder, told = RunFolder(tmp_path / "run"), sum(event["task"] == 0 for event in learnt.events)
    later = sum(event["task"] == 1 for event in learnt.events)

    class DiedError(Exception):
        pass

    for events in (1, told + 1, later, later + 1):
        left = iter(range(events - 1, -1, -1))

        def die(event: dict[str, Any], left: Iterator[int] = left) -> None:
            if next(left) == 0:
                raise DiedError

        with pytest.raises(DiedError):
            run_single(again, folder, die)
    result = run_single(again, folder, lambda event: None)
    assert result["accuracy_matrix"] == learnt.result["accuracy_matrix"]
    for file in ("learner/learner.safetensors", "predictions.parquet"):
        assert (folder.path / file).read_bytes() == (learnt.folder / file).read_bytes()


@contextmanager
def copied_checkpoints(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[list[Path]]:
    """Keep a copy of every checkpoint that training writes meanwhile."""
    kept: list[Path] = []
    write = mcil.training.engine.write_tensors

    def write_twice(path: Path, tensors: Any, metadata: Any) -> None:
        write(path, tensors, metadata)
        kept.append(folder / f"{len(kept):03d}.safetensors")
        write(kept[-1], tensors, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(mcil.training.engine, "write_tensors", write_twice)
        yield kept


def test_equal_seeds_give_equal_results_and_others_differ(learnt: Learnt, tmp_path: Path) -> None:
    same, other = (learn(learnt.given, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    for file in ("learner/learner.safetensors", "predictions.parquet"):
        assert (same.folder / file).read_bytes() == (learnt.folder / file).read_bytes()
        assert learnt.method.closed_form or (other.folder / file).read_bytes() != (learnt.folder / file).read_bytes()


@pytest.mark.parametrize("protocol", ["published", "last"])
def test_it_learns_by_every_protocol(learnt: Learnt, tmp_path: Path, protocol: str) -> None:
    again = learn(learnt.given, tmp_path / "run", protocol)
    accuracies = [event["validation_accuracy"] for event in again.events if event["event"] == "epoch"]
    assert bool(accuracies) != again.method.closed_form
    assert all((accuracy is None) == (protocol == "last") for accuracy in accuracies)


def test_it_learns_with_autocast(learnt: Learnt) -> None:
    learner = learnt.given.learner(training=dataclasses.replace(learnt.given.training, precision="bfloat16"))
    for _ in range(2):
        for event in learn_next(learnt.given, learner):
            assert math.isfinite(event.get("loss", 0))
    test = learnt.given.clips(0, 5, seed=3)
    assert probabilities(learner, test.audio, test.visual).isfinite().all()


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_it_learns_from_one_modality_or_says_that_it_cannot(learnt: Learnt, modality: Modality) -> None:
    given = learnt.given
    learner = given.learner(modality=modality)
    if modality not in given.modalities:
        with pytest.raises(McilError, match=f"method '{given.name}' .* use modality") as error:
            learn_next(given, learner)
        assert "\n" not in str(error.value)
        return
    for _ in range(3):
        for event in learn_next(given, learner):
            assert math.isfinite(event.get("loss", 0))
    test = given.clips(0, 6, seed=3)
    assert test.audio is not None
    assert test.visual is not None
    assert learner.attention(test.audio, test.visual) is None
    audio, visual = (test.audio, None) if modality == "audio" else (None, test.visual)
    alone = learner.predict(audio, visual)
    assert torch.equal(alone.probabilities, probabilities(learner, test.audio, test.visual))
    turned = learner.predict(*(None if array is None else array.roll(5, 0) for array in (audio, visual)))
    assert not torch.allclose(turned.probabilities, alone.probabilities)


FEATURES = [name for name in METHODS.names() if not METHODS[name].needs_weights]


def learn_changed(given: Given, change: Callable[[Batch], Batch], **changes: Any) -> tuple[Learner, Batch]:
    """Learn two tasks from clips that ``change`` made, with ``changes`` to the learner; return it, and test clips."""
    learner = given.learner(**changes)
    changed = dataclasses.replace(given, clips=lambda *args, **kwargs: change(given.clips(*args, **kwargs)))
    for _ in range(2):
        learn_next(changed, learner)
    return learner, changed.clips(0, 5, seed=3)


def learn_steps(given: Given, change: Callable[[Batch], Batch]) -> tuple[Tensor, Tensor]:
    """Learn two tasks from clips that ``change`` made: probabilities of test clips, and of their sounds alone."""
    learner, test = learn_changed(given, change)
    return probabilities(learner, test.audio, test.visual), probabilities(learner, test.audio, None)


@pytest.mark.parametrize("name", FEATURES)
def test_it_learns_from_sounds_of_several_steps_and_steps_that_are_absent_change_nothing(name: str, made: Path) -> None:
    def longer(clips: Batch) -> Batch:
        stepped = tiny.in_steps(clips)
        assert stepped.audio is not None
        return dataclasses.replace(stepped, audio=F.pad(stepped.audio, (0, 0, 0, 3)))

    said, alone = learn_steps(given(name, made), tiny.in_steps)
    assert said.isfinite().all()
    assert not torch.allclose(alone, alone.roll(8, 0))  # clips of other classes
    labels = given(name, made).clips(0, 5, seed=3).labels
    assert (said.argmax(dim=1) == labels).float().mean() > 0.4  # of five classes
    padded, _ = learn_steps(given(name, made), longer)
    torch.testing.assert_close(padded, said, rtol=0, atol=1e-5 if METHODS[name].closed_form else 1e-4)


@pytest.mark.parametrize("modality", ["audio-visual", "visual"])
@pytest.mark.parametrize("name", FEATURES)
def test_tokens_of_pictures_that_are_absent_change_nothing(name: str, modality: Modality, made: Path) -> None:
    """Those of further frames and, unless it is told where a token is, of further cells, among others.

    Dropout is left out: where there are more tokens it draws other numbers.
    """
    known = given(name, made)
    if "dropout" in {option.name for option in dataclasses.fields(METHODS[name])}:
        known = dataclasses.replace(known, options=known.options | {"dropout": 0.0})

    def gaps(clips: Batch) -> Batch:
        assert clips.visual is not None
        there = torch.rand(clips.visual.shape[:3], generator=generator(0)) > 0.3
        there[:, 0, 0] = True
        return dataclasses.replace(clips, visual=clips.visual * there[..., None])

    def larger(clips: Batch) -> Batch:
        visual = gaps(clips).visual
        assert visual is not None
        cells = 0 if known.places else 3
        return dataclasses.replace(clips, visual=F.pad(visual, (0, 0, 0, cells, 0, 2)))

    said, padded = (
        probabilities(learner, test.audio, test.visual)
        for learner, test in (learn_changed(known, change, modality=modality) for change in (gaps, larger))
    )
    assert said.isfinite().all()
    labels = known.clips(0, 5, seed=3).labels
    assert (said.argmax(dim=1) == labels).float().mean() > 0.4  # of five classes
    torch.testing.assert_close(padded, said, rtol=0, atol=1e-5 if METHODS[name].closed_form else 1e-4)


@pytest.mark.parametrize("name", FEATURES)
def test_a_sound_of_one_step_is_learnt_as_a_vector_is(name: str, made: Path) -> None:
    def one(clips: Batch) -> Batch:
        assert clips.audio is not None
        return dataclasses.replace(clips, audio=clips.audio[:, None])

    for step, vector in zip(
        *(learn_steps(given(name, made), change) for change in (one, lambda clips: clips)), strict=True
    ):
        assert torch.equal(step, vector)


@pytest.mark.parametrize("name", METHODS.names())
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(McilError, match=re.escape(f"method '{name}' has no option 'no_such'")) as error:
        create_method(name, {"no_such": 1})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "Did you mean 'temperature'? It has: selection, separated_softmax, "),
        ({"temperature": "hot"}, "option 'temperature' must be of type float, but it is 'hot'"),
        ({"temperature": True}, "must be of type float, but it is True"),
        ({"temperature": None}, "must be of type float, but it is None"),
        ({"class_normalization": "clips"}, "must be one of 'batch', 'positives', but it is 'clips'"),
    ],
)
def test_wrong_options_of_av_cil_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(McilError, match=re.escape(message)) as error:
        create_method("av-cil", options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "er",
            {"selection": "herdin"},
            "method 'er': option 'selection' must be one of 'random', 'herding', but it is",
        ),
        ("er", {"selection": None}, "must be one of 'random', 'herding', but it is None"),
        ("er", {"replay_weight": "1"}, "option 'replay_weight' must be of type float, but it is '1'"),
        ("icarl-fc", {"distillation": "triple"}, "must be one of 'single', 'double', but it is 'triple'"),
        ("icarl-nme", {"selecton": "random"}, "Did you mean 'selection'? It has: selection, distillation"),
        ("afc-lsc", {"nca": 1}, "option 'nca' must be one of 'code', 'paper', but it is 1"),
        ("afc-nme", {"proxies": 2.5}, "option 'proxies' must be of type int, but it is 2.5"),
        ("afc-nme", {"proxies": True}, "option 'proxies' must be of type int, but it is True"),
        ("afc-lsc", {"proxies": 0}, "method 'afc-lsc': option 'proxies' must be above 0, but it is 0"),
        ("av-cil", {"temperature": 0}, "option 'temperature' must be above 0, but it is 0.0"),
        ("ss-il", {"distillation_temperature": 0.0}, "option 'distillation_temperature' must be above 0"),
        ("er", {"replay_weight": -1}, "option 'replay_weight' must be 0 or more, but it is -1.0"),
        ("lwf", {"distillation_temperature": float("nan")}, "option 'distillation_temperature' must be above 0"),
        ("av-cil", {"separated_softmax": 0}, "option 'separated_softmax' must be of type bool, but it is 0"),
        ("der++", {"alpha": 0.5}, "It has: selection, logit_weight, replay_weight"),
        ("lwf", {"selection": "random"}, "It has: distillation_temperature"),
        ("sam-audio-cil", {"heads": 3}, "'sam-audio-cil': option 'heads' must divide the width 512, but it is 3"),
        ("sam-audio-cil", {"heads": 0}, "option 'heads' must be above 0, but it is 0"),
        ("sam-audio-cil", {"width": 0}, "option 'width' must be above 0, but it is 0"),
        ("sam-audio-cil", {"width": 64.0}, "option 'width' must be of type int, but it is 64.0"),
        ("sam-audio-cil", {"dropout": 1}, "option 'dropout' must be below 1, but it is 1.0"),
        ("sam-audio-cil", {"dropout": -0.1}, "option 'dropout' must be 0 or more, but it is -0.1"),
        ("sam-audio-cil", {"dropout": float("nan")}, "option 'dropout' must be 0 or more, but it is nan"),
        ("sam-audio-cil", {"distillation_temperature": 0}, "option 'distillation_temperature' must be above 0"),
        (
            "sam-audio-cil",
            {"fusion": "guide"},
            "must be one of 'guided', 'context', 'naive', 'audio', 'visual', 'avcil'",
        ),
        ("sam-audio-cil", {"positions": "cell"}, "must be one of 'time-cell', 'time', 'none', but it is 'cell'"),
        ("sam-audio-cil", {"cross_entropy": "separate"}, "must be one of 'unified', 'separated', but it is 'separate'"),
        (
            "sam-audio-cil",
            {"feature_loss": "l1"},
            "option 'feature_loss' must be one of 'cosine', 'mse', but it is 'l1'",
        ),
        ("sam-audio-cil", {"logit_clips": "new"}, "must be one of 'all', 'exemplars', but it is 'new'"),
        ("sam-audio-cil", {"logit_weights": 1.0}, "Did you mean 'logit_weight'? It has: selection, fusion, width, "),
        ("oracle", {"memory": 5}, "method 'oracle' has no option 'memory'. It has no options"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(McilError, match=re.escape(message)) as error:
        create_method(name, options)
    assert "\n" not in str(error.value)


REPLAY = [name for name in METHODS.names() if METHODS[name].uses_memory]


@pytest.mark.parametrize("name", REPLAY)
def test_every_method_with_exemplars_lets_them_be_chosen(name: str) -> None:
    for selection, selector in SELECTORS.items():
        method = create_method(name, {"selection": selection})
        assert isinstance(method, GradientMethod)
        assert method.selector is selector


@pytest.mark.parametrize("name", ["icarl-fc", "icarl-nme", "afc-lsc", "afc-nme"])
def test_methods_of_papers_with_herding_choose_by_herding(name: str) -> None:
    assert dataclasses.asdict(create_method(name))["selection"] == "herding"


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_exemplars_are_those_that_the_selection_takes(selection: str, made: Path) -> None:
    """Of each new class, by the features of the network that has just learnt it."""
    er = dataclasses.replace(given("er", made), options={"selection": selection})
    learner = er.learner()
    for task, (first, last) in enumerate(((0, 3), (3, 5))):
        learn_next(er, learner)
        assert learner.memory is not None
        train, quota = tiny.clips(first, last), MEMORY // last
        assert train.audio is not None
        assert isinstance(learner.network, AudioVisualNet)
        assert learner.scaler is not None
        with torch.no_grad():
            features = learner.network(*learner.scaler(train.audio, train.visual)).fused
        random = generator(learner.seed, "memory", task)
        for label in range(first, last):
            own = torch.nonzero(train.labels == label).flatten()
            expected = own[SELECTORS[selection](features[own], quota, random)]
            assert torch.equal(learner.memory.classes[label].audio, train.audio[expected])


def test_an_int_may_stand_for_a_float() -> None:
    method = create_method("av-cil", {"temperature": 1, "class_normalization": "positives"})
    assert dataclasses.asdict(method)["temperature"] == 1.0
    assert type(dataclasses.asdict(method)["temperature"]) is float


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(McilError, match=r"no method 'avcil'\. Did you mean 'av-cil'"):
        create_method("avcil")
