"""The training loop, through the learner that owns it: which epoch is kept, checkpoints, Ctrl-C."""

import dataclasses
import math
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mcil.training.engine
import tiny
from mcil.errors import McilError
from mcil.files import read_tensors
from mcil.learner import Learner
from mcil.models import AudioVisualNet, ProxyClassifier
from mcil.training import Interrupted, Protocol, TrainingOptions
from mcil.types import Batch, concatenate

EPOCHS = 8


def options(**changes: Any) -> TrainingOptions:
    return dataclasses.replace(tiny.TRAINING, **{"epochs": EPOCHS, "learning_rate": 0.03} | changes)


def second_task(
    training: TrainingOptions,
    validation: Batch | None = None,
    checkpoint: Path | None = None,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Learner:
    """Learn a first task by protocol "last", then a second one as asked."""
    learner = Learner(memory=12, training=dataclasses.replace(training, protocol="last", checkpoint_seconds=1e9))
    learner.learn(tiny.clips(0, 3), "abc")
    learner.training = training
    learner.learn(tiny.clips(3, 5), "de", validation, checkpoint, on_event)
    return learner


def accuracies(protocol: Protocol, validation: Batch | None) -> list[float | None]:
    events: list[dict[str, Any]] = []
    second_task(options(protocol=protocol), validation, on_event=events.append)
    assert [event["epoch"] for event in events] == list(range(EPOCHS))
    return [event["validation_accuracy"] for event in events]


def replay(training: TrainingOptions, validation: Batch, exemplars: bool, epochs: int) -> float:
    """Return the accuracy that a learner has on ``validation`` (and the exemplars) after ``epochs`` epochs."""
    training = dataclasses.replace(training, protocol="last")
    learner = Learner(memory=12, training=training)
    learner.learn(tiny.clips(0, 3), "abc")
    assert learner.memory is not None
    parts = [validation, *([learner.memory.clips] if exemplars else [])]
    learner.training = dataclasses.replace(training, epochs=epochs)
    learner.learn(tiny.clips(3, 5), "de")
    right = [learner.predict(part.audio, part.visual).labels == part.labels for part in parts]
    return 100 * torch.cat(right).float().mean().item()


@pytest.mark.parametrize(("protocol", "exemplars"), [("strict", True), ("published", False)])
def test_validation_accuracy_is_of_the_clips_that_the_protocol_names(protocol: Protocol, exemplars: bool) -> None:
    validation = tiny.clips(0 if protocol == "published" else 3, 5, count=3, seed=8)
    told = accuracies(protocol, validation)
    assert told == [replay(options(), validation, exemplars, epochs) for epochs in range(1, EPOCHS + 1)]
    assert accuracies("last", validation) == [None] * EPOCHS


@pytest.mark.parametrize("method", ["icarl-nme", "afc-nme"])
def test_epochs_are_compared_by_means_of_exemplars_where_these_classify(method: str) -> None:
    """Those that would be kept if the task ended there, and as that epoch's network sees them."""
    training = options(protocol="published", epochs=4)
    learner = Learner(method, memory=12, training=dataclasses.replace(training, protocol="last"))
    learner.learn(tiny.clips(0, 3), "abc")
    learner.training = training
    validation, events = tiny.clips(0, 5, count=20, seed=8), list[dict[str, Any]]()
    assert validation.audio is not None
    assert validation.visual is not None
    hard = (features + 3 * torch.randn_like(features) for features in (validation.audio, validation.visual))
    validation = Batch(*hard, validation.labels)
    learner.learn(tiny.clips(3, 5), "de", validation, on_event=events.append)
    told = [event["validation_accuracy"] for event in events]
    assert len(set(told)) > 1

    def after(epochs: int) -> float:
        again = Learner(method, memory=12, training=dataclasses.replace(training, protocol="last"))
        again.learn(tiny.clips(0, 3), "abc")
        again.training = dataclasses.replace(training, protocol="last", epochs=epochs)
        again.learn(tiny.clips(3, 5), "de")
        right = again.predict(validation.audio, validation.visual).labels == validation.labels
        return 100 * right.float().mean().item()

    assert told == [after(epochs) for epochs in range(1, 5)]


@pytest.mark.parametrize("protocol", ["strict", "published"])
def test_the_best_epoch_is_kept(protocol: Protocol) -> None:
    validation = tiny.clips(0 if protocol == "published" else 3, 5, count=3, seed=8)
    told = accuracies(protocol, validation)
    best = told.index(max(accuracy for accuracy in told if accuracy is not None))
    assert best > 0
    kept = network_of(second_task(options(protocol=protocol), validation))
    assert same_weights(kept, replay_network(best + 1))


@pytest.mark.parametrize("protocol", ["strict", "published"])
def test_the_earlier_epoch_wins_a_tie(protocol: Protocol) -> None:
    """With so small steps all epochs are equally good."""
    slow, events = options(protocol=protocol, learning_rate=1e-7), list[dict[str, Any]]()
    kept = network_of(second_task(slow, tiny.clips(3, 5, count=3, seed=8), on_event=events.append))
    assert len({event["validation_accuracy"] for event in events}) == 1
    assert same_weights(kept, replay_network(1, learning_rate=1e-7))
    assert not same_weights(kept, replay_network(EPOCHS, learning_rate=1e-7))


def replay_network(epochs: int, **changes: Any) -> dict[str, torch.Tensor]:
    """Return the network after ``epochs`` epochs of the second task."""
    learner = Learner(memory=12, training=options(protocol="last", **changes))
    learner.learn(tiny.clips(0, 3), "abc")
    learner.training = options(protocol="last", epochs=epochs, **changes)
    learner.learn(tiny.clips(3, 5), "de")
    return network_of(learner)


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def network_of(learner: Learner) -> dict[str, torch.Tensor]:
    assert learner.network is not None
    return learner.network.state_dict()


def test_the_last_epoch_is_kept_by_protocol_last() -> None:
    kept = network_of(second_task(options(protocol="last"), tiny.clips(3, 5)))
    assert same_weights(kept, replay_network(EPOCHS))


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("lwf", {"task_distillation"}),
        ("ss-il", {"task_distillation"}),
        ("av-cil", {"task_distillation", "spatial_attention", "temporal_attention"}),
        ("afc-lsc", {"discrepancy"}),
        ("afc-nme", {"discrepancy"}),
        ("der++", {"logit_replay"}),
    ],
)
def test_a_network_that_stays_where_it_is_agrees_with_its_teacher(method: str, terms: set[str]) -> None:
    """Clip by clip, however the batches are put together: each is compared with what was said of the same one."""
    learner = Learner(method, memory=13, training=options(protocol="last"))
    learner.learn(tiny.clips(0, 3), "abc")
    learner.training = options(protocol="last", epochs=2, learning_rate=0.0, weight_decay=0.0)
    for first, last in ((3, 5), (5, 6)):
        events: list[dict[str, Any]] = []
        learner.learn(tiny.clips(first, last), "abcdef"[first:last], on_event=events.append)
        for event in events:
            assert set(event["losses"]) >= terms
            for term in terms:
                assert event["losses"][term] == pytest.approx(0, abs=1e-5)


