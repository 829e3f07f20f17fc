"""Perception Encoders with tiny random weights: against plain loops, and through the whole way from real files."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tiny_pe
from mcil.encoders import ENCODERS, create_encoders
from mcil.encoders.base import FACTS
from mcil.encoders.codec import outputs_of, whole_hops
from mcil.encoders.pe import PeTower, build_tower, plan_tower
from mcil.errors import McilError
from test_encoders import check_contract, clip_of, tone, write_wave


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a picture tower, and beside it those of a sound encoder."""
    path = tmp_path_factory.mktemp("pe")
    tiny_pe.write_tower(path / "tower")
    tiny_pe.write_sound(path / "sound")
    return path


@pytest.fixture
def clip(tmp_path):
    tiny_pe.write_clip(tmp_path / "v.mp4", 1)
    return clip_of(tmp_path, video="v.mp4")


def sights(folder, **options):
    (encoder,) = create_encoders({"pe": {"only": "visual", "tower": str(folder / "tower"), **options}})
    return encoder


def sounds(folder, **options):
    (encoder,) = create_encoders({"pe": {"only": "audio", "weights": str(folder / "sound"), **options}})
    return encoder


# The picture tower.


def layer_norm(x, state, name):
    mean, variance = x.mean(), x.var(unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def mlp(x, state, name):
    hidden = state[f"{name}.c_fc.weight"] @ x + state[f"{name}.c_fc.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return state[f"{name}.c_proj.weight"] @ hidden + state[f"{name}.c_proj.bias"]


def rotation(head, row, column):
    """The matrix by which a head of ``head`` numbers is turned at a place; rows and columns count from 1."""
    matrix = torch.zeros(head, head)
    for pair in range(head // 2):
        half = head // 4
        place, number = (column, pair) if pair < half else (row, pair - half)
        angle = place * 10000 ** (-2 * number / (head / 2))
        a, b = 2 * pair, 2 * pair + 1
        matrix[a, a] = matrix[b, b] = math.cos(angle)
        matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def naive_blocks(state, picture, heads, class_token):
    """Tokens after each block of one picture (3,H,W), and those after the last one's norm: one token at a time."""
    kernel = state["conv1.weight"]
    width, patch = kernel.shape[0], kernel.shape[2]
    rows, columns = picture.shape[1] // patch, picture.shape[2] // patch
    tokens, places = [], []
    if class_token:
        tokens.append(state["class_embedding"])
        places.append((0, 0))
    for row in range(rows):
        for column in range(columns):
            cut = picture[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            tokens.append((kernel * cut).sum(dim=(1, 2, 3)))
            places.append((row + 1, column + 1))
    head = width // heads
    turns = [rotation(head, *place) for place in places]
    tokens = [
        layer_norm(token + position, state, "ln_pre")
        for token, position in zip(tokens, state["positional_embedding"], strict=True)
    ]
    after = []
    for block in range(tiny_pe.LAYERS):
        name = f"transformer.resblocks.{block}"
        normed = torch.stack([layer_norm(token, state, f"{name}.ln_1") for token in tokens])
        projected = normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
        mixed = torch.zeros_like(normed)
        for which in range(heads):
            part = slice(which * head, (which + 1) * head)
            query, key, value = (projected[:, k * width : (k + 1) * width][:, part] for k in range(3))
            query = torch.stack([turn @ q for turn, q in zip(turns, query, strict=True)])
            key = torch.stack([turn @ k for turn, k in zip(turns, key, strict=True)])
            mixed[:, part] = (query @ key.T / math.sqrt(head)).softmax(dim=1) @ value
        mixed = mixed @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        tokens = [token + update for token, update in zip(tokens, mixed, strict=True)]
        tokens = [token + mlp(layer_norm(token, state, f"{name}.ln_2"), state, f"{name}.mlp") for token in tokens]
        after.append(torch.stack(tokens))
    after[-1] = torch.stack([layer_norm(token, state, "ln_post") for token in tokens])
    return after


def naive_embedding(state, tokens):
    width = tokens.shape[1]
    attention = nn.MultiheadAttention(width, 8, batch_first=True)
    attention.load_state_dict(
        {name.removeprefix("attn_pool.attn."): v for name, v in state.items() if name.startswith("attn_pool.attn.")}
    )
    pooled = attention(state["attn_pool.probe"], tokens[None], tokens[None])[0][0, 0]
    pooled = pooled + mlp(layer_norm(pooled, state, "attn_pool.layernorm"), state, "attn_pool.mlp")
    embedding = pooled @ state["proj"]
    return embedding / embedding.norm()


@pytest.mark.parametrize(("width", "heads", "class_token"), [(64, 1, True), (128, 2, True), (64, 1, False)])
def test_the_tower_is_that_of_the_paper(width, heads, class_token):
    made = tiny_pe.tower(width, heads, class_token)
    state, pictures = made.state_dict(), torch.rand(2, 3, tiny_pe.SIZE, tiny_pe.SIZE) * 2 - 1
    first = int(class_token)
    with torch.no_grad():
        patches, both, embeddings = made.patches(pictures), made.patches(pictures, (1, 3)), made(pictures)
        for picture, own, two, embedding in zip(pictures, patches, both, embeddings, strict=True):
            after = naive_blocks(state, picture, heads, class_token)
            torch.testing.assert_close(own, after[-1][first:], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(two, torch.cat([after[0], after[2]], dim=1)[first:], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(embedding, naive_embedding(state, after[-1]), atol=1e-5, rtol=1e-4)


def test_the_tower_runs_in_bfloat16_as_on_a_gpu():
    made, pictures = tiny_pe.tower(128, 2), torch.rand(2, 3, tiny_pe.SIZE, tiny_pe.SIZE) * 2 - 1
    with torch.inference_mode():
        exact = made.patches(pictures), made(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            rough = made.patches(pictures), made(pictures)
    for one, other in zip(exact, rough, strict=True):
        assert torch.cosine_similarity(one.float(), other.float(), dim=-1).min() > 0.99


def published_names(layers, class_token):
    """Names of a PE-Core picture tower, from the release."""
    names = {"conv1.weight", "positional_embedding", "proj", "attn_pool.probe"}
    names |= {"class_embedding"} if class_token else set()
    linear = ["attn_pool.attn.out_proj", "attn_pool.layernorm", "attn_pool.mlp.c_fc", "attn_pool.mlp.c_proj"]
    packed = ["attn_pool.attn.in_proj"]
    linear += ["ln_pre", "ln_post"]
    for block in range(layers):
        name = f"transformer.resblocks.{block}"
        linear += [f"{name}.{part}" for part in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")]
        packed.append(f"{name}.attn.in_proj")
    names |= {f"{name}.{kind}" for name in linear for kind in ("weight", "bias")}
    return names | {f"{name}_{kind}" for name in packed for kind in ("weight", "bias")}


@pytest.mark.parametrize("class_token", [True, False])
def test_the_tower_has_the_published_names(class_token):
    names = set(tiny_pe.tower(class_token=class_token).state_dict())
    assert names == published_names(tiny_pe.LAYERS, class_token)


def test_the_large_tower_has_the_published_size():
    with torch.device("meta"):
        large = PeTower(336, 14, 1024, 24, 16, 4096, 1024, True)
        giant = PeTower(448, 14, 1536, 50, 16, 8960, 1280, False)
    assert round(sum(p.numel() for p in large.parameters()) / 1e6) == FACTS["pe"][1].parameters == 317
    assert large.state_dict()["positional_embedding"].shape == (577, 1024)
    again = plan_tower("here", {f"visual.{name}": value for name, value in giant.state_dict().items()})
    assert again.transformer["resblocks"][0].attn.heads == 16
    assert {name: v.shape for name, v in again.state_dict().items()} == {
        name: v.shape for name, v in giant.state_dict().items()
    }


def test_another_size_resizes_the_positions_and_keeps_the_class_token():
    made = tiny_pe.tower()
    side = 6
    kept, grid = made.positional_embedding[:1], made.positional_embedding[1:]
    old = tiny_pe.SIZE // tiny_pe.PATCH
    resized = torch.zeros(side * side, tiny_pe.WIDTH)
    for row in range(side):
        for column in range(side):
            y, x = ((at + 0.5) * old / side - 0.5 for at in (row, column))
            for near in (math.floor(y), math.floor(y) + 1):
                for by in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - near)) * (1 - abs(x - by))
                    where = min(max(near, 0), old - 1) * old + min(max(by, 0), old - 1)
                    resized[row * side + column] += weight * grid[where]
    state = {**made.state_dict(), "positional_embedding": torch.cat([kept, resized])}
    picture = torch.rand(3, side * tiny_pe.PATCH, side * tiny_pe.PATCH)
    with torch.no_grad():
        found = made.patches(picture[None])[0]
    torch.testing.assert_close(found, naive_blocks(state, picture, 1, True)[-1][1:], atol=1e-5, rtol=1e-4)


def test_the_tower_is_found_under_each_published_prefix():
    made = tiny_pe.tower()
    for prefix in ("visual.", "", "audio_visual_model.visual_model.pe_encoder.", "vision_encoder.model.visual."):
        others = {"logit_scale": torch.tensor(1.0)} if prefix else {}
        again = build_tower("here", tiny_pe.tower_state(made, prefix) | others)
        for name, value in made.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop("visual.ln_post.weight"), "lacks ln_post.weight"),
        (lambda state: state.pop("visual.proj"), "lacks proj"),
        (lambda state: state.update({"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(64)}), "ls_1.gamma"),
        (lambda state: state.pop("visual.attn_pool.probe"), "no picture tower of PE-Core"),
        (lambda state: state.update({"b.attn_pool.probe": torch.ones(1)}), "2 picture towers"),
        (lambda state: state.update({"visual.ln_pre.weight": torch.ones(3)}), "does not fit"),
        (lambda state: state.update({"visual.conv1.weight": torch.ones(3)}), "sizes that do not fit"),
    ],
)
def test_weights_that_are_no_picture_tower_of_pe_core_are_refused(tmp_path, change, what):
    state = tiny_pe.tower_state(tiny_pe.tower())
    change(state)
    torch.save(state, tmp_path / "other.pt")

    def encode():
        encoder = create_encoders({"pe": {"only": "visual", "tower": str(tmp_path / "other.pt")}})[0]
        encoder.encode(np.zeros((1, 8, 3, 32, 32), np.uint8))

    with pytest.raises(McilError, match=what) as error:
        encode()
    assert str(error.value).startswith(f"pe: {tmp_path / 'other.pt'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (8, 16, 64)),
        ({"grid": 2, "frames": 3, "layers": [1, -1]}, (3, 4, 128)),
        ({"read": "frames", "frames": 2}, (2, 1, 24)),
        ({"side": 48, "grid": None, "frames": 1}, (1, 36, 64)),
    ],
)
def test_pictures_keep_the_contract(folder, clip, options, shape):
    encoder = sights(folder, **options)
    assert encoder.shape == shape
    features = check_contract(encoder, clip)
    if options.get("read") == "frames":
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-5)


def test_patches_are_averaged_cell_by_cell_and_in_order(folder, clip):
    encoder, whole = sights(folder, grid=2, frames=2), sights(folder, grid=None, frames=2)
    prepared = encoder.prepare(clip)[None]
    tokens = whole.encode(prepared)[0].reshape(2, 2, 2, 2, 2, 64)
    np.testing.assert_allclose(encoder.encode(prepared)[0], tokens.mean(axis=(2, 4)).reshape(2, 4, 64), atol=1e-5)
    pixels = torch.from_numpy(prepared[0]).float() / 127.5 - 1
    with torch.no_grad():
        expected = tiny_pe.tower().patches(pixels)
    np.testing.assert_allclose(whole.encode(prepared)[0], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"layers": [4]}, "layers must be numbers from 1 to 3"),
        ({"layers": []}, "layers"),
        ({"layers": ["1"]}, "layers"),
        ({"side": 33}, "side must be a multiple of 8"),
        ({"side": 0}, "side must be a multiple of 8"),
        ({"frames": 0}, "frames"),
        ({"grid": 5}, "grid must be between 1 and 4"),
        ({"read": "cls"}, "read"),
        ({"read": "frames", "layers": [1]}, "layers are of read=patches"),
        ({"only": "text"}, "only"),
    ],
)
def test_senseless_options_of_pictures_are_refused(folder, options, what):
    with pytest.raises(McilError, match=what):
        sights(folder, **options)


# Sounds.


@pytest.mark.parametrize("kind", ["encoder", "audio", "frame", "av"])
def test_the_sound_encoder_is_taken_out_of_each_model(tmp_path, kind):
    tiny_pe.write_sound(tmp_path / "sound", kind)
    own = tiny_pe.encoder_of(tiny_pe.sound_model(kind))
    waveform = torch.from_numpy(tone(0.4, rate=48000))
    assert len(waveform) == 10 * tiny_pe.HOP
    with torch.no_grad():
        expected = own(waveform[None, None]).last_hidden_state[0]
    found = sounds(tmp_path, steps=10, seconds=0.4).encode(waveform.numpy()[None])
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)


