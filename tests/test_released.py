"""MCIL-AudioCLIP's release: the method held to values of its code, and to what was seen of it when it ran."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import mcil.training.engine
import tiny
import tiny_released
import tiny_towers
from golden import hash_fill
from mcil import Learner, McilError
from mcil.data.class_text import read_class_text
from mcil.encoders import ENCODERS, create_encoders
from mcil.encoders.clip import ClipTowers, TextTransformer, Tokenizer, VisionTransformer, normalise
from mcil.encoders.clip.transformer import Block
from mcil.encoders.prompts import prompts_for
from mcil.experiment.folder import RunFolder
from mcil.experiment.single import run_single
from mcil.losses import released_mutual_information, released_weighted_cross_entropy
from mcil.methods import create_method
from mcil.models.crops import random_boxes, resample
from mcil.models.fusion import correlation
from mcil.models.mixture import Adapter
from mcil.models.released import SCALE, ReleasedAdapters, ReleasedFusion, ReleasedMixture, ReleasedNet
from mcil.training import TrainingOptions
from mcil.types import Outputs, Step

HERE = Path(__file__).parent / "golden"
GOLDEN = json.loads((HERE / "released.json").read_text())
CLIP = json.loads((HERE / "clip.json").read_text())
NAME = "mcil-audioclip-released"
TRAINING = TrainingOptions(
    epochs=1, batch_size=6, evaluation_batch_size=7, learning_rate=0.01, weight_decay=0.0, protocol="last", device="cpu"
)
CPU = torch.device("cpu")


def check(actual, name, tolerance=1e-4):
    values = GOLDEN[name]
    hash_fill.check(actual, values["first"], values["mean"], values["l2"], tolerance)


def method(**options):
    return create_method(NAME, options)


# values of the published code


def unit(name, shape):
    return F.normalize(hash_fill.inputs(name, shape), dim=1)


def golden_step():
    """The batch whose losses are known, and the features of its pictures and sounds."""
    visual, audio, labels = unit("img", (6, 512)), unit("aud", (6, 512)), torch.tensor([0, 1, 2, 3, 1, 0])
    logits = SCALE * visual @ hash_fill.inputs("txt", (4, 512), 0.5).T
    # Two classes are known already, so the labels of the task begin at 2.
    outputs = Outputs(F.pad(logits, (2, 0), value=-torch.inf), visual, audio, visual)
    return Step(outputs, labels + 2, 0, None, (2, 4)), visual, audio


def test_losses_are_those_of_the_published_code():
    step, visual, audio = golden_step()
    losses = method().losses(step)
    expected = GOLDEN["loss"]
    assert float(sum(losses.values())) == pytest.approx(expected["total"], abs=2e-5)
    assert float(losses["classification"]) == pytest.approx(0.7 * expected["cross_entropy"], abs=1e-6)
    for name, feature in (("visual", visual), ("audio", audio)):
        assert -float(released_mutual_information(visual, feature)) == pytest.approx(expected[name], abs=1e-5)


def test_label_smoothing_is_that_of_the_published_code():
    step, _, _ = golden_step()
    losses = method(label_smoothing=0.1).losses(step)
    assert float(sum(losses.values())) == pytest.approx(GOLDEN["loss"]["total_smoothed"], abs=2e-5)
    logits, labels = step.outputs.logits[:, 2:].double(), step.labels - 2
    target = 0.9 * F.one_hot(labels, 4) + 0.1 / 4
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert float(losses["classification"]) == pytest.approx(0.7 * float(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("share", "words"), [(1.0, "below 1, but it is 1.0"), (float("nan"), "0 or more, but"), (-0.1, "0 or more, but")]
)
def test_a_label_smoothing_that_leaves_nothing_of_the_label_is_refused(share, words):
    with pytest.raises(McilError, match=f"'label_smoothing' must be {words}") as raised:
        method(label_smoothing=share)
    assert "\n" not in str(raised.value)


def test_the_correlation_that_masks_sound_is_that_of_the_published_code():
    _, visual, audio = golden_step()
    assert float(correlation(visual, audio).mean()) == pytest.approx(GOLDEN["loss"]["correlation"], abs=1e-6)
    assert float(correlation(visual, 0.3 * visual + 0.1).mean()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("total", ["20", "40", "100"])
def test_learning_rates_are_those_of_the_published_code(total):
    for step, expected in GOLDEN["rates"][total].items():
        assert 1e-3 * method().rate(int(step), int(total)) == pytest.approx(expected, abs=1e-12)


def test_the_optimizer_is_that_of_the_published_code():
    optimizer = method().optimizer([nn.Parameter(torch.zeros(1))], 1e-3, 0.0)
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 1e-8, 0.0)


NAMES = {
    "router": "router_list.0",
    "noise": "w_noise_list.0",
    "down": "down_proj",
    "up": "up_proj",
}


def released_name(name):
    """The release's name for a weight of a mixture: experts.2.down.weight is adaptmlp_list.2.down_proj.weight."""
    parts = [NAMES.get(part, part) for part in name.split(".")]
    return ".".join(["adaptmlp_list", *parts[1:]] if parts[0] == "experts" else parts)