def test_icarl_holds_new_clips_and_exemplars_at_what_the_teacher_says_of_them() -> None:
    """All clips in one batch: the loss of the first step is that of the network which the last task left."""
    learner = Learner("icarl-fc", memory=12, training=options(protocol="last"))
    learner.learn(tiny.clips(0, 3), "abc")
    assert learner.memory is not None
    new, events = tiny.clips(3, 5), list[dict[str, Any]]()
    clips = concatenate([new, learner.memory.clips])
    assert isinstance(learner.network, AudioVisualNet)
    assert learner.scaler is not None
    with torch.no_grad():
        said = learner.network(*learner.scaler(clips.audio, clips.visual)).logits.sigmoid()
    learner.training = options(protocol="last", epochs=1, batch_size=1000)
    learner.learn(new, "de", on_event=events.append)
    entropy = -(said * said.log() + (1 - said) * (1 - said).log()).mean()
    assert events[0]["losses"]["distillation"] == pytest.approx(entropy.item(), rel=1e-5)


def test_proxies_of_old_classes_stay_and_new_ones_begin_at_clips_of_their_class() -> None:
    learner = Learner("afc-lsc", memory=12, training=options(protocol="last"))
    learner.learn(tiny.clips(0, 3), "abc")
    before = proxies(learner)
    learner.learn(tiny.clips(3, 5), "de")
    learnt = proxies(learner)
    assert before.shape == (30, tiny.VISUAL)
    assert torch.equal(learnt[:30], before)
    learner.training = options(protocol="last", epochs=1, learning_rate=0.0, weight_decay=0.0)
    train = tiny.clips(5, 6)
    assert isinstance(learner.network, AudioVisualNet)
    assert learner.scaler is not None
    with torch.no_grad():
        features = learner.network(*learner.scaler(train.audio, train.visual)).fused
    learner.learn(train, "f")
    new = proxies(learner)[50:]  # fewer clips than proxies: each is at one
    torch.testing.assert_close(new.norm(dim=1), learnt.norm(dim=1).mean().expand(10))
    cosines = torch.nn.functional.normalize(new, dim=1) @ torch.nn.functional.normalize(features, dim=1).T
    torch.testing.assert_close(cosines.amax(dim=1), torch.ones(10))


