"""AudioMAE with tiny random weights, loaded by the same code as the published ones."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mcil.encoders import ENCODERS
from mcil.encoders.fbank import kaldi_fbank
from mcil.errors import McilError
from test_encoders import check_contract, clip_of, tone, write_wave

WIDTH, DEPTH, FRAMES = 128, 2, 64  # two heads; 4 x 8 patches


def tiny_state(norm="fc_norm"):
    """Random weights with timm's names, none of them at its neutral value."""
    draw = torch.Generator().manual_seed(0)

    def values(*shape, near=0.0):
        return near + 0.2 * torch.randn(*shape, generator=draw)

    tokens = 1 + FRAMES // 16 * 8
    state = {
        "cls_token": values(1, 1, WIDTH),
        "pos_embed": values(1, tokens, WIDTH),
        "patch_embed.proj.weight": values(WIDTH, 1, 16, 16) / 8,
        "patch_embed.proj.bias": values(WIDTH),
    }
    linear = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for i in range(DEPTH):
        for name in ("norm1", "norm2"):
            state[f"blocks.{i}.{name}.weight"] = values(WIDTH, near=1.0)
            state[f"blocks.{i}.{name}.bias"] = values(WIDTH)
        for name, (out, into) in linear.items():
            state[f"blocks.{i}.{name}.weight"] = values(out * WIDTH, into * WIDTH) / 3
            state[f"blocks.{i}.{name}.bias"] = values(out * WIDTH)
    if norm:
        state[f"{norm}.weight"] = values(WIDTH, near=1.0)
        state[f"{norm}.bias"] = values(WIDTH)
    return state


