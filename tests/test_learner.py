import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import tiny
from mcil.errors import McilError
from mcil.learner import Learner
from mcil.models import AudioVisualNet
from mcil.types import Batch

LAST = dataclasses.replace(tiny.TRAINING, protocol="last", epochs=2)


def fresh(**changes: Any) -> Learner:
    return Learner(**{"method": "av-cil", "memory": 12, "training": LAST} | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner that knows three classes."""
    learner = fresh(encoders={"audio": {"name": "ears"}})
    learner.learn(tiny.clips(0, 3), "abc")
    path = tmp_path_factory.mktemp("learner")
    learner.save(path)
    return path


def state(learner: Learner) -> dict[str, Tensor]:
    assert learner.network is not None
    return learner.network.state_dict()


def refused(learner: Learner, train: Batch, names: Any, validation: Batch | None = None) -> str:
    """Return the one line with which ``learner`` refuses a task; it must be left as it was."""
    before = (learner.class_names, learner.task_sizes, learner.network, learner.memory and len(learner.memory))
    with pytest.raises(McilError) as error:
        learner.learn(train, names, validation)
    assert before == (learner.class_names, learner.task_sizes, learner.network, learner.memory and len(learner.memory))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_says_what_it_knows(folder: Path) -> None:
    learner = Learner.load(folder)
    assert learner.class_names == ("a", "b", "c")
    assert learner.task_sizes == (3,)
    assert learner.encoders == {"audio": {"name": "ears"}}
    assert learner.token_shape == (tiny.FRAMES, tiny.PATCHES)
    assert learner.parameters == 2 * (8 * 12 + 12) + 2 * (12 * 12 + 12) + 3 * 12 + 3
    assert learner.device == torch.device("cpu")


def test_predictions_are_probabilities_whatever_the_batches(folder: Path) -> None:
    learner, clips = Learner.load(folder), tiny.clips(0, 3, count=7, seed=5)
    found = learner.predict(clips.audio, clips.visual)
    assert found.probabilities.shape == (21, 3)
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(21))
    assert torch.equal(found.labels, found.probabilities.argmax(dim=1))
    assert torch.equal(found.confidence, found.probabilities.amax(dim=1))
    assert (found.labels == clips.labels).float().mean() > 0.5
    learner.training = dataclasses.replace(LAST, evaluation_batch_size=1)
    torch.testing.assert_close(learner.predict(clips.audio, clips.visual).probabilities, found.probabilities)


def test_attention_sums_to_one(folder: Path) -> None:
    clips = tiny.clips(0, 3, count=4)
    assert clips.audio is not None
    assert clips.visual is not None
    attention = Learner.load(folder).attention(clips.audio, clips.visual)
    assert attention is not None
    assert attention.spatial.shape == (12, tiny.FRAMES, tiny.PATCHES)
    torch.testing.assert_close(attention.spatial.sum(dim=2), torch.ones(12, tiny.FRAMES))
    torch.testing.assert_close(attention.temporal.sum(dim=1), torch.ones(12))


@pytest.mark.parametrize("gone", ["audio", "visual"])
def test_a_modality_that_is_left_out_counts_as_the_mean_of_the_first_task(folder: Path, gone: str) -> None:
    learner, train, clips = Learner.load(folder), tiny.clips(0, 3), tiny.clips(0, 3, seed=5)
    arrays = {"audio": clips.audio, "visual": clips.visual}
    without = learner.predict(**arrays | {gone: None})
    array = train.audio if gone == "audio" else train.visual
    assert array is not None
    mean = array.reshape(-1, array.shape[-1]).mean(dim=0)
    with_mean = learner.predict(**arrays | {gone: mean.expand(24, *array.shape[1:])})
    torch.testing.assert_close(without.probabilities, with_mean.probabilities, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without.probabilities, learner.predict(**arrays).probabilities)


def test_no_clips_give_no_predictions(folder: Path) -> None:
    found = Learner.load(folder).predict(torch.empty(0, tiny.AUDIO))
    assert found.labels.shape == (0,)
    assert found.probabilities.shape == (0, 3)


def test_predictions_that_cannot_be_made_are_one_line(folder: Path) -> None:
    learner, clips = Learner.load(folder), tiny.clips(0, 3)
    assert clips.audio is not None
    assert clips.visual is not None
    with pytest.raises(McilError, match="this learner reads audio and visual; give it at least one of them"):
        learner.predict()
    with pytest.raises(
        McilError, match=r"audio features have shape \(7,\) a clip, and this learner learnt from \(8,\)"
    ):
        learner.predict(clips.audio[:, :7], clips.visual)
    with pytest.raises(McilError, match=r"visual features have shape \(1, 4, 12\) .* from \(2, 4, 12\)"):
        learner.predict(clips.audio, clips.visual[:, :1])
    with pytest.raises(McilError, match=r"visual features must be \(N,L,S,D\), N = 24, not \(24, 12\)"):
        learner.predict(clips.audio, clips.visual[:, 0, 0])
    with pytest.raises(McilError, match="N = 24, not"):
        learner.predict(clips.audio, clips.visual[:5])
    with pytest.raises(McilError, match="has not learnt anything yet; call learn first"):
        fresh().predict(clips.audio, clips.visual)
    with pytest.raises(McilError, match="has not learnt anything yet"):
        fresh().save(folder)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("x", "y", "x")])
def test_a_class_is_learnt_once(folder: Path, names: tuple[str, ...]) -> None:
    learner = Learner.load(folder)
    assert "named twice" in refused(learner, tiny.clips(3, 6), names)


def test_tasks_that_do_not_fit_are_one_line(folder: Path) -> None:
    learner, clips = Learner.load(folder), tiny.clips(3, 5)
    assert clips.audio is not None
    assert clips.visual is not None
    assert "at least one new class" in refused(learner, clips, ())
    assert "training clips have labels outside 3..3" in refused(learner, clips, "d")
    assert "training clips have labels outside 3..4" in refused(learner, tiny.clips(2, 5), "de")
    negative = dataclasses.replace(clips, labels=clips.labels - 4)
    assert "training clips have labels outside 3..4" in refused(learner, negative, "de")
    assert "validation clips have labels outside 0..4" in refused(learner, clips, "de", tiny.clips(4, 6))
    assert "class 5 has no training clips" in refused(learner, clips, "def")
    assert "class 3 has no training clips" in refused(learner, tiny.clips(4, 5), "de")
    assert "needs audio, and the training clips have none" in refused(
        learner, dataclasses.replace(clips, audio=None), "de"
    )
    no_looks = dataclasses.replace(clips, visual=None)
    assert "needs visual, and the validation clips have none" in refused(learner, clips, "de", no_looks)


def test_features_of_another_encoder_are_one_line(folder: Path) -> None:
    learner, clips = Learner.load(folder), tiny.clips(3, 5)
    assert clips.audio is not None
    assert clips.visual is not None
    narrow = dataclasses.replace(clips, audio=clips.audio[:, :5])
    assert "training audio features have shape (5,) a clip, and this learner learnt from (8,)" in refused(
        learner, narrow, "de"
    )
    for visual in (clips.visual[..., :5], clips.visual[:, :, :2], clips.visual[:, :1]):
        other = dataclasses.replace(clips, visual=visual)
        assert "training visual features have shape" in refused(learner, other, "de")
        assert "validation visual features have shape" in refused(learner, clips, "de", other)
    assert "(N,L,S,D)" in refused(fresh(), dataclasses.replace(tiny.clips(0, 2), visual=torch.ones(16, 12)), "ab")
    assert "N = 16" in refused(fresh(), dataclasses.replace(tiny.clips(0, 2), audio=torch.ones(3, 8)), "ab")


def test_a_memory_too_small_is_said_before_anything_is_trained() -> None:
    learner, events = fresh(memory=4), list[Any]()
    learner.learn(tiny.clips(0, 3), "abc")
    with pytest.raises(McilError, match="a memory of 4 clips cannot hold one clip of each of 5 classes"):
        learner.learn(tiny.clips(3, 5), "de", on_event=events.append)
    assert not events
    learner.learn(tiny.clips(3, 4), "d")
    assert learner.class_names == tuple("abcd")


def test_a_learner_of_unknown_settings_is_one_line() -> None:
    for changes, message in (
        ({"method": "oracel"}, r"no method 'oracel'\. Did you mean 'oracle'"),
        ({"options": {"weight": 1}}, "no option 'weight'"),
        ({"modality": "av"}, "modality must be one of audio, visual, audio-visual, but it is 'av'"),
        ({"normalize": "all"}, "normalize must be one of first-task, none, but it is 'all'"),
    ):
        with pytest.raises(McilError, match=message) as error:
            fresh(**changes)
        assert "\n" not in str(error.value)


def test_extra_arrays_and_old_weights_are_left_alone(folder: Path) -> None:
    """A one-modality learner ignores the other one; growing keeps the rows of old classes as they were."""
    clips = tiny.clips(0, 3)
    with_looks, without = fresh(modality="audio"), fresh(modality="audio")
    with_looks.learn(clips, "abc")
    without.learn(dataclasses.replace(clips, visual=None), "abc")
    assert all(torch.equal(a, b) for a, b in zip(state(with_looks).values(), state(without).values(), strict=True))
    still = Learner.load(folder)
    still.training = dataclasses.replace(LAST, learning_rate=0.0, weight_decay=0.0)
    before = {name: tensor.clone() for name, tensor in state(still).items()}
    still.learn(tiny.clips(3, 4), "d")
    for name, tensor in state(still).items():
        assert torch.equal(tensor[:3] if name.startswith("classifier") else tensor, before[name])


def test_features_are_scaled_by_the_first_task_only(folder: Path) -> None:
    """Old classes must look the same to the network after later tasks."""
    learner = Learner.load(folder)
    assert learner.scaler is not None
    before = {name: tensor.clone() for name, tensor in learner.scaler.state_dict().items()}
    learner.learn(tiny.clips(3, 5), "de")
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.scaler.state_dict().items())


def scored(learner: Learner, clips: Batch) -> tuple[Tensor, Tensor]:
    """Return fused features and logits of clips, by the learner's network itself."""
    assert isinstance(learner.network, AudioVisualNet)
    assert learner.scaler is not None
    with torch.no_grad():
        outputs = learner.network(*learner.scaler(clips.audio, clips.visual))
    return outputs.fused, outputs.logits


@pytest.mark.parametrize("method", ["icarl-nme", "afc-nme"])
def test_a_clip_belongs_to_the_nearest_mean_of_exemplars(method: str) -> None:
    """Means of the exemplars of all classes as the network sees them now, old classes included."""
    learner, test = fresh(method=method), tiny.clips(0, 5, seed=5)
    learner.learn(tiny.clips(0, 3), "abc")
    learner.learn(tiny.clips(3, 5), "de")
    assert learner.memory is not None
    assert learner.class_means is not None
    means = []
    for exemplars in learner.memory.classes:
        rows = scored(learner, exemplars)[0]
        means.append(torch.stack([row / row.norm() for row in rows]).sum(dim=0) / len(rows))
    torch.testing.assert_close(learner.class_means, torch.stack(means))
    queries = torch.stack([row / row.norm() for row in scored(learner, test)[0]])
    nearest = [min(range(5), key=lambda label: float((query - means[label]).norm())) for query in queries]
    found = learner.predict(test.audio, test.visual)
    assert found.labels.tolist() == nearest
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(len(test)))