@torch.no_grad()
def fill(mixture, prefix):
    for name, parameter in mixture.named_parameters():
        parameter.copy_(hash_fill.weight(prefix + released_name(name), tuple(parameter.shape)))
    return mixture.eval()


def fill_all(adapters, prefix=""):
    for place, mixture in enumerate(adapters.mixtures):
        fill(mixture, f"{prefix}transformer.resblocks.{place}.")
    return adapters


def test_an_adapter_is_that_of_the_published_code():
    adapter = Adapter(32).eval()
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            layer, kind = name.split(".")
            parameter.copy_(hash_fill.weight(f"adapter.{layer}_proj.{kind}", tuple(parameter.shape)))
        check(adapter(hash_fill.inputs("xd", (2, 3, 32))), "adapter")


def test_a_block_is_that_of_the_published_code():
    block, mixture = hash_fill.fill(Block(32, 4, False), "blk."), fill(ReleasedMixture(32), "blk.")
    h = block.attend(hash_fill.inputs("xb", (3, 7, 32)))
    check(block(h) + mixture(h), "block")
    assert mixture.picked.tolist() == GOLDEN["block"]["expert"]
    assert mixture.frozen.all()  # not all clips agree, so nothing is ever trained again


def published_tokenizer():
    """CLIP's, with blanks for the merges that the golden texts cannot meet."""
    merges = [("\n", str(i)) for i in range(48894)]
    for rank, line in (CLIP["merges"] | GOLDEN["merges"]).items():
        merges[int(rank)] = tuple(line.split(" "))
    return Tokenizer(merges)


@torch.inference_mode()
def test_the_image_tower_with_adapters_is_that_of_the_published_code():
    tower = hash_fill.fill(VisionTransformer(224, 16, 768, 12, 12, 512), "visual.")
    adapters = fill_all(ReleasedAdapters(tower.widths), "visual.")
    check(tower(hash_fill.inputs("image", (2, 3, 224, 224)), adapters.adapt), "image")
    assert [sorted(set(mixture.picked.tolist())) for mixture in adapters.mixtures] == GOLDEN["image"]["experts"]


@torch.inference_mode()
def test_the_text_tower_with_adapters_is_that_of_the_published_code():
    tower = hash_fill.fill(TextTransformer(49408, 77, 512, 12, 8, 512))
    adapters = fill_all(ReleasedAdapters(tower.widths))
    texts = ["a bad photo of a Egyptian cat.", "a photo of a person who is blackboard_wiping in a classroom."]
    check(tower(published_tokenizer()(texts), adapters.adapt), "text")
    assert [sorted(set(mixture.picked.tolist())) for mixture in adapters.mixtures] == GOLDEN["text"]["experts"]


