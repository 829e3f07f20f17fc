"""What every tower promises, on small random ones; and each at full size against values of the published code."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tiny_towers
from golden import hash_fill
from mcil.encoders.audioclip import ESResNeXt
from mcil.encoders.clip import ResNet, TextTransformer, VisionTransformer

HERE = Path(__file__).parent / "golden"
GOLDEN = json.loads((HERE / "clip.json").read_text())

TEXTS = torch.tensor([[517, 70, 512, 520, 0, 0, 0], [517, 513, 71, 72, 515, 520, 0]])
TOWERS = {
    "vision": (tiny_towers.vision, hash_fill.inputs("image", (2, 3, 64, 64))),
    "text": (tiny_towers.text, TEXTS),
    "resnet": (tiny_towers.resnet, hash_fill.inputs("image", (2, 3, 64, 64))),
    "audio": (lambda: tiny_towers.audio(hop=30), hash_fill.inputs("sound", (2, 4000), 8000)),
}
RESIDUAL = ("resnet", "audio")


@pytest.fixture(params=TOWERS, scope="module")
def tower(request):
    """Name, tower, inputs of two samples."""
    make, inputs = TOWERS[request.param]
    return request.param, make().requires_grad_(False), inputs


def shifted(name, hidden, direction):
    """Add a direction to all tokens, and leave the channel that says where a text ends."""
    if name in RESIDUAL:
        return hidden + direction[:, None, None]
    return hidden + (nn.functional.pad(direction, (0, 1)) if name == "text" else direction)


def test_a_tower_can_be_cut_at_every_place(tower):
    _, tower, inputs = tower
    whole = tower(inputs)
    assert whole.shape == (2, tower.width)
    assert (whole[0] - whole[1]).abs().max() > 1e-3
    for place in range(len(tower.widths) + 1):
        hidden = tower.below(inputs, place)
        assert isinstance(hidden, torch.Tensor)
        torch.testing.assert_close(tower.above(hidden, place), whole, rtol=0, atol=0)
        kept = torch.cat([hidden, hidden])[torch.tensor([3, 0])]  # as a cache gives them back
        torch.testing.assert_close(tower.above(kept, place), whole[[1, 0]], rtol=1e-4, atol=1e-4)


def test_an_adapter_that_adds_nothing_changes_nothing(tower):
    _, tower, inputs = tower
    added = tower(inputs, lambda place, tokens, summary: torch.zeros_like(tokens))
    torch.testing.assert_close(added, tower(inputs), rtol=0, atol=0)


def test_adapters_are_asked_once_at_every_place_from_the_cut_on(tower):
    name, tower, inputs = tower
    for first in range(len(tower.widths)):
        hidden = tower.below(inputs, first)
        seen = []

        def adapt(place, tokens, summary, seen=seen):
            seen.append((place, tokens.shape[-1]))
            assert tokens.dim() == 3
            assert summary.shape == (2, tokens.shape[-1])
            if name == "text":
                expected = tokens[[0, 1], [3, 5]]
            else:
                expected = tokens[:, 0] if name == "vision" else tokens.mean(dim=1)
            torch.testing.assert_close(summary, expected)
            return torch.zeros_like(tokens)

        tower.above(hidden, first, adapt)
        assert seen == [(place, tower.widths[place]) for place in range(first, len(tower.widths))]


def test_what_an_adapter_says_is_added_behind_its_layer(tower):
    name, tower, inputs = tower
    for chosen, width in enumerate(tower.widths):
        direction = torch.linspace(0, 1, width)

        def adapt(place, tokens, summary, chosen=chosen, direction=direction):
            return direction.expand_as(tokens) if place == chosen else torch.zeros_like(tokens)

        after = shifted(name, tower.below(inputs, chosen + 1), direction)
        torch.testing.assert_close(tower(inputs, adapt), tower.above(after, chosen + 1), rtol=1e-4, atol=1e-4)
        assert (tower(inputs, adapt) - tower(inputs)).abs().max() > 1e-4


@pytest.mark.parametrize("name", RESIDUAL)
def test_tokens_of_a_stage_go_back_to_their_places(name):
    make, inputs = TOWERS[name]
    tower = make()
    stage = tower.below(inputs, 2)
    doubled = tower(inputs, lambda place, tokens, summary: tokens if place == 1 else torch.zeros_like(tokens))
    torch.testing.assert_close(doubled, tower.above(2 * stage, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vision", "text"])
def test_adapters_of_a_block_see_its_tokens_after_attention(name):
    make, inputs = TOWERS[name]
    tower = make()
    hidden = tower.below(inputs, 1)
    tokens = hidden[..., :-1] if name == "text" else hidden
    block = tower.transformer.resblocks[1]
    attention = nn.MultiheadAttention(64, 1, batch_first=True)  # torch's own, whose weights have the same names
    attention.load_state_dict(block.attn.state_dict())
    mask = torch.triu(torch.full((tokens.shape[1],) * 2, -torch.inf), 1) if name == "text" else None
    normed = block.ln_1(tokens)
    expected = tokens + attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
    seen = []
    tower.above(hidden, 1, lambda place, h, summary: seen.append(h) or torch.zeros_like(h))
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_adapters_learn_and_towers_do_not(tower):
    _, tower, inputs = tower
    scale = torch.zeros(len(tower.widths), requires_grad=True)
    tower(inputs, lambda place, tokens, summary: scale[place] * tokens).sum().backward()
    assert (scale.grad != 0).all()
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert not tower.below(inputs, 1).requires_grad


def test_what_stands_behind_the_end_of_a_text_changes_nothing():
    tower = tiny_towers.text()
    padded = torch.nn.functional.pad(TEXTS, (0, 70))
    torch.testing.assert_close(tower(padded), tower(TEXTS), rtol=1e-4, atol=1e-5)
    other = TEXTS.clone()
    other[0, 5] = 99
    torch.testing.assert_close(tower(other), tower(TEXTS), rtol=1e-4, atol=1e-5)


def test_hash_fill_is_portable():
    expected = [-0.80068488, 0.58285544, -0.32303749, 0.97030606]
    np.testing.assert_allclose(hash_fill.hashed("x", (4,)), expected, atol=1e-8)


def test_audioclips_towers_have_the_published_names_and_shapes():
    table = gzip.decompress((HERE / "audioclip_names.tsv.gz").read_bytes()).decode().splitlines()
    published = dict(line.split("\t") for line in table)
    assert len(published) == 861
    with torch.device("meta"):
        towers = ESResNeXt(), ResNet(224, (3, 4, 6, 3), 64, 32, 1024), TextTransformer(49408, 77, 512, 12, 8, 1024)
    ours = {}
    for prefix, tower in zip(("audio.", "visual.", ""), towers, strict=True):
        ours |= {prefix + name: str(tuple(value.shape)) for name, value in tower.state_dict().items()}
    scales = {"logit_scale", "logit_scale_ai", "logit_scale_at"}
    assert ours == {name: shape for name, shape in published.items() if name not in scales}
    assert sum(value.numel() for tower in towers for value in tower.state_dict().values()) + len(scales) == 134_246_925


IMAGE = hash_fill.inputs("image", (2, 3, 224, 224))


def golden(name):
    values = GOLDEN["towers"][name]
    return values["first"], values["mean"], values["l2"]


@torch.inference_mode()
def test_vit_b_16_is_clips():
    tower = hash_fill.fill(VisionTransformer(224, 16, 768, 12, 12, 512), "visual.")
    hash_fill.check(tower(IMAGE), *golden("vit_image"))


@torch.inference_mode()
def test_rn50_is_clips():
    tower = hash_fill.fill(ResNet(224, (3, 4, 6, 3), 64, 32, 1024), "visual.")
    hash_fill.check(tower(IMAGE), *golden("resnet_image"))


@torch.inference_mode()
def test_text_towers_are_clips():
    ids = torch.zeros(4, 77, dtype=torch.int64)
    for row, tokens in zip(ids, GOLDEN["tokens"].values(), strict=True):
        row[: len(tokens) + 2] = torch.tensor([49406, *tokens, 49407])
    tower = hash_fill.fill(TextTransformer(49408, 77, 512, 12, 8, 512))
    hash_fill.check(tower(ids[2:]), *golden("vit_text"))
    # AudioCLIP's text tower differs by its projection only.
    tower.text_projection = nn.Parameter(hash_fill.weight("text_projection", (512, 1024)))
    hash_fill.check(tower(ids[:2, :20]), *golden("resnet_text"))


def noisy_tones():
    """Two seconds in all, of two tones and noise, in the scale of 16-bit integers: (2, 44100)."""
    turns = 2 * np.pi * np.arange(44100) / 44100
    tones = (8000 * np.sin(440 * turns) + 2000 * np.sin(1234.5 * turns)).astype(np.float32)
    noise = [hash_fill.inputs(name, (44100,), 500) for name in ("nz0", "nz")]
    return torch.stack([torch.from_numpy(tones) + noise[0], 0.5 * torch.from_numpy(tones[::-1].copy()) + noise[1]])


@torch.inference_mode()
def test_the_audio_tower_is_audioclips():
    tower = hash_fill.fill(ESResNeXt(), "audio.")
    window = GOLDEN["window"]
    torch.testing.assert_close(tower.window[:4], torch.tensor(window["first"]), rtol=1e-6, atol=0)
    assert len(tower.window) == window["n"]
    assert float(tower.window[827]) == window["mid"]
    assert float(tower.window.double().sum()) == pytest.approx(window["sum"], rel=1e-7)
    norms = tower.fbsp.wavelets().flatten(1).norm(dim=1)
    assert float((norms - 1).square().mean()) == pytest.approx(GOLDEN["towers"]["wavelet_penalty"], rel=1e-5)

    sound = noisy_tones()
    levels = tower.spectrogram(sound)
    assert levels.shape == (2, 3, 341, 77)
    hash_fill.check(levels, *golden("levels"), tolerance=2e-3)
    assert float(levels.max()) == pytest.approx(GOLDEN["towers"]["levels"]["max"], abs=1e-3)
    # The quietest is what is left of sums that cancel: a power of 1e-11, of which rounding alone is some percent.
    assert float(levels.min()) == pytest.approx(GOLDEN["towers"]["levels"]["min"], abs=0.2)
    features = tower.below(sound, 4)
    assert list(features.shape) == GOLDEN["towers"]["features"]["shape"]
    hash_fill.check(features, *golden("features"), tolerance=2e-3)
    embeddings = tower.above(features, 4)
    hash_fill.check(embeddings, *golden("audio"), tolerance=2e-3)
    second = torch.tensor(GOLDEN["towers"]["audio_second_row"])
    torch.testing.assert_close(embeddings[1, :6], second, rtol=0, atol=2e-3 * float(second.abs().max()))
    tower.fc = nn.Identity()
    hash_fill.check(tower.above(features, 4), *golden("pooled"), tolerance=2e-3)