def proxies(learner: Learner) -> torch.Tensor:
    """Return the proxies of all classes, in their order."""
    assert isinstance(learner.network, AudioVisualNet)
    assert isinstance(learner.network.classifier, ProxyClassifier)
    return torch.cat([learner.network.classifier.old, learner.network.classifier.new]).detach().clone()


@pytest.mark.parametrize("protocol", ["strict", "published"])
@pytest.mark.parametrize("validation", [None, tiny.clips(0, 0), tiny.clips(0, 3)])
def test_missing_validation_clips_are_one_line(protocol: Protocol, validation: Batch | None) -> None:
    message = f"protocol '{protocol}' chooses the best epoch on validation clips, and there are none .* task 1"
    if protocol == "strict" and validation is not None and len(validation):
        message = r"validation clips have labels outside 3\.\.4"  # "strict" takes none of old classes
    with pytest.raises(McilError, match=message) as error:
        second_task(options(protocol=protocol), validation)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_stops_training_in_one_line() -> None:
    events: list[dict[str, Any]] = []
    learner = Learner(training=options(protocol="last", learning_rate=1e30))
    with pytest.raises(
        McilError, match=r"loss is no longer a finite number in epoch .* lower the learning rate"
    ) as error:
        learner.learn(tiny.clips(0, 3), "abc", on_event=events.append)
    assert "\n" not in str(error.value)
    assert all(math.isfinite(event["loss"]) for event in events)
    assert learner.class_names == ()


def test_gradients_are_clipped_to_the_norm() -> None:
    """Adam does not see a gradient's scale, but its weight decay does."""
    plain, clipped, huge = (
        network_of(second_task(options(protocol="last", clip_gradient=norm))) for norm in (0.0, 1e-4, 1e9)
    )
    assert all(torch.equal(plain[name], huge[name]) for name in plain)
    assert not all(torch.equal(plain[name], clipped[name]) for name in plain)


def test_bfloat16_learns_about_the_same() -> None:
    validation, test = tiny.clips(3, 5, 3, seed=8), tiny.clips(0, 5, seed=9)
    narrow = second_task(options(precision="bfloat16"), validation)
    assert {tensor.dtype for tensor in network_of(narrow).values()} == {torch.float32}
    found = narrow.predict(test.audio, test.visual).probabilities
    reference = second_task(options(), validation).predict(test.audio, test.visual).probabilities
    assert found.dtype == torch.float32
    assert 0 < (found - reference).abs().mean() < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, but it is 0"),
        ({"batch_size": -1}, "batch_size must be 1 or more"),
        ({"learning_rate": math.nan}, "learning_rate must be 0 or more, but it is nan"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be 0 or more"),
        ({"protocol": "best"}, "protocol must be one of 'strict', 'published', 'last', but it is 'best'"),
        ({"precision": "float8"}, "precision must be one of 'float32', 'bfloat16'"),
    ],
)
def test_options_that_make_no_sense_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(McilError, match=f"training: {message}"):
        TrainingOptions(**changes)