def test_there_are_as_many_parameters_as_in_the_published_code():
    with torch.device("meta"):
        visual, text = VisionTransformer(224, 16, 768, 12, 12, 512), TextTransformer(49408, 77, 512, 12, 8, 512)
        network = ReleasedNet(ClipTowers(visual, text, Tokenizer([]), 100.0, "ab" * 32), 1024)

    def count(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    listed = count(network.visual_adapters, network.text_adapters)
    mixtures = [*network.visual_adapters.mixtures, *network.text_adapters.mixtures]
    expected = GOLDEN["counts"]
    assert listed == expected["listed"]
    assert listed + count(visual, text) + 1 == expected["all"]  # and CLIP's scale
    assert count(network.fusion) == expected["fusion"]
    assert count(*(mixture.experts[0] for mixture in mixtures)) == expected["trained"]


def small_clip(tokenizer):
    """CLIP with 512 values, 32 pixels and two blocks of 64 channels in each tower."""
    visual = hash_fill.fill(VisionTransformer(32, 16, 64, 2, 1, 512), "visual.")
    text = hash_fill.fill(TextTransformer(49408, 77, 64, 2, 1, 512))
    return ClipTowers(visual, text, tokenizer, 1.0, "ab" * 32)


def test_four_steps_of_training_are_those_of_the_published_code():
    tokenizer = published_tokenizer()
    network = ReleasedNet(small_clip(tokenizer), 1024)
    with torch.no_grad():
        for side, prefix in ((network.visual_adapters, "visual."), (network.text_adapters, "")):
            for place, mixture in enumerate(side.mixtures):
                for expert in mixture.experts:  # all begin alike, so that it does not matter which is picked
                    expert.dropout = 0.0
                    for name, parameter in expert.named_parameters():
                        wanted = f"{prefix}transformer.resblocks.{place}.{released_name(f'experts.0.{name}')}"
                        parameter.copy_(hash_fill.weight(wanted, tuple(parameter.shape)))
        network.audio_layer.weight.copy_(hash_fill.inputs("fc.weight", (512, 1024), math.sqrt(3 / 1024)))
        network.audio_layer.bias.copy_(hash_fill.inputs("fc.bias", (512,), 0.1))
    prompts = prompts_for(["cock", "hen", "tree frog"], "released-imagenet-esc")
    network.grow(3, torch.stack([tokenizer(row) for row in prompts]))
    released = method()
    optimizer = released.optimizer([p for p in network.parameters() if p.requires_grad], 1e-3, 0.0)
    network.train()
    for step, (loss, cross_entropy) in enumerate(GOLDEN["trajectory"]):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * released.rate(step, 8)
        outputs = network.score(hash_fill.inputs(f"au{step}", (5, 1024)), hash_fill.inputs(f"im{step}", (5, 3, 32, 32)))
        losses = released.losses(Step(outputs, torch.tensor([0, 1, 2, 1, 0]), 0, None, (3,)))
        assert float(sum(losses.values()).detach()) == pytest.approx(loss, abs=1e-5)
        assert float(losses["classification"].detach()) / 0.7 == pytest.approx(cross_entropy, abs=2e-6)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        check(network.visual(hash_fill.inputs("im0", (5, 3, 32, 32)), network.visual_adapters.adapt), "trained")


# losses and learning rate


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 2**31))
def test_the_weights_of_the_weighted_cross_entropy_cancel(clips, classes, seed):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(clips, classes, generator=random, dtype=torch.float64, requires_grad=True)
    visual = F.normalize(torch.randn(clips, 16, generator=random, dtype=torch.float64), dim=1).requires_grad_()
    labels = torch.randint(classes, (clips,), generator=random)
    loss = released_weighted_cross_entropy(logits, labels, visual)
    plain = F.cross_entropy(logits, labels)
    torch.testing.assert_close(loss, plain, rtol=1e-9, atol=1e-9)
    ours, theirs = torch.autograd.grad(loss, (logits, visual)), torch.autograd.grad(plain, logits)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-9, atol=1e-9)
    assert ours[1].abs().max() < 1e-9


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 2**31))
def test_mutual_information_is_a_plain_sum(clips, width, seed):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, clips, width))
    expected = 0.0
    for row in range(clips):
        p, q, joint = (np.exp(z) / np.exp(z).sum() for z in (x[row], y[row], x[row] * y[row]))
        for k in range(width):
            expected += joint[k] * (math.log(joint[k]) - math.log(p[k]) - math.log(q[k]))
    assert float(released_mutual_information(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected)


def test_mutual_information_of_unit_vectors_is_nearly_constant():
    for number in range(5):
        x, y = unit(f"x{number}", (8, 512)), unit(f"y{number}", (8, 512))
        assert float(released_mutual_information(x, y)) / (8 * math.log(512)) == pytest.approx(1, abs=1e-3)


def test_losses_refuse_wrong_shapes():
    x = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="must both be"):
        released_mutual_information(x, torch.zeros(3, 5))
    for logits, labels, visual in ((x, torch.zeros(2), x), (x[0], torch.zeros(4), x), (x, torch.zeros(3), x[:2])):
        with pytest.raises(ValueError, match="must be"):
            released_weighted_cross_entropy(logits, labels.long(), visual)