def test_layers_and_codec_are_what_the_encoder_computes(folder):
    own = tiny_pe.encoder_of(tiny_pe.sound_model())
    waveform = torch.from_numpy(tone(0.4, rate=48000))[None, None]
    seen = {}
    own.layers[0].register_forward_hook(lambda _, __, output: seen.update(first=output))
    own.embedder.data_proj.register_forward_hook(lambda _, inputs, __: seen.update(codec=inputs[0]))
    with torch.no_grad():
        last = own(waveform).last_hidden_state[0]
    both = sounds(folder, sound_layers=[-1, 1], steps=10, seconds=0.4)
    assert both.shape == (10, 2 * tiny_pe.HIDDEN)
    found = both.encode(waveform[0].numpy())[0]
    np.testing.assert_allclose(found, torch.cat([last, seen["first"][0, 1:]], dim=1).numpy(), atol=1e-5)
    codec = sounds(folder, sound="codec", steps=10, seconds=0.4)
    np.testing.assert_allclose(codec.encode(waveform[0].numpy())[0], seen["codec"][0].numpy(), atol=1e-5)


def test_tokens_do_not_depend_on_neighbours_and_end_where_the_sound_ends(folder):
    for options in ({}, {"sound": "codec"}, {"sound_layers": [1, 2]}):
        encoder = sounds(folder, steps=12, seconds=0.4, **options)
        batch = np.full((5, round(0.4 * 48000)), np.nan, np.float32)
        lengths = [19200, 5000, 1, 3840, 4999]
        for row, length in zip(batch, lengths, strict=True):
            row[:length] = tone(1, rate=48000)[:length]
        together = encoder.encode(batch)
        for row, length, tokens in zip(batch, lengths, together, strict=True):
            np.testing.assert_allclose(encoder.encode(row[None])[0], tokens, atol=1e-5)
            count = math.ceil(length / tiny_pe.HOP)
            assert (tokens[:count] != 0).any(axis=1).all()
            assert not tokens[count:].any()