def test_exemplars_keep_what_the_network_said_of_them_when_they_came() -> None:
    learner = fresh(method="der++", memory=13)
    learner.learn(tiny.clips(0, 3), "abc")
    assert learner.memory is not None
    said = [scored(learner, clips)[1] for clips in learner.memory.classes]
    learner.learn(tiny.clips(3, 5), "de")
    for label, clips in enumerate(learner.memory.classes):
        assert clips.logits is not None
        assert clips.logits.shape == (len(clips), 5)
        if label < 3:
            torch.testing.assert_close(clips.logits[:, :3], said[label][: len(clips)])
            assert clips.logits[:, 3:].isnan().all()
        else:
            torch.testing.assert_close(clips.logits, scored(learner, clips)[1])


@pytest.mark.parametrize("method", ["av-cil", "afc-lsc", "icarl-nme"])
def test_clips_of_one_token_are_learnt_and_training_on_them_goes_on(method: str, tmp_path: Path) -> None:
    """Attention has nothing to say of them: a part of the network gets no gradient."""

    def one_token(first: int, last: int) -> Batch:
        clips = tiny.clips(first, last)
        assert clips.visual is not None
        return dataclasses.replace(clips, visual=clips.visual[:, :1, :1])

    class StoppedError(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        raise StoppedError

    learners = []
    for checkpoint in (None, tmp_path / "checkpoint"):
        training = dataclasses.replace(LAST, checkpoint_seconds=0.0)
        learners.append(learner := fresh(method=method, training=training))
        learner.learn(one_token(0, 3), "abc")
        if checkpoint is not None:
            with pytest.raises(StoppedError):
                learner.learn(one_token(3, 5), "de", checkpoint=checkpoint, on_event=stop)
            assert checkpoint.exists()
        learner.learn(one_token(3, 5), "de", checkpoint=checkpoint)
    assert tiny.saved(learners[0], tmp_path / "a") == tiny.saved(learners[1], tmp_path / "b")
    test = one_token(0, 5)
    assert test.audio is not None
    assert test.visual is not None
    attention = learners[0].attention(test.audio, test.visual)
    assert attention is not None
    assert attention.spatial.eq(1).all()


def test_only_methods_that_ask_for_them_keep_logits_and_means() -> None:
    learner = fresh(method="er")
    learner.learn(tiny.clips(0, 3), "abc")
    assert learner.memory is not None
    assert learner.memory.clips.logits is None
    assert learner.class_means is None


def test_the_global_random_generator_is_neither_read_nor_moved(folder: Path, tmp_path: Path) -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        learner = fresh()
        learner.learn(tiny.clips(0, 3), "abc")
        learner.learn(tiny.clips(3, 5), "de")
        learner.predict(tiny.clips(0, 5).audio)
        Learner.load(folder)
        results.append(tiny.saved(learner, tmp_path / str(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_a_learner_without_visual_features_is_saved_and_loaded(tmp_path: Path) -> None:
    learner = fresh(modality="audio", normalize="none")
    learner.learn(dataclasses.replace(tiny.clips(0, 3), visual=None), "abc")
    again = tiny.saved(Learner.load(tmp_path / "a"), tmp_path / "b") if learner.save(tmp_path / "a") is None else b""
    assert again == (tmp_path / "a" / "learner.safetensors").read_bytes()


def test_the_device_can_be_chosen_when_loading(folder: Path) -> None:
    assert Learner.load(folder, "cpu").training.device == "cpu"
    with pytest.raises(McilError, match="device 'tpu' is not on this machine; use one of: auto, cpu"):
        assert Learner.load(folder, "tpu").device


def test_learners_that_cannot_be_read_are_one_line(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "learner.safetensors").read_bytes()
    file = tmp_path / "learner.safetensors"

    def refusal() -> str:
        with pytest.raises(McilError) as error:
            Learner.load(tmp_path)
        assert "\n" not in str(error.value)
        assert str(file) in str(error.value)
        return str(error.value)

    assert "no learner here" in refusal()
    for content in (b"", b"{}", whole[:5], whole[:200], whole[:-1], b"\xff" * 500, whole[100:]):
        file.write_bytes(content)
        assert "damaged" in refusal()
    safetensors.torch.save_file({"x": torch.ones(1)}, file)
    assert "damaged" in refusal()
    safetensors.torch.save_file({"x": torch.ones(1)}, file, {"mcil": '{"version": 99}'})
    assert "another version of mcil (99)" in refusal()


def test_saving_where_nothing_can_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(McilError, match=r"cannot write .*a part of the path is a file"):
        Learner.load(folder).save(tmp_path / "file" / "learner")