def test_rates_warm_up_and_fall():
    rates = [method().rate(step, 200) for step in range(200)]
    assert rates[:30] == sorted(rates[:30])
    assert rates[29:] == sorted(rates[29:], reverse=True)
    assert max(rates) == rates[29] == rates[30] == 1
    assert all(0 < method().rate(step, 30) <= 1 for step in range(31))  # where the release stops


# adapters and their routers


def test_of_equal_scores_the_first_counts():
    mixture = ReleasedMixture(8)
    mixture(torch.randn(6, 3, 8))
    assert mixture.picked.tolist() == [0] * 6
    assert mixture.frozen.tolist() == [False, True, True, True, True]
    with torch.no_grad():
        mixture.router[0] = torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0])
    tokens = torch.ones(2, 3, 8)
    tokens[1, 0, 0] = -1
    mixture(tokens)
    assert mixture.picked.tolist() == [1, 0]


def test_a_router_reads_the_first_token_and_each_clip_goes_through_its_expert():
    torch.manual_seed(0)
    mixture = ReleasedMixture(8).eval()
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.normal_()
    tokens = torch.randn(20, 3, 8)
    added = mixture(tokens)
    assert len(set(mixture.picked.tolist())) > 2
    for clip in range(20):
        best = max(range(5), key=lambda expert: float(tokens[clip, 0] @ mixture.router[:, expert].detach()))
        assert mixture.picked[clip] == best
        torch.testing.assert_close(added[clip], mixture.experts[best](tokens[clip]))


def test_no_clips_freeze_nothing():
    mixture = ReleasedMixture(8)
    assert mixture(torch.zeros(0, 3, 8)).shape == (0, 3, 8)
    assert not mixture.frozen.any()


def test_an_expert_that_one_clip_did_not_pick_is_frozen_for_good():
    mixture = ReleasedMixture(2).eval()  # in evaluation too
    with torch.no_grad():
        mixture.router.copy_(torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]))
    first, second = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])

    def free(module):
        held = [all(p.requires_grad for p in expert.parameters()) for expert in module.experts]
        assert held == (~module.frozen).tolist()
        return [number for number, is_free in enumerate(held) if is_free]

    assert free(mixture) == [0, 1, 2, 3, 4]
    mixture(torch.cat([first, first]))
    assert free(mixture) == [0]
    alone = copy.deepcopy(mixture)
    mixture(torch.cat([first, second]))  # mixed: nothing is left
    assert free(mixture) == []
    mixture(first)
    assert free(mixture.train()) == []
    loaded = ReleasedMixture(2)
    loaded.load_state_dict(mixture.state_dict())
    assert free(loaded) == []
    assert free(alone) == [0]
    loaded = ReleasedMixture(2)
    loaded.load_state_dict(alone.state_dict())
    assert free(loaded) == [0]


# fusion


def test_the_picture_is_all_unless_the_sound_says_the_same():
    fusion = ReleasedFusion()
    visual, audio = unit("v", (4, 512)), unit("a", (4, 512))
    assert fusion(visual, audio) is visual
    with pytest.raises(McilError, match=r"correlate by 1\.00, and from 0\.8.*use method 'mcil-audioclip'") as raised:
        fusion(visual, F.normalize(0.3 * visual + 0.1))
    assert "\n" not in str(raised.value)
    # The mean over the batch decides.
    mixed = torch.cat([visual[:3], audio[3:]])
    assert fusion(visual, mixed) is visual
    assert fusion(visual[:0], audio[:0]).shape == (0, 512)


# crops