def naive_forward(state, spectrogram):
    """One clip through the transformer in plain operations, head by head."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"] if name else scaled

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    kernel = state["patch_embed.proj.weight"].reshape(WIDTH, -1)
    tokens = [state["cls_token"][0, 0]]
    for time in range(0, FRAMES, 16):
        for band in range(0, 128, 16):
            patch = spectrogram[time : time + 16, band : band + 16].reshape(-1)
            tokens.append(kernel @ patch + state["patch_embed.proj.bias"])
    x = torch.stack(tokens) + state["pos_embed"][0]
    for i in range(DEPTH):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        heads = []
        for head in range(WIDTH // 64):
            q, k, v = (qkv[:, part * WIDTH + head * 64 :][:, :64] for part in range(3))
            heads.append(torch.softmax(q @ k.T / 8.0, dim=-1) @ v)
        x = x + linear(torch.cat(heads, dim=-1), f"blocks.{i}.attn.proj")
        hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)), f"blocks.{i}.mlp.fc2")
    return norm(x[1:].mean(0), "fc_norm" if "fc_norm.weight" in state else None)


@pytest.fixture
def clip(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 6000).astype(np.float32)
    write_wave(tmp_path / "a.wav", tone(0.75) + noise + 0.1)
    return clip_of(tmp_path, audio="a.wav")


def saved(folder, state, form="pytorch_model.bin"):
    folder.mkdir(exist_ok=True)
    if form == "pytorch_model.bin":
        torch.save(state, folder / form)
    else:
        save_file(state, folder / form)
    return str(folder)


def audiomae(weights, **options):
    (encoder,) = ENCODERS["audiomae"](weights=weights, device="cpu", **options)
    return encoder


@pytest.mark.parametrize("form", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("norm", ["fc_norm", "norm", None])
def test_output_equals_a_naive_forward(tmp_path, clip, form, norm):
    state = tiny_state(norm)
    encoder = audiomae(saved(tmp_path / "w", state, form))
    features = check_contract(encoder, clip)
    assert features.shape == (WIDTH,)
    expected = naive_forward(state, torch.from_numpy(encoder.prepare(clip)))
    np.testing.assert_allclose(features, expected.numpy(), atol=2e-5)
    if norm != "fc_norm":
        np.testing.assert_allclose([features.mean(), features.std()], [0, 1], atol=1e-4)


def test_a_fine_tuned_files_classifier_is_left_aside(tmp_path, clip):
    state = tiny_state()
    plain = audiomae(saved(tmp_path / "w", state))
    tuned = audiomae(saved(tmp_path / "t", {**state, "head.weight": torch.ones(5, WIDTH), "head.bias": torch.ones(5)}))
    prepared = plain.prepare(clip)[None]
    np.testing.assert_array_equal(plain.encode(prepared), tuned.encode(prepared))


def test_default_preprocessing_is_the_weights_own(tmp_path, clip):
    encoder = audiomae(saved(tmp_path / "w", tiny_state()))
    waveform, _ = clip.waveform(16000)
    energies = kaldi_fbank(waveform - waveform.mean(), 16000, 128)
    assert len(energies) > FRAMES  # cut
    np.testing.assert_allclose(encoder.prepare(clip), (energies[:FRAMES] + 4.2677393) / 4.5689974, atol=1e-5)


def test_published_preprocessing_is_not_normalised_and_padded_with_zeros(tmp_path, clip):
    encoder = audiomae(saved(tmp_path / "w", tiny_state()), preset="published")
    short = clip_of(clip.root, audio="a.wav", end=0.3)
    waveform, _ = short.waveform(11430)
    energies = kaldi_fbank(waveform - waveform.mean(), 11430, 128)
    assert len(energies) < FRAMES
    prepared = encoder.prepare(short)
    np.testing.assert_allclose(prepared[: len(energies)], energies, atol=1e-5)
    assert not prepared[len(energies) :].any()
    assert encoder.card()["preprocessing"] == {"rate": 11430, "mean": 0.0, "std": 1.0, "frames": FRAMES, "bands": 128}


def test_options_stand_before_the_preset(tmp_path):
    encoder = audiomae(saved(tmp_path / "w", tiny_state()), preset="published", rate=16000, std=2.0)
    assert encoder.card()["preprocessing"] == {"rate": 16000, "mean": 0.0, "std": 2.0, "frames": FRAMES, "bands": 128}


def test_revision_tells_weights_apart_and_not_their_place(tmp_path):
    state = tiny_state()
    one, same = (audiomae(saved(tmp_path / name, state)).card()["revision"] for name in ("one", "same"))
    state["cls_token"] += 1
    other = audiomae(saved(tmp_path / "other", state)).card()["revision"]
    assert one == same != other


def without(name):
    return {key: value for key, value in tiny_state().items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("blocks.1.attn.qkv.bias"), "lacks blocks.1.attn.qkv.bias"),
        (without("pos_embed"), "lacks 'pos_embed'"),
        ({**tiny_state(), "decoder.weight": torch.ones(2)}, "holds decoder.weight"),
        ({**tiny_state(), "blocks.0.norm1.bias": torch.ones(7)}, "size mismatch for blocks.0.norm1.bias"),
        ({**tiny_state(), "patch_embed.proj.weight": torch.ones(WIDTH, 3, 16, 16)}, "sizes"),
        ({"model": tiny_state()}, "plain table of tensors"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, clip, state, message):
    def load():
        encoder = audiomae(saved(tmp_path / "w", state))
        return encoder.encode(encoder.prepare(clip)[None])

    with pytest.raises(McilError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "w") in str(caught.value)


class Harmful:
    def __reduce__(self):
        return print, ("code from a weights file ran",)


@pytest.mark.parametrize("form", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "text", "code"])
def test_damaged_or_harmful_files_are_refused(tmp_path, form, damage, capsys):
    folder = saved(tmp_path / "w", tiny_state(), form)
    file = tmp_path / "w" / form
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "text":
        file.write_text("hello")
    else:
        torch.save({"cls_token": Harmful()}, file)
    with pytest.raises(McilError, match="cannot be read as weights") as caught:
        audiomae(folder)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("/no/such/folder", "there is no folder /no/such/folder"),
        ("nothing", "there is no folder nothing"),
        ("someone/never-downloaded", "hf download someone/never-downloaded"),
    ],
)
def test_missing_weights_say_how_to_get_them(weights, message):
    with pytest.raises(McilError, match=message) as caught:
        audiomae(weights)
    assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(McilError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        audiomae(str(tmp_path))


@pytest.mark.parametrize("options", [{"preset": "publishd"}, {"rate": 10}, {"std": 0.0}])
def test_senseless_options_are_refused(tmp_path, options):
    with pytest.raises(McilError, match="audiomae:"):
        audiomae(str(tmp_path), **options)