@pytest.mark.parametrize("device", ["cud", "cuda:x", "cuda:99", "cpu:5"])
def test_a_device_that_is_not_there_is_one_line(device: str) -> None:
    with pytest.raises(McilError, match=f"training: device '{device}'") as error:
        assert Learner(training=options(device=device)).device
    assert "\n" not in str(error.value)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Keeps a copy of every checkpoint that training writes."""
    kept: list[Path] = []
    write = mcil.training.engine.write_tensors

    def write_twice(path: Path, tensors: Any, metadata: Any) -> None:
        write(path, tensors, metadata)
        kept.append(tmp_path / f"{len(kept):03d}.safetensors")
        write(kept[-1], tensors, metadata)

    monkeypatch.setattr(mcil.training.engine, "write_tensors", write_twice)
    return kept


@pytest.mark.parametrize("protocol", ["strict", "last"])
def test_training_goes_on_from_every_checkpoint_to_the_same_bits(
    checkpoints: list[Path], tmp_path: Path, protocol: Protocol
) -> None:
    """In the middle of an epoch, at its end, and where the best network is replaced right after."""
    training, validation = options(epochs=4, protocol=protocol, checkpoint_seconds=0.0), tiny.clips(3, 5, 3, seed=8)
    whole: list[dict[str, Any]] = []
    expected = tiny.saved(second_task(training, validation, tmp_path / "whole", whole.append), tmp_path / "a")
    every = list(checkpoints)
    assert len(every) == 4 * (16 // 6)
    places = [read_tensors(path, "checkpoint")[1]["place"] for path in every]
    assert {place["step"] for place in places} == {1, 2}
    if protocol == "strict":
        assert len({place["best_epoch"] for place in places}) > 2  # some lie right before a better network
    for path, place in zip(every, places, strict=True):
        events: list[dict[str, Any]] = []
        assert tiny.saved(second_task(training, validation, path, events.append), tmp_path / "b") == expected
        assert [without_time(event) for event in events] == [without_time(event) for event in whole[place["epoch"] :]]


def without_time(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "seconds"}


def test_checkpoints_are_made_as_often_as_asked(checkpoints: list[Path], tmp_path: Path) -> None:
    second_task(options(protocol="last", checkpoint_seconds=1e9), checkpoint=tmp_path / "c")
    assert not checkpoints
    second_task(options(protocol="last", checkpoint_seconds=0.0))
    assert not checkpoints


def test_checkpoints_that_cannot_be_used_are_one_line(checkpoints: list[Path], tmp_path: Path) -> None:
    training = options(protocol="last", checkpoint_seconds=0.0, epochs=1)
    second_task(training, checkpoint=tmp_path / "c")
    whole, file = checkpoints[-1].read_bytes(), tmp_path / "broken"
    for content in (b"", whole[:7], whole[:300], whole[:-1], b"\x00" * 400):
        file.write_bytes(content)
        with pytest.raises(McilError, match=r"this checkpoint is damaged .*; delete it and run the command") as error:
            second_task(training, checkpoint=file)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(McilError, match="this checkpoint is of another task or version; delete it"):
        Learner(training=training).learn(tiny.clips(0, 3), "abc", checkpoint=checkpoints[-1])


@pytest.mark.parametrize("epoch", [0, 2, EPOCHS - 1])
def test_ctrl_c_saves_and_training_goes_on_to_the_same_bits(tmp_path: Path, epoch: int) -> None:
    """The event of an epoch is told after its last step: in the last epoch there is no step left to notice it."""
    training = options(protocol="strict", checkpoint_seconds=1e9)
    validation = tiny.clips(3, 5, 3, seed=8)
    handler = signal.getsignal(signal.SIGINT)

    def press(event: dict[str, Any]) -> None:
        if event["epoch"] == epoch:
            os.kill(os.getpid(), signal.SIGINT)

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        second_task(training, validation, checkpoint, press)
    assert signal.getsignal(signal.SIGINT) is handler
    assert checkpoint.exists()
    resumed = tiny.saved(second_task(training, validation, checkpoint), tmp_path / "a")
    assert resumed == tiny.saved(second_task(training, validation), tmp_path / "b")


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def press_twice(event: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stopped:
        second_task(options(protocol="last"), checkpoint=tmp_path / "c", on_event=press_twice)
    assert stopped.type is KeyboardInterrupt


def test_training_works_in_a_thread_that_cannot_listen_for_signals() -> None:
    learnt: list[Learner] = []
    thread = threading.Thread(target=lambda: learnt.append(second_task(options(protocol="last"))))
    thread.start()
    thread.join()
    assert len(learnt) == 1