@pytest.mark.parametrize(("side", "size"), [(40, 32), (64, 64), (50, 80), (30, 7)])
def test_resampling_is_pillows(side, size):
    torch.manual_seed(1)
    pictures = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), np.uint8)
    boxes = random_boxes(5, side, CPU)
    boxes[0] = torch.tensor([3, 1, 11, 17])
    ours = resample(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), boxes, size)
    off = []
    for picture, (top, left, height, width), mine in zip(pictures, boxes.tolist(), ours, strict=True):
        cut = Image.fromarray(picture).crop((left, top, left + width, top + height))
        theirs = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        off.append(np.abs(mine.numpy() - theirs))
    assert np.max(off) <= 1  # where a value lies between two numbers
    assert np.mean(np.stack(off) > 0) < 1e-3


def test_boxes_are_torchvisions():
    """Where they lie and how often each size comes, beside plain loops that follow its documentation."""
    torch.manual_seed(0)
    count, side = 4000, 96
    boxes = random_boxes(count, side, CPU)
    top, left, height, width = boxes.T
    assert boxes.dtype == torch.int64
    assert ((top >= 0) & (left >= 0) & (top + height <= side) & (left + width <= side)).all()
    random = np.random.default_rng(0)
    loops = []
    for _ in range(count):
        size = (side, side)
        for _ in range(10):
            area = side * side * random.uniform(0.9, 1.0)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= side and 0 < h <= side:
                size = (h, w)
                break
        loops.append((*(int(random.integers(0, side - extent + 1)) for extent in size), *size))
    expected = torch.tensor(loops, dtype=torch.float64)
    error = expected.std(dim=0) / math.sqrt(count)
    assert ((boxes.double().mean(dim=0) - expected.mean(dim=0)).abs() < 6 * error).all()
    whole = (expected[:, 2:] == side).all(dim=1).double().mean()
    assert float((boxes[:, 2:] == side).all(dim=1).double().mean()) == pytest.approx(float(whole), abs=0.04)


# token ids


def test_token_ids_need_a_vocabulary_alone(tmp_path):
    path = tiny_towers.write_vocabulary(tmp_path)
    encoder = tiny_released.text_encoder(tmp_path)
    tokenizer = Tokenizer.read(path)
    texts = ["a dog", "", "two cats of a dog " * 20]
    ids = encoder.encode(texts)
    assert ids.dtype == np.int32
    assert ids.tolist() == tokenizer(texts).tolist()
    card = encoder.card()
    assert card["shape"] == list(ids.shape[1:]) == list(encoder.shape)
    assert card["revision"] == tokenizer.revision
    assert card["modality"] == encoder.modality == "text"
    (again,) = ENCODERS[card["name"]](**card["options"])
    assert again.card() == card
    json.dumps(card)
    (beside,) = create_encoders({"clip-tokens": {"weights": str(path)}})
    assert beside.encode(texts).tolist() == ids.tolist()


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(McilError, match=r"clip-tokens: .* lacks the vocabulary"):
        create_encoders({"clip-tokens": {"weights": str(tmp_path)}})


# pixels of one encoder beside the sound of another


def test_one_modality_of_an_encoder_can_be_taken():
    audio, visual = create_encoders("{builtin: {only: audio}, raw: {only: visual, size: 64}}")
    assert (audio.name, audio.modality) == ("builtin", "audio")
    assert (visual.name, visual.modality, visual.shape) == ("raw", "visual", (1, 4096, 3))
    assert "only" not in visual.card()["options"]
    for wanted, said in (
        ("{raw: {only: text}}", r"must be a modality that it reads \(audio, visual\), but it is 'text'"),
        ("builtin,raw", r"both read audio; choose one for each modality, by the option 'only'"),
        ("{raw: {onyl: visual}}", "has no option 'onyl'"),
    ):
        with pytest.raises(McilError, match=said) as raised:
            create_encoders(wanted)
        assert "\n" not in str(raised.value)


# the network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_released.weights(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def text(weights):
    return tiny_released.text(weights)


@pytest.fixture
def network(weights, text):
    torch.manual_seed(0)
    network = method(weights=str(weights)).network({"audio": 1024, "visual": 3, "text": 77}, 0, "audio-visual")
    network.grow(2, text[:2])
    network.grow(5, text[2:5])
    with torch.no_grad():  # a new adapter adds nothing, and then nobody could tell that it is there
        for adapters in (network.visual_adapters, network.text_adapters):
            for mixture in adapters.mixtures:
                for expert in mixture.experts:
                    nn.init.normal_(expert.up.weight, std=0.5)
                    expert.dropout = 0.0
    return network


