"""MCIL-AudioCLIP with its experts inside frozen towers: raw sound, pixels and token ids, tiny random weights."""

import copy
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mcil.methods.mcil_audioclip
import mcil.training.engine
import tiny
import tiny_released
import tiny_towers
from mcil.encoders.audioclip import load_audioclip
from mcil.encoders.clip import load_clip
from mcil.encoders.tower import Tower
from mcil.errors import McilError
from mcil.files import read_tensors
from mcil.learner import Learner
from mcil.methods import GradientMethod, create_method
from mcil.models.backbone import Backbone, pixels, samples
from mcil.models.trimodal import TrimodalNet
from mcil.types import Batch, Outputs, Step

NAME, MEMORY_NAME = "mcil-audioclip", "mcil-audioclip-memory"
SAMPLES, PROMPTS, CLIPS, SOUND = 2205, 3, 4, 6
TASKS, STARTS = ("ab", "cd"), (0, 2, 4)
TRAINING = dataclasses.replace(
    tiny.TRAINING, epochs=2, batch_size=4, exemplar_batch_size=2, evaluation_batch_size=5, protocol="last"
)
KINDS = {"ESResNeXt": "audio", "ResNet": "visual", "VisionTransformer": "visual", "TextTransformer": "text"}


@pytest.fixture(scope="module")
def audioclip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_towers.write_audioclip(tmp_path_factory.mktemp("audioclip"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_released.weights(tmp_path_factory.mktemp("clip"), layers=1)


def clips(first: int, last: int, count: int = CLIPS, seed: int = 1, side: int = tiny_towers.SIZE) -> Batch:
    """Return tones int16 (N,2205) and pictures uint8 (N,1,side*side,3) of a pitch and a colour of each class's own."""
    labels, noise = np.repeat(np.arange(first, last), count), np.random.default_rng(seed)
    colours = np.random.default_rng(0).uniform(40, 215, (tiny.CLASSES, 3))
    turns = 2 * np.pi * (300 + 700 * labels[:, None]) * np.arange(SAMPLES) / 44100
    sounds = 8000 * np.sin(turns + noise.uniform(0, 6, (len(labels), 1))) + 500 * noise.normal(size=turns.shape)
    pictures = colours[labels][:, None, None] + 30 * noise.normal(size=(len(labels), 1, side * side, 3))
    return Batch(
        torch.from_numpy(sounds.astype(np.int16)),
        torch.from_numpy(pictures.clip(0, 255).astype(np.uint8)),
        torch.from_numpy(labels),
    )


def clips_with_features(first: int, last: int, **changes: Any) -> Batch:
    """The same with sound as six stored features: the place of each class's own."""
    made = clips(first, last, **changes)
    noise = torch.randn(len(made), SOUND, generator=torch.Generator().manual_seed(len(made)))
    return dataclasses.replace(made, audio=2 * F.one_hot(made.labels, SOUND) + 0.3 * noise)


def text(folder: Path) -> Tensor:
    """Return token ids int32 (6,3,77) of three prompts for each of the classes a..f."""
    return tiny_released.text(folder)[:, :PROMPTS]


def learner(folder: Path, name: str = NAME, *, options: dict[str, Any] | None = None, **changes: Any) -> Learner:
    own = {"backbone": "audioclip", "weights": str(folder), "bottleneck": 4} | (options or {})
    return Learner(name, own, **{"training": TRAINING, "memory": 8} | changes)


def learn_next(
    made: Learner, folder: Path, data: Callable[..., Batch] = clips, checkpoint: Path | None = None
) -> list[dict[str, Any]]:
    """Let a learner learn the next of the tasks ab, cd, and return what it told."""
    told: list[dict[str, Any]] = []
    task = len(made.task_sizes)
    first, last = STARTS[task], STARTS[task + 1]
    validation = data(first, last, count=2, seed=2)
    made.learn(data(first, last), TASKS[task], validation, checkpoint, told.append, text(folder)[first:last])
    return told


def taught(
    folder: Path, name: str = NAME, *, tasks: int = 2, data: Callable[..., Batch] = clips, **changes: Any
) -> Learner:
    made = learner(folder, name, **changes)
    for _ in range(tasks):
        learn_next(made, folder, data)
    return made


def net(made: Learner) -> TrimodalNet:
    assert isinstance(made.network, TrimodalNet)
    return made.network.eval()


@torch.no_grad()
def outputs(network: TrimodalNet, audio: Tensor | None, visual: Tensor | None) -> Outputs:
    result: Outputs = network(*network.stem(audio, visual))
    return result


def probabilities(made: Learner, given: Batch) -> Tensor:
    audio = None if made.modality == "visual" else given.audio
    return made.predict(audio, None if made.modality == "audio" else given.visual).probabilities


def new_network(folder: Path, modality: Any = "audio-visual", **options: Any) -> TrimodalNet:
    """Return a network that has begun its first task, and whose experts add something already."""
    method = create_method(NAME, {"backbone": "audioclip", "weights": str(folder), "bottleneck": 4} | options)
    network = method.network({"audio": SAMPLES, "visual": 3, "text": 77}, 0, modality)
    assert isinstance(network, TrimodalNet)
    network.grow(2, text(folder)[:2])
    for name, parameter in network.named_parameters():
        if ".up." in name:
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def weights(network: TrimodalNet) -> dict[str, Tensor]:
    """Return a copy of every tensor of the frozen towers, statistics of their normalisation included."""
    found: dict[str, Tensor] = {}
    for name, tower in network.towers.items():
        if isinstance(tower, Backbone):
            found |= {f"{name}.{key}": value.clone() for key, value in tower.tower.state_dict().items()}
    return found


def equal_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def stages(audioclip: Path) -> list[Learner]:
    """A learner as it was after each of two tasks, with adapters in all three towers."""
    made, kept = learner(audioclip, options={"adapters": "all"}), []
    for _ in TASKS:
        learn_next(made, audioclip)
        kept.append(copy.copy(made))
        kept[-1].network = copy.deepcopy(made.network)
    return kept


@pytest.fixture(scope="module")
def learnt(stages: list[Learner]) -> Learner:
    return stages[-1]


# what is trained


def test_two_tasks_are_learnt_from_samples_pixels_and_token_ids(audioclip: Path) -> None:
    made, test = learner(audioclip, training=dataclasses.replace(TRAINING, protocol="strict")), clips(0, 4, seed=3)
    for sizes in ((2,), (2, 2)):
        told = learn_next(made, audioclip)
        assert len(told) == TRAINING.epochs
        for event in told:
            assert set(event["losses"]) == {"contrastive", "information", "modalities"}
            assert all(map(math.isfinite, event["losses"].values()))
            assert event["validation_accuracy"] is not None
        assert made.task_sizes == sizes
    said = made.predict(test.audio, test.visual)
    assert said.probabilities.shape == (16, 4)
    assert said.probabilities.isfinite().all()
    assert (said.labels == test.labels).float().mean() > 0.7


@pytest.mark.parametrize("adapters", ["all", "clips"])
def test_only_experts_routers_fusion_and_scale_are_trained(audioclip: Path, adapters: str) -> None:
    made, state = learner(audioclip, options={"adapters": adapters}), load_audioclip(audioclip)
    published = {"audio": state.audio, "visual": state.visual, "text": state.text}
    before = {f"{tower}.{key}": value for tower, own in published.items() for key, value in own.state_dict().items()}
    for task in range(2):
        learn_next(made, audioclip)
        assert equal_tensors(weights(net(made)), before)
        parts = {name.split(".")[0] for name, _ in net(made).named_parameters()}
        assert parts == {"adapters", "fusions", "log_scale"}
        towers = {"audio", "visual", "text"} if adapters == "all" else {"audio", "visual"}
        assert set(net(made).adapters) == towers
        for tower in towers:
            for mixture in net(made).adapters[tower].mixtures:
                assert any(expert.up.weight.any() for expert in list(mixture.experts)[4 * task :])


def test_gradients_reach_the_router_and_the_experts_of_every_layer(audioclip: Path) -> None:
    """In the stages of the sound's tower too; the towers themselves get none."""
    options: dict[str, Any] = {"adapters": "all", "experts": 2, "prior": "none"}
    network, method = new_network(audioclip, **options).train(), create_method(NAME)
    assert isinstance(method, GradientMethod)
    given = clips(0, 2)
    said = network(*network.stem(given.audio, given.visual))
    terms = method.losses(Step(said, given.labels, 0, None, (2,)))
    torch.stack(list(terms.values())).sum().backward()
    places = {name: len(own.mixtures) for name, own in network.adapters.items()}
    assert places == {"audio": 4, "visual": 4, "text": 1}
    reached = [name for name, parameter in network.named_parameters() if name.startswith("adapters.")]
    assert len(reached) == sum(places.values()) * (2 * 4 + 2)  # two experts of two layers, router, noise
    for name in reached:
        gradient = network.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
    for tower in network.towers.values():
        assert isinstance(tower, Backbone)
        assert all(parameter.grad is None for parameter in tower.tower.parameters())


def test_experts_of_every_layer_change_what_is_said(audioclip: Path) -> None:
    network, given = new_network(audioclip, adapters="all"), clips(0, 2)
    whole = outputs(network, given.audio, given.visual)
    for name, view in (("audio", whole.audio), ("visual", whole.visual), ("text", whole.prototypes)):
        for place in range(len(network.adapters[name].mixtures)):
            still = copy.deepcopy(network).train().eval()
            for expert in still.adapters[name].mixtures[place].experts:
                nn.init.zeros_(expert.up.weight)
            less = outputs(still, given.audio, given.visual)
            without = {"audio": less.audio, "visual": less.visual, "text": less.prototypes}[name]
            assert view is not None
            assert without is not None
            assert (view - without).abs().max() > 1e-4, (name, place)


@pytest.mark.parametrize("adapters", ["all", "text"])
def test_adapters_of_the_text_move_prototypes_and_those_of_old_classes_are_kept(
    audioclip: Path, stages: list[Learner], adapters: str
) -> None:
    if adapters == "all":
        first, second = stages
    else:
        first = taught(audioclip, tasks=1, options={"adapters": adapters})
        second = copy.copy(first)
        learn_next(second, audioclip)
    given = clips(0, 4, seed=3)
    known = outputs(net(first), given.audio, given.visual).prototypes
    assert torch.equal(net(second).prototypes, known)
    with torch.no_grad():
        prompts = load_audioclip(audioclip).text(text(audioclip)[:2].flatten(0, 1).long()).reshape(2, PROMPTS, -1)
    frozen = F.normalize(F.normalize(prompts, dim=2).mean(dim=1), dim=1)
    assert (known - frozen).abs().max() > 1e-3


def test_without_adapters_prototypes_are_those_of_the_frozen_text_tower(audioclip: Path) -> None:
    made, loaded = taught(audioclip), load_audioclip(audioclip)
    with torch.no_grad():
        prompts = loaded.text(text(audioclip)[:2].flatten(0, 1).long()).reshape(2, PROMPTS, -1)
    torch.testing.assert_close(net(made).prototypes, F.normalize(F.normalize(prompts, dim=2).mean(dim=1), dim=1))


def test_before_training_views_are_the_embeddings_of_the_published_towers(audioclip: Path) -> None:
    """And cosines are multiplied by AudioCLIP's scale: experts begin as nothing."""
    method = create_method(NAME, {"backbone": "audioclip", "weights": str(audioclip), "adapters": "all"})
    network = method.network({"audio": SAMPLES, "visual": 3, "text": 77}, 0, "audio-visual")
    assert isinstance(network, TrimodalNet)
    network.grow(2, text(audioclip)[:2])
    network.prior = None
    given, loaded = clips(0, 2), load_audioclip(audioclip)
    assert given.audio is not None
    assert given.visual is not None
    said = outputs(network.eval(), given.audio, given.visual)
    with torch.no_grad():
        sounds = loaded.audio(samples(given.audio))
        sights = loaded.visual(pixels(tiny_towers.SIZE)(given.visual))
    torch.testing.assert_close(said.audio, F.normalize(sounds, dim=1))
    torch.testing.assert_close(said.visual, F.normalize(sights, dim=1))
    assert said.scale is not None
    assert said.prototypes is not None
    assert float(said.scale) == pytest.approx(loaded.scales["visual-text"])
    torch.testing.assert_close(said.logits, said.scale * said.fused @ said.prototypes.T)


def test_what_experts_say_of_old_classes_stays_to_the_bit(stages: list[Learner]) -> None:
    given, scores = clips(0, 4, seed=3), []
    for made in stages:
        network = copy.deepcopy(net(made))
        network.prior = None
        scores.append(outputs(network, given.audio, given.visual).logits)
    assert torch.equal(scores[1][:, :2], scores[0])


# what is computed once


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count from now on how often what is below the experts is computed, by tower."""
    calls: Counter[str] = Counter()
    below = Backbone.below

    def count(self: Backbone, inputs: Tensor, place: int) -> Tensor:
        calls[KINDS[type(self.tower).__name__]] += 1
        return below(self, inputs, place)

    monkeypatch.setattr(Backbone, "below", count)
    return calls


@pytest.mark.parametrize("augment", [False, True])
def test_what_is_below_the_experts_is_computed_once_a_task_where_nothing_changes_it(
    audioclip: Path, monkeypatch: pytest.MonkeyPatch, augment: bool
) -> None:
    """However many epochs there are, and for sound and text also where pictures change at every step."""
    found = []
    for epochs in (1, 4):
        calls = counted(monkeypatch)
        options = {"augment": augment, "blocks": 1, "adapters": "all"}
        made = learner(audioclip, options=options, training=dataclasses.replace(TRAINING, epochs=epochs))
        learn_next(made, audioclip)
        found.append(calls)
        monkeypatch.undo()
    parts = math.ceil(2 * CLIPS / TRAINING.evaluation_batch_size)
    assert all(calls["audio"] == parts and calls["text"] == 1 for calls in found)
    if augment:
        steps = 2 * CLIPS // TRAINING.batch_size
        assert found[1]["visual"] - found[0]["visual"] == 3 * steps
    else:
        assert all(calls["visual"] == parts for calls in found)


@pytest.mark.parametrize("blocks", [1, 3, 0])
def test_experts_are_in_as_many_upper_layers_as_are_asked_for(audioclip: Path, blocks: int) -> None:
    """What comes out is what the whole towers say where their upper layers are adapted."""
    network, given = new_network(audioclip, blocks=blocks), clips(0, 2)
    said = outputs(network, given.audio, given.visual)
    first = 4 - (blocks or 4)
    for name, inputs, view in (("audio", given.audio, said.audio), ("visual", given.visual, said.visual)):
        adapters, tower = network.adapters[name], network.towers[name]
        assert len(adapters.mixtures) == 4 - first
        assert isinstance(tower, Tower)
        adapt = adapters.of(0)

        def upper(place: int, tokens: Tensor, summary: Tensor, adapt: Any = adapt) -> Tensor:
            return adapt(place, tokens, summary) if place >= first else torch.zeros_like(tokens)

        with torch.no_grad():
            assert inputs is not None
            torch.testing.assert_close(view, F.normalize(tower(inputs, upper), dim=1), rtol=1e-4, atol=1e-5)


def test_learning_from_what_was_computed_once_is_learning_from_pictures(
    audioclip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are changed to themselves pass through all layers at every step."""
    monkeypatch.setattr(mcil.methods.mcil_audioclip, "RandomCrops", nn.Identity)
    once, every = (taught(audioclip, options={"augment": augment, "blocks": 1}) for augment in (False, True))
    assert (net(once).augment is None, type(net(every).augment)) == (True, nn.Identity)
    test = clips(0, 4, seed=3)
    torch.testing.assert_close(probabilities(once, test), probabilities(every, test), rtol=1e-2, atol=1e-3)


# pictures that change


def test_pictures_change_in_training_only(audioclip: Path, stages: list[Learner]) -> None:
    made, test = stages[0], clips(0, 2, seed=3)
    assert torch.equal(probabilities(made, test), probabilities(made, test))
    still = copy.deepcopy(net(made))
    still.augment = None
    plain = outputs(still, test.audio, test.visual)
    said = outputs(net(made), test.audio, test.visual)
    torch.testing.assert_close(said.logits, plain.logits)
    options = {"noisy": False, "dropout": 0.0}
    network = new_network(audioclip, **options).train()
    lower = network.stem(test.audio, test.visual)
    with torch.no_grad():
        one, other = network(*lower), network(*lower)
    assert torch.equal(one.audio, other.audio)
    assert not torch.allclose(one.visual, other.visual)


def test_what_is_learnt_depends_on_whether_pictures_change(audioclip: Path) -> None:
    steady = {"noisy": False, "dropout": 0.0}
    states = [
        taught(audioclip, tasks=1, options=steady | {"augment": augment}).network.state_dict()
        for augment in (False, True)
    ]
    assert states[0].keys() == states[1].keys()
    ups = [name for name in states[0] if name.startswith("adapters.visual.") and name.endswith("up.weight")]
    assert any((states[0][name] - states[1][name]).abs().max() > 1e-4 for name in ups)


# what it reads


@pytest.mark.parametrize("prior", ["acil-av", "none"])
def test_shuffling_sounds_or_pictures_changes_what_clips_are_called(audioclip: Path, prior: str) -> None:
    made, test = taught(audioclip, options={"prior": prior}), clips(0, 4, seed=3)
    assert test.audio is not None
    assert test.visual is not None
    turn = torch.arange(len(test)).roll(CLIPS)
    whole = probabilities(made, test)
    for shuffled in (
        dataclasses.replace(test, audio=test.audio[turn]),
        dataclasses.replace(test, visual=test.visual[turn]),
    ):
        # Of logarithms, since the prior is too sure of itself for probabilities to tell.
        assert (probabilities(made, shuffled).log() - whole.log()).abs().max() > 1e-3
    both = dataclasses.replace(test, audio=test.audio[turn], visual=test.visual[turn])
    torch.testing.assert_close(probabilities(made, both), whole[turn], rtol=1e-3, atol=1e-5)


def test_shuffling_prompts_among_classes_shuffles_their_scores(audioclip: Path) -> None:
    swapped = text(audioclip)[[1, 0]]
    network, given = new_network(audioclip, prior="none", adapters="all"), clips(0, 2)
    before = outputs(network, given.audio, given.visual).logits
    network.text, network._text_hidden = swapped.float(), None
    network.train().eval()
    torch.testing.assert_close(outputs(network, given.audio, given.visual).logits, before[:, [1, 0]])
    assert (before[:, 0] - before[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("backbone", ["audioclip", "clip"])
def test_pictures_alone_can_be_learnt_from(audioclip: Path, clip: Path, backbone: str) -> None:
    folder = audioclip if backbone == "audioclip" else clip
    made = learner(folder, options={"backbone": backbone}, modality="visual")
    for _ in TASKS:
        for event in learn_next(made, folder, lambda *args, **changes: sight(clips(*args, **changes))):
            assert set(event["losses"]) == {"contrastive"}
            assert math.isfinite(event["loss"])
    assert set(net(made).towers) == {"visual", "text"}
    test = clips(0, 4, seed=3)
    assert (made.predict(None, test.visual).labels == test.labels).float().mean() > 0.5


def test_sound_alone_can_be_learnt_from(audioclip: Path) -> None:
    made = learner(audioclip, modality="audio")
    for _ in TASKS:
        for event in learn_next(made, audioclip, lambda *args, **changes: sound(clips(*args, **changes))):
            assert set(event["losses"]) == {"contrastive"}
            assert math.isfinite(event["loss"])
    assert set(net(made).towers) == {"audio", "text"}
    test = clips(0, 4, seed=3)
    assert (made.predict(test.audio, None).labels == test.labels).float().mean() > 0.5


def sight(given: Batch) -> Batch:
    return dataclasses.replace(given, audio=None)


def sound(given: Batch) -> Batch:
    return dataclasses.replace(given, visual=None)


def test_a_missing_modality_is_done_without(learnt: Learner) -> None:
    test = clips(0, 4, seed=3)
    whole = outputs(net(learnt), test.audio, test.visual)
    assert torch.equal(outputs(net(learnt), test.audio, None).fused, whole.audio)
    assert torch.equal(outputs(net(learnt), None, test.visual).fused, whole.visual)
    for given in ((test.audio, None), (None, test.visual)):
        assert learnt.predict(*given).probabilities.isfinite().all()


def test_with_clip_pictures_and_text_are_inside_and_sound_is_a_stored_feature(clip: Path, tmp_path: Path) -> None:
    options = {"backbone": "clip", "adapters": "all"}
    made = learner(clip, options=options)
    learn_next(made, clip, clips_with_features)
    first = net(made).state_dict()
    assert first["towers.audio.projection.weight"].shape == (tiny_towers.EMBED, SOUND)
    loaded = load_clip(clip)
    published = {"visual": loaded.visual, "text": loaded.text}
    expected = {f"{tower}.{key}": value for tower, own in published.items() for key, value in own.state_dict().items()}
    for event in learn_next(made, clip, clips_with_features):
        assert all(map(math.isfinite, event["losses"].values()))
    assert equal_tensors(weights(net(made)), expected)
    # What tasks share is learnt in the first one.
    assert torch.equal(
        net(made).state_dict()["towers.audio.projection.weight"], first["towers.audio.projection.weight"]
    )
    assert {name: len(own.mixtures) for name, own in net(made).adapters.items()} == {"audio": 1, "visual": 1, "text": 1}
    test = clips_with_features(0, 4, seed=3)
    assert (made.predict(test.audio, test.visual).labels == test.labels).float().mean() > 0.7
    assert test.audio is not None
    turned = dataclasses.replace(test, audio=test.audio.roll(CLIPS, 0))
    assert (probabilities(made, turned) - probabilities(made, test)).abs().max() > 0.01
    made.save(tmp_path)
    assert torch.equal(probabilities(Learner.load(tmp_path), test), probabilities(made, test))


# what is kept


def test_a_saved_learner_holds_no_weights_of_the_towers_and_predicts_the_same(
    audioclip: Path, learnt: Learner, tmp_path: Path
) -> None:
    learnt.save(tmp_path)
    tensors, _ = read_tensors(tmp_path / "learner.safetensors", "learner")
    of_towers = {name for name in tensors if name.startswith("network.towers.")}
    assert of_towers == {f"network.towers.{name}._extra_state" for name in ("audio", "visual", "text")}
    assert all(tensors[name].shape == (32,) for name in of_towers)
    shapes = {tuple(value.shape) for name, value in weights(net(learnt)).items() if "conv" in name and value.ndim == 4}
    assert not shapes & {tuple(value.shape) for value in tensors.values()}
    loaded, test = Learner.load(tmp_path), clips(0, 4, seed=3)
    for given in (test, sight(test), sound(test)):
        one, other = (made.predict(given.audio, given.visual).probabilities for made in (loaded, learnt))
        assert torch.equal(one, other)


def test_it_goes_on_learning_after_loading_to_the_same_bits(audioclip: Path, tmp_path: Path) -> None:
    made = taught(audioclip, tasks=1, options={"adapters": "all"})
    made.save(tmp_path / "a")
    loaded = Learner.load(tmp_path / "a")
    assert learnt_events(learn_next(made, audioclip)) == learnt_events(learn_next(loaded, audioclip))
    assert tiny.saved(made, tmp_path / "b") == tiny.saved(loaded, tmp_path / "c")


def learnt_events(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name != "seconds"} for event in told]


def test_other_weights_and_none_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tiny_towers.write_audioclip(tmp_path / "weights")
    taught(folder, tasks=1).save(tmp_path / "learner")
    file = folder / "AudioCLIP-Full-Training.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {"visual.bn1.bias": state["visual.bn1.bias"] + 0.01}, file)
    with pytest.raises(McilError, match=r"was trained with weights of sha256 .*; put the file") as other:
        Learner.load(tmp_path / "learner")
    assert "\n" not in str(other.value)
    file.unlink()
    with pytest.raises(McilError, match=r"weights.* holds no weights") as none:
        Learner.load(tmp_path / "learner")
    assert "\n" not in str(none.value)


def test_exemplars_are_kept_as_samples_and_pixels(audioclip: Path, tmp_path: Path) -> None:
    made = learner(audioclip, MEMORY_NAME, options={"adapters": "all"})
    learn_next(made, audioclip)
    for again in range(2):
        assert made.memory is not None
        kept = made.memory.clips
        assert kept.audio is not None
        assert kept.visual is not None
        assert (kept.audio.dtype, kept.visual.dtype) == (torch.int16, torch.uint8)
        train = clips(0, 2)
        assert train.audio is not None
        assert train.visual is not None
        for sounds, picture, label in zip(kept.audio, kept.visual, kept.labels, strict=True):
            own = train.labels == label
            assert (train.audio[own] == sounds).all(dim=1).any()
            assert (train.visual[own] == picture).flatten(1).all(dim=1).any()
        if not again:
            made.save(tmp_path / "a")
            made = Learner.load(tmp_path / "a")
    told = learn_next(made, audioclip)
    assert all(math.isfinite(event["losses"]["replay"]) for event in told)
    assert made.memory is not None
    assert [len(own) for own in made.memory.classes] == [2] * 4
    assert probabilities(made, clips(0, 4, seed=3)).isfinite().all()


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("name", "augment"), [(NAME, True), (MEMORY_NAME, False)])
def test_killed_within_a_task_it_goes_on_to_the_same_bits(
    audioclip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, augment: bool
) -> None:
    """In the middle of an epoch and at its end; the cuts of pictures, noise and dropout are the same too."""
    training = dataclasses.replace(TRAINING, checkpoint_seconds=0.0, protocol="strict")
    made = taught(audioclip, name, tasks=1, options={"adapters": "all", "augment": augment}, training=training)
    made.save(tmp_path / "before")
    learn_next(made, audioclip)
    whole, write = tiny.saved(made, tmp_path / "whole"), mcil.training.engine.write_tensors
    for saves in (1, 2):
        again, left = Learner.load(tmp_path / "before"), iter(range(saves - 1, -1, -1))

        def kill(*arguments: Any, left: Any = left) -> None:
            write(*arguments)
            if next(left) == 0:
                raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(mcil.training.engine, "write_tensors", kill)
            with pytest.raises(KilledError):
                learn_next(again, audioclip, checkpoint=tmp_path / f"{saves}.safetensors")
        again = Learner.load(tmp_path / "before")
        learn_next(again, audioclip, checkpoint=tmp_path / f"{saves}.safetensors")
        assert tiny.saved(again, tmp_path / "again") == whole


# bad input


def refused(made: Learner, folder: Path, words: str, data: Callable[..., Batch] = clips) -> None:
    with pytest.raises(McilError, match=words) as error:
        learn_next(made, folder, data)
    assert "\n" not in str(error.value)


def test_pictures_of_another_size_are_one_line(audioclip: Path, clip: Path) -> None:
    def small(*args: Any, **changes: Any) -> Batch:
        return clips(*args, **changes, side=32)

    words = r"pictures have 32 pixels a side, and these weights read 64; extract them with the option size=64"
    refused(learner(audioclip), audioclip, words, small)
    refused(learner(clip, options={"backbone": "clip"}, modality="visual"), clip, words, small)


def test_features_in_the_place_of_pictures_are_one_line(audioclip: Path) -> None:
    def features(*args: Any, **changes: Any) -> Batch:
        made = clips(*args, **changes)
        return dataclasses.replace(made, visual=torch.randn(len(made), 1, 1, 24))

    refused(learner(audioclip), audioclip, r"must be the pixels of one square each.*the encoder 'raw'", features)


def test_features_in_the_place_of_samples_are_one_line(audioclip: Path) -> None:
    refused(learner(audioclip), audioclip, r"samples in whole numbers, not float32.*'raw'", clips_with_features)


def test_embeddings_or_ids_of_another_vocabulary_in_the_place_of_token_ids_are_one_line(audioclip: Path) -> None:
    other = text(audioclip)[:2]
    other[1, 2, 1] = tiny_towers.VOCABULARY
    for given in (torch.randn(2, PROMPTS, tiny_towers.EMBED), other):
        with pytest.raises(McilError, match=r"must be token ids, whole numbers .*'clip-tokens'") as error:
            learner(audioclip).learn(clips(0, 2), "ab", text=given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("blocks", "adapters", "layers"), [(5, "clips", 4), (2, "all", 1), (2, "text", 1)])
def test_more_blocks_than_a_tower_has_layers_are_one_line(
    audioclip: Path, blocks: int, adapters: str, layers: int
) -> None:
    made = learner(audioclip, options={"blocks": blocks, "adapters": adapters})
    refused(made, audioclip, re.escape(f"option 'blocks' is {blocks}, but a tower has {layers} layers; choose at most"))


def test_a_file_of_clip_for_audioclip_is_one_line(clip: Path) -> None:
    refused(learner(clip), clip, r"audioclip: .*clip\.safetensors")


def test_weights_that_are_not_there_are_one_line(audioclip: Path, tmp_path: Path) -> None:
    refused(learner(tmp_path / "none"), audioclip, r"audioclip: there is no file or folder .*none; download")


@pytest.mark.parametrize("options", [{}, {"adapters": "all", "blocks": 1, "augment": False}])
def test_bfloat16_learns_and_tells_as_well(audioclip: Path, options: dict[str, Any]) -> None:
    made = learner(audioclip, options=options, training=dataclasses.replace(TRAINING, epochs=1, precision="bfloat16"))
    for _ in TASKS:
        told = learn_next(made, audioclip)
        assert all(math.isfinite(loss) for event in told for loss in event["losses"].values())
    given = clips(0, 4, seed=2)
    assert probabilities(made, given).isfinite().all()
    assert made.figures(given.audio, given.visual)["load"]


@pytest.mark.parametrize("name", [NAME, "zero-shot"])
def test_raw_input_and_token_ids_are_no_features(audioclip: Path, name: str) -> None:
    embeddings, ids = tiny.text(0, 2), text(audioclip)[:2]
    for given, words, said in (
        (clips(0, 2), "the store holds raw input", embeddings),
        (tiny.clips(0, 2), "the text of the store is token ids", ids),
    ):
        with pytest.raises(McilError, match=words) as error:
            Learner(name, training=TRAINING).learn(given, "ab", given, text=said)
        assert "\n" not in str(error.value)