def test_more_tokens_than_steps_are_averaged(folder):
    waveform = tone(0.4, rate=48000)[None]
    all_tokens = sounds(folder, steps=10, seconds=0.4).encode(waveform)[0]
    pooled = sounds(folder, steps=5, seconds=0.4).encode(waveform)[0]
    np.testing.assert_allclose(pooled, all_tokens.reshape(5, 2, -1).mean(axis=1), atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 12))
@settings(max_examples=60)
def test_a_sound_is_mirrored_or_repeated_to_whole_hops(length, hop):
    sound = torch.arange(1.0, length + 1)
    found = whole_hops(sound, hop)
    assert len(found) % hop == 0
    assert 0 <= len(found) - length < hop
    for place, value in enumerate(found.tolist()):
        if length < hop:
            assert value == 1 + place % length
        else:
            assert value == (place + 1 if place < length else length - (place - length) - 1)


def test_hooks_are_gone_whatever_happens():
    module = nn.Linear(2, 2)
    with outputs_of([module, module]) as kept:
        made = module(torch.ones(1, 2))
    assert torch.equal(kept[0], made)
    assert not module._forward_hooks
    with pytest.raises(ZeroDivisionError), outputs_of([module]):
        raise ZeroDivisionError
    assert not module._forward_hooks