def plain_text(network, ids):
    return network.text(ids.long(), network.text_adapters.adapt)


def test_in_evaluation_classes_are_their_last_prompt(network, text):
    clips = tiny_released.clips(0, 5, 2)
    network.eval()
    with torch.no_grad():
        outputs = network(clips.audio, clips.visual)
        pictures = normalise(clips.visual.reshape(10, 64, 64, 3).permute(0, 3, 1, 2))
        visual = F.normalize(network.visual(pictures, network.visual_adapters.adapt), dim=1)
        known = F.normalize(plain_text(network, text[:5, -1]), dim=1)
        sound = F.normalize(network.audio_layer(clips.audio), dim=1)
        again = network(clips.audio, clips.visual)
    assert outputs.logits.shape == (10, 5)
    torch.testing.assert_close(outputs.logits, 2.6592600 * visual @ known.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.visual, visual)
    torch.testing.assert_close(outputs.fused, visual)
    torch.testing.assert_close(outputs.audio, sound)
    assert torch.equal(again.logits, outputs.logits)


def test_in_training_classes_are_the_mean_of_their_other_prompts_and_old_ones_have_no_score(network, text):
    clips = tiny_released.clips(2, 5, 2)
    network.train()
    with torch.no_grad():
        outputs = network(clips.audio, clips.visual)
        expected = torch.stack([plain_text(network, rows[:-1]).mean(dim=0) for rows in text[2:5]])
    torch.testing.assert_close(outputs.prototypes, expected, rtol=1e-4, atol=1e-4)
    assert outputs.prototypes.norm(dim=1).min() > 1.1  # not normalised
    assert outputs.logits.shape == (6, 5)
    assert (outputs.logits[:, :2] == -torch.inf).all()
    torch.testing.assert_close(outputs.logits[:, 2:], SCALE * outputs.fused @ expected.T, rtol=1e-3, atol=1e-3)


def test_what_text_says_is_not_kept_beyond_a_change(network):
    clips = tiny_released.clips(0, 5, 1)
    network.eval()
    with torch.no_grad():
        before = network(clips.audio, clips.visual).logits
        for mixture in network.text_adapters.mixtures:
            mixture.experts[0].up.weight.mul_(2)
        after = network.train().eval()(clips.audio, clips.visual).logits
    assert (before - after).abs().max() > 1e-3
    with_gradient = network(clips.audio, clips.visual).logits
    torch.testing.assert_close(with_gradient, after)
    with_gradient.sum().backward()
    assert network.text_adapters.mixtures[0].experts[0].up.weight.grad.abs().max() > 0
    copy.deepcopy(network)


def test_training_sees_other_boxes_each_time_and_evaluation_the_whole(network):
    clips = tiny_released.clips(0, 2, 4)
    torch.manual_seed(3)
    with torch.no_grad():
        network.train()
        one, other = (network(None, clips.visual).visual for _ in range(2))
        torch.manual_seed(3)
        again = network(None, clips.visual).visual
        whole = network.eval()(None, clips.visual).visual
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, whole, atol=1e-4)


def test_pictures_of_another_size_are_resized(network):
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 80, 80, 3), np.uint8))
    small = [np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BICUBIC)) for p in pictures.numpy()]
    with torch.no_grad():
        network.eval()
        large = network(None, pictures.reshape(2, 1, 6400, 3)).visual
        resized = network(None, torch.from_numpy(np.stack(small)).reshape(2, 1, 4096, 3)).visual
    torch.testing.assert_close(large, resized, rtol=0, atol=2e-3)


def test_a_router_gets_a_gradient_of_exactly_zero(network):
    clips = tiny_released.clips(2, 5, 2)
    network.train()
    step = Step(network(clips.audio, clips.visual), clips.labels, 0, None, (2, 3))
    sum(method().losses(step).values()).backward()
    for adapters in (network.visual_adapters, network.text_adapters):
        for mixture in adapters.mixtures:
            assert mixture.router.grad is not None
            assert not mixture.router.grad.any()
            assert mixture.noise.grad is None
            assert mixture.experts[0].up.weight.grad.abs().max() > 0
            for expert in mixture.experts[1:]:
                assert all(parameter.grad is None for parameter in expert.parameters())
    for parameter in (*network.fusion.parameters(), *network.audio_layer.parameters()):
        assert parameter.grad is None


def test_figures_show_that_the_second_metric_is_a_constant(network):
    clips = tiny_released.clips(0, 5, 2)
    figures = network.eval().figures([clips.select(torch.arange(5)), clips.select(torch.arange(5, 10))])
    assert set(figures) == {"nmi_visual", "nmi_audio", "correlation", "unmasked", "visual_mean", "text_mean", "load"}
    assert figures["nmi_visual"] == pytest.approx(1, abs=0.05)  # of 24 channels; of 512 it is 1.0005
    assert abs(figures["correlation"]) < 0.8
    without_sound = network.figures([dataclasses.replace(clips, audio=None)])
    assert set(figures) - set(without_sound) == {"nmi_audio", "correlation", "unmasked"}
    json.dumps(figures)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:, :1],
        lambda text: text[:, :, :76],
        lambda text: text[..., None],
        lambda text: text.float() + 0.5,
        lambda text: text - 1,
        lambda text: text + 500,
    ],
)
def test_text_that_is_no_token_ids_is_refused_in_one_line(network, text, change):
    with pytest.raises(McilError, match=r"token ids, \(n, P, 77\).*encoder 'clip-tokens'") as raised:
        network.grow(6, change(text[5:]))
    assert "\n" not in str(raised.value)


def test_a_network_cannot_shrink_or_grow_without_text(network, text):
    for classes, given_text in ((4, text[:1]), (6, None), (7, text[5:])):
        with pytest.raises(ValueError, match="new ones"):
            network.grow(classes, given_text)
    with pytest.raises(ValueError, match="needs visual"):
        network(torch.zeros(1, 1024), None)


# the method


def learner(weights, **changes):
    return Learner(NAME, {"weights": str(weights)}, **{"training": TRAINING} | changes)


def learn_next(learner, text, checkpoint=None):
    """Learn the next of the tasks abc, de, f."""
    old, names = len(learner.class_names), ("abc", "de", "f")[len(learner.task_sizes)]
    seen = old + len(names)
    learner.learn(tiny_released.clips(old, seen), names, checkpoint=checkpoint, text=text[old:seen])


@pytest.fixture(scope="module")
def learnt(weights, text):
    """A learner after two tasks, and its networks after each."""
    made, networks = learner(weights), []
    for _ in range(2):
        learn_next(made, text)
        networks.append(copy.deepcopy(made.network))
    return made, networks


def test_only_four_tensors_of_a_block_change(learnt):
    before, after = (network.state_dict() for network in learnt[1])
    after.pop("tokens")
    after.pop("text_mean")  # of what text said before the task
    changed = {name for name, tensor in after.items() if not torch.equal(before[name], tensor)}
    kinds = [f"{layer}.{kind}" for layer in ("down", "up") for kind in ("weight", "bias")]
    assert changed == {
        f"{side}_adapters.places.{place}.experts.0.{kind}"
        for side in ("visual", "text")
        for place in range(2)
        for kind in kinds
    }


def test_sound_never_changes_a_prediction(learnt, tmp_path):
    made, _ = learnt
    clips = tiny_released.clips(0, 5, 3, seed=9)
    expected = made.predict(clips.audio, clips.visual).probabilities
    made.save(tmp_path)
    loaded = Learner.load(tmp_path)
    for audio in (clips.audio.flip(0), 1000 * clips.audio, torch.zeros_like(clips.audio), None):
        for each in (made, loaded):
            assert torch.equal(each.predict(audio, clips.visual).probabilities, expected)
    assert not torch.allclose(made.predict(clips.audio, clips.visual.flip(0)).probabilities, expected)
    assert torch.isfinite(made.predict(audio=clips.audio).probabilities).all()