@pytest.mark.parametrize("options", [{}, {"steps": 4, "sound": "codec"}, {"sound_layers": [1, 2], "seconds": 0.5}])
def test_sounds_keep_the_contract(folder, tmp_path, options):
    write_wave(tmp_path / "a.wav", tone(0.7))
    encoder = sounds(folder, **options)
    features = check_contract(encoder, clip_of(tmp_path, audio="a.wav"))
    tokens = min(encoder.shape[0], math.ceil(min(0.7, encoder.seconds) * 25))
    assert (features != 0).any(axis=1).sum() == tokens


def test_cards_say_what_was_read(folder):
    assert "blocks 1, 3 of 3" in sights(folder, layers=[1, 3]).card()["reads"]
    assert "codec" in sounds(folder, sound="codec").card()["reads"]
    card = sounds(folder).card()
    assert card["weights"] == str(folder / "sound")
    assert "Apache-2.0" in card["licence"]
    assert card["options"]["only"] == "audio"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"sound_layers": [3]}, "from 1 to 2"),
        ({"sound": "codec", "sound_layers": [1]}, "sound_layers are of sound=encoder"),
        ({"steps": 0}, "steps"),
        ({"seconds": -1.0}, "seconds"),
    ],
)
def test_senseless_options_of_sounds_are_refused(folder, options, what):
    with pytest.raises(McilError, match=what):
        sounds(folder, **options)