def test_what_is_saved_is_small_and_learns_on_the_same(weights, text, learnt, tmp_path):
    kept = learner(weights)
    learn_next(kept, text)
    kept.save(tmp_path / "a")
    trained = sum(p.numel() for p in learnt[1][0].parameters())
    file = tmp_path / "a" / "learner.safetensors"
    assert file.stat().st_size < 4 * trained + 100_000  # CLIP's own weights are not in it
    loaded = Learner.load(tmp_path / "a")
    learn_next(kept, text)
    learn_next(loaded, text)
    assert tiny.saved(kept, tmp_path / "b") == tiny.saved(loaded, tmp_path / "c")


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(weights, text, tmp_path, monkeypatch):
    kept, write = [], mcil.training.engine.write_tensors

    def write_twice(path, tensors, metadata):
        write(path, tensors, metadata)
        kept.append(tmp_path / f"{len(kept)}.safetensors")
        write(kept[-1], tensors, metadata)

    training = dataclasses.replace(TRAINING, checkpoint_seconds=0.0)
    whole = learner(weights, training=training)
    for task in range(2):
        if task:
            whole.save(tmp_path / "before")
        with monkeypatch.context() as patch:
            patch.setattr(mcil.training.engine, "write_tensors", write_twice)
            learn_next(whole, text, tmp_path / f"checkpoint-{task}")
        again = Learner.load(tmp_path / "before") if task else learner(weights, training=training)
        learn_next(again, text, kept[0])
        assert tiny.saved(again, tmp_path / "again") == tiny.saved(whole, tmp_path / "whole")
        kept.clear()


def test_other_weights_in_the_place_of_those_it_was_trained_with_are_refused(text, tmp_path):
    folder = tiny_released.weights(tmp_path / "clip", layers=1)
    made = learner(folder)
    learn_next(made, text)
    made.save(tmp_path / "learner")
    Learner.load(tmp_path / "learner")
    state = tiny_towers.state(tiny_towers.vision(1), tiny_towers.text(1)) | {"logit_scale": torch.tensor(2.0)}
    (folder / "clip.safetensors").unlink()
    torch.save(state, folder / "clip.pt")
    with pytest.raises(McilError, match="was trained with weights of sha256") as raised:
        Learner.load(tmp_path / "learner")
    assert "\n" not in str(raised.value)
    (folder / "clip.pt").unlink()
    with pytest.raises(McilError, match="holds no weights"):
        Learner.load(tmp_path / "learner")


def test_it_learns_from_pictures_alone_and_not_from_sounds_alone(weights, text):
    made = learner(weights, modality="visual")
    told = []
    made.learn(tiny_released.clips(0, 3), "abc", text=text[:3], on_event=told.append)
    assert set(told[0]["losses"]) == {"classification", "mutual_information"}
    assert len(made.predict(visual=tiny_released.clips(0, 3).visual).labels) == 24
    with pytest.raises(McilError, match="classifies pictures; use modality audio-visual or visual"):
        learn_next(learner(weights, modality="audio"), text)


def test_weights_must_be_of_a_vision_transformer(text, tmp_path):
    torch.save(tiny_towers.state(tiny_towers.resnet(), tiny_towers.text()), tmp_path / "RN50.pt")
    tiny_towers.write_vocabulary(tmp_path)
    with pytest.raises(McilError, match=r"vision transformer, and .* holds a residual network; give ViT-B-16\.pt"):
        learn_next(learner(tmp_path), text)


def test_text_and_pixels_must_be_there(weights, text):
    with pytest.raises(McilError, match="mcil text"):
        learner(weights).learn(tiny_released.clips(0, 3), "abc")
    flat = dataclasses.replace(tiny_released.clips(0, 3), visual=torch.zeros(24, 2, 4, 12))
    with pytest.raises(McilError, match="extract them with the encoder 'raw'"):
        learner(weights).learn(flat, "abc", text=text[:3])


def test_whole_runs_go_over_a_store(weights, tmp_path):
    store = tiny_released.make_store(tmp_path / "store", weights, {"train": 6, "val": 1, "test": 2})
    assert read_class_text(store.path).values.shape == (6, 36, 77)
    experiment = tiny.experiment(
        store.path, method=NAME, options={"weights": str(weights)}, training=TRAINING, normalize="none"
    )
    result = run_single(experiment, RunFolder(tmp_path / "run"), lambda event: None)
    assert result["task_sizes"] == list(tiny.SIZES)
    assert result["shuffle_drop"]["audio"] == {"mean": 0, "last": 0}