def test_one_modality_needs_no_weights_of_the_other(folder):
    absent = str(folder / "absent")
    options = {"tower": str(folder / "tower"), "weights": absent}
    (made,) = create_encoders({"pe": {"only": "visual", **options}})
    assert made.modality == "visual"
    with pytest.raises(McilError, match="no folder"):
        create_encoders({"pe": options})
    (made,) = create_encoders({"pe": {"only": "audio", "weights": str(folder / "sound"), "tower": absent}})
    assert made.modality == "audio"
    both = create_encoders({"pe": {"tower": str(folder / "tower"), "weights": str(folder / "sound")}})
    assert [encoder.modality for encoder in both] == ["audio", "visual"]


def test_bad_weights_of_sounds_are_one_line(folder, tmp_path):
    own = tiny_pe.encoder_of(tiny_pe.sound_model())
    state, config = {k: v.clone() for k, v in own.state_dict().items()}, own.config.to_dict()

    def refusal(name, state, config):
        path = tiny_pe.write_sound_state(tmp_path / name / "sound", state, config).parent
        with pytest.raises(McilError) as error:
            sounds(path).encode(np.zeros((1, 1920), np.float32))
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        return str(error.value)

    assert "no config of PE-AV" in refusal("other", state, {"model_type": "dac"})
    assert "no config of PE-AV" in refusal("list", state, [1])
    assert "no config of PE-AV" in refusal("typed", state, {**config, "hidden_size": "wide"})
    assert "no sound encoder" in refusal("empty", {"a": torch.ones(1)}, config)
    assert "lacks norm.weight" in refusal("part", {k: v for k, v in state.items() if k != "norm.weight"}, config)
    assert "unknown here" in refusal("more", {**state, "new.weight": torch.ones(1)}, config)
    assert "does not fit" in refusal("size", {**state, "norm.weight": torch.ones(5)}, config)
    (tmp_path / "part" / "sound" / "config.json").unlink()
    with pytest.raises(McilError, match="no config of PE-AV"):
        sounds(tmp_path / "part")


def test_half_precision_weights_are_read(folder, tmp_path):
    own = tiny_pe.encoder_of(tiny_pe.sound_model())
    state = {name: value.to(torch.bfloat16) for name, value in own.state_dict().items()}
    path = tiny_pe.write_sound_state(tmp_path / "sound", state, own.config.to_dict()).parent
    waveform = tone(0.4, rate=48000)[None]
    half, full = (sounds(where, seconds=0.4, steps=10).encode(waveform) for where in (path, folder))
    assert np.corrcoef(half.ravel(), full.ravel())[0, 1] > 0.99


# The whole way.


def test_from_files_to_predictions(folder, tmp_path):
    options = {"weights": str(folder / "sound"), "tower": str(folder / "tower"), "seconds": 1.0, "frames": 2}
    store = tiny_pe.make_store(tmp_path, {"pe": options})
    assert store.shapes == {"audio": (16, tiny_pe.HIDDEN), "visual": (2, 16, tiny_pe.WIDTH)}
    sound = store.read("audio", np.arange(16)).float()
    # 0.4 s are 10 hops, and what AAC adds to them is less than one.
    counts = (sound != 0).any(dim=-1).sum(dim=1).reshape(4, 4)
    assert (counts[:, :3] == 16).all()
    assert ((counts[:, 3] >= 10) & (counts[:, 3] <= 12)).all()
    card = json.loads((store.path / "card.json").read_text())["encoders"]
    assert card["audio"]["weights"] == options["weights"]
    predicted = tiny_pe.learn_two_tasks(store, "ncm", "visual")
    assert predicted.tolist() == [0, 1, 2, 3]
    assert len(tiny_pe.learn_two_tasks(store, "er", "visual")) == 4


def test_importing_the_encoders_imports_no_vision_or_sound_library():
    code = (
        "import sys; from mcil.encoders import ENCODERS; ENCODERS.names(); "
        "print([name for name in ('timm', 'torchvision', 'torchaudio', 'sam_audio', 'transformers') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_facts_are_those_of_the_published_sizes():
    from transformers import PeAudioEncoder, PeAudioEncoderConfig

    audio, visual = FACTS["pe"]
    with torch.device("meta"):
        encoder = PeAudioEncoder(
            PeAudioEncoderConfig(hidden_size=1024, intermediate_size=2752, num_hidden_layers=16, num_attention_heads=8)
        )
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6) == audio.parameters
    assert audio.shape == (16, 1024)
    assert visual.shape == (8, 16, 1024)
    assert "pe" in ENCODERS.names()
