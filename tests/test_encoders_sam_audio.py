"""SAM-Audio through a stand-in for its package: the adapter's whole way, without the real code or weights."""

import json
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

import tiny_pe
from mcil.encoders import create_encoders
from mcil.encoders.sam_audio import PictureReader, SoundReader, sam_audio_from_folder
from mcil.errors import McilError
from test_encoders import check_contract, clip_of, tone, write_wave

READS = ("A0", "A1", "A2")
LATENT, WIDTH, DEPTH, TEXT, HOP = 8, 24, 4, 10, 1920
ALLOWED = {
    "A0": {"audio_codec"},
    "A1": {"audio_codec", "proj"},
    "A2": {
        "audio_codec",
        "proj",
        "transformer",
        "align_masked_video",
        "vision_encoder",
        "text_encoder",
        "memory_proj",
        "timestep_emb",
    },
    "V0": {"vision_encoder"},
    "V1": {"vision_encoder"},
}

KEPT = {"A2": {"audio_codec", "proj", "transformer", "align_masked_video"}}  # of the text, what it said of nothing


class Visual(nn.Module):
    """A PE tower with the two calls of perception_models, around ours."""

    def __init__(self):
        super().__init__()
        made = tiny_pe.tower()
        for name, child in [*made.named_children(), *made.named_parameters(recurse=False)]:
            setattr(self, name, child)
        self.__dict__["made"] = made

    def forward(self, pixels):
        return 3 * self.made(pixels)

    def forward_features(self, pixels, norm=False, strip_cls_token=False):
        assert norm
        assert strip_cls_token
        return self.made.patches(pixels)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.cross = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, cross_x, mask):
        seen = (cross_x * mask[..., None]).sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None]
        return x + torch.tanh(self.linear(x)) + self.cross(seen)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.broken = False

    def forward(self, x, time, *, padding_mask=None, memory=None, memory_padding_mask=None):
        assert padding_mask is None
        assert time.shape == (len(x),)
        for layer in self.layers:
            x = layer(x, memory, memory_padding_mask)
        if self.broken:
            raise RuntimeError("out of memory")
        return x


class Align(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(tiny_pe.EMBED, WIDTH, 1)

    def forward(self, anchor, video):
        assert not video.any()
        return anchor + 0.5 * self.conv(video).transpose(1, 2)


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.dim = tiny_pe.EMBED
        self.model = nn.Module()
        self.model.visual = Visual()


class Codec(nn.Module):
    def __init__(self, hop=HOP):
        super().__init__()
        self.model = nn.Conv1d(1, LATENT, hop, stride=hop)

    def forward(self, waveform):
        return self.model(waveform)


class TextEncoder(nn.Module):
    """Gives features of any text, one token of which is padding."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, TEXT))
        self.asked = []

    def forward(self, texts):
        self.asked.append(texts)
        return self.table[None].expand(len(texts), -1, -1), torch.tensor([[True, True, False]] * len(texts))


class Timestep(nn.Module):
    def forward(self, x, pos=None):
        angles = pos[:, None] * torch.arange(WIDTH // 2)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Parts(nn.Module):
    def __init__(self, codec_hop=HOP):
        super().__init__()
        self.audio_codec, self.vision_encoder, self.transformer = Codec(codec_hop), Vision(), Transformer()
        self.proj, self.align_masked_video = nn.Linear(6 * LATENT, WIDTH), Align()
        self.text_encoder, self.memory_proj, self.timestep_emb = TextEncoder(), nn.Linear(TEXT, WIDTH), Timestep()


class Guarded:
    """A model of which only named parts may be touched; it remembers which were."""

    def __init__(self, parts):
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "touched", set())

    def __getattribute__(self, name):
        if name in ("parts", "touched"):
            return object.__getattribute__(self, name)
        if name not in set().union(*ALLOWED.values()):
            raise AssertionError(f"{name} of the model was touched")
        self.touched.add(name)
        return getattr(self.parts, name)


def parts(codec_hop=HOP):
    return tiny_pe.randomised(Parts(codec_hop))


@pytest.fixture
def package(monkeypatch):
    """Put a stand-in for the package into the place of ``sam_audio``; the models that it built, and how."""
    seen = SimpleNamespace(calls=[], models=[], codec_hop=HOP)

    class SAMAudio:
        @classmethod
        def _from_pretrained(cls, *, model_id, **options):
            made = parts(seen.codec_hop)
            state = torch.load(f"{model_id}/checkpoint.pt", weights_only=True)
            made.load_state_dict(state, strict=False)
            seen.calls.append({"model_id": model_id, **options})
            seen.models.append(Guarded(made))
            return seen.models[-1]

    module = ModuleType("sam_audio")
    module.SAMAudio = SAMAudio
    monkeypatch.setitem(sys.modules, "sam_audio", module)
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sam")
    state = {name: value for name, value in parts().state_dict().items() if not name.startswith("text_encoder")}
    torch.save(state, path / "checkpoint.pt")
    (path / "config.json").write_text(json.dumps({"in_channels": 6 * LATENT}))
    return path


def made(folder, only, **options):
    (encoder,) = create_encoders({"sam-audio": {"only": only, "weights": str(folder), **options}})
    return encoder


def test_the_public_way_round_is_taken_and_no_ranker_is_built(package, folder):
    sam_audio_from_folder(folder)
    (call,) = package.calls
    assert call["model_id"] == str(folder)
    assert call["local_files_only"] is True
    assert {"proxies", "resume_download", "cache_dir", "force_download", "token"} <= call.keys()
    assert call["visual_ranker"] is call["text_ranker"] is call["span_predictor"] is None


@pytest.mark.parametrize(
    ("options", "width"),
    [({}, LATENT), ({"audio": "A1", "steps": 4}, WIDTH), ({"audio": "A2", "layer": -1, "time": 0.25}, WIDTH)],
)
def test_sounds_keep_the_contract(package, folder, tmp_path, options, width):
    write_wave(tmp_path / "a.wav", tone(0.5))
    encoder = made(folder, "audio", **options)
    assert encoder.shape == (options.get("steps", 16), width)
    features = check_contract(encoder, clip_of(tmp_path, audio="a.wav"))
    tokens = min(encoder.shape[0], math.ceil(0.5 * 25))
    assert (features[:tokens] != 0).any(axis=1).all()
    assert not features[tokens:].any()


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (8, 16, 64)), ({"grid": 2, "frames": 2}, (2, 4, 64)), ({"visual": "V0", "frames": 3}, (3, 1, 24))],
)
def test_pictures_keep_the_contract(package, folder, tmp_path, options, shape):
    tiny_pe.write_clip(tmp_path / "v.mp4", 1)
    encoder = made(folder, "visual", **options)
    assert encoder.shape == shape
    features = check_contract(encoder, clip_of(tmp_path, video="v.mp4"))
    if options.get("visual") == "V0":
        np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, rtol=1e-5)


def test_what_is_read_is_what_the_model_computes(package, folder):
    model, waveform = parts(), torch.from_numpy(tone(0.4, rate=48000))
    encode = {read: made(folder, "audio", audio=read, time=0.25, steps=10, seconds=0.4) for read in READS}
    found = {read: torch.from_numpy(encoder.encode(waveform.numpy()[None])[0]) for read, encoder in encode.items()}
    with torch.no_grad():
        latents = model.audio_codec(waveform[None, None])[0].T
        projected = torch.stack([model.proj(torch.cat([torch.zeros(4 * LATENT), token, token])) for token in latents])
        hidden = projected + 0.5 * model.align_masked_video.conv.bias
        text = model.memory_proj(model.text_encoder.table[:2])
        angles = 0.25 * torch.arange(WIDTH // 2)
        seen = (text + torch.cat([angles.cos(), angles.sin()])).mean(dim=0)
        for layer in model.transformer.layers[:2]:
            hidden = hidden + torch.tanh(layer.linear(hidden)) + layer.cross(seen)
    for read, expected in {"A0": latents, "A1": projected, "A2": hidden}.items():
        torch.testing.assert_close(found[read], expected, atol=1e-5, rtol=1e-4)


def test_pictures_are_what_the_tower_computes(package, folder, tmp_path):
    tiny_pe.write_clip(tmp_path / "v.mp4", 1)
    prepared = made(folder, "visual").prepare(clip_of(tmp_path, video="v.mp4"))
    pixels = torch.from_numpy(prepared).float() / 127.5 - 1
    tower = tiny_pe.randomised(Parts()).vision_encoder.model.visual.made
    whole, pooled = (made(folder, "visual", **options) for options in ({"grid": None}, {"visual": "V0"}))
    with torch.no_grad():
        patches, embeddings = tower.patches(pixels), normalize(tower(pixels), dim=-1)
    np.testing.assert_allclose(whole.encode(prepared[None])[0], patches.numpy(), atol=1e-5)
    np.testing.assert_allclose(pooled.encode(prepared[None])[0, :, 0], embeddings.numpy(), atol=1e-5)


@pytest.mark.parametrize("read", ALLOWED)
def test_only_the_parts_that_are_needed_are_touched_and_kept(package, folder, read):
    if read.startswith("A"):
        encoder = made(folder, "audio", audio=read)
        encoder.encode(tone(0.2, rate=48000)[None])
    else:
        encoder = made(folder, "visual", visual=read, frames=1)
        encoder.encode(np.zeros((1, 1, 3, 32, 32), np.uint8))
    (model,) = package.models
    assert model.touched == ALLOWED[read]
    kept = {id(parameter) for parameter in encoder.tower()[0].parameters()}
    names = {name.split(".")[0] for name, parameter in model.parts.named_parameters() if id(parameter) in kept}
    assert names == KEPT.get(read, ALLOWED[read])
    assert all(text == [""] for text in model.parts.text_encoder.asked)


def test_hooks_are_removed_also_after_an_error():
    model = parts()
    reader = SoundReader(model, "A2", layer=1, time=0.5).eval()
    sound = torch.zeros(1, 1, HOP)
    for broken in (False, True):
        model.transformer.broken = broken
        if broken:
            with pytest.raises(RuntimeError, match="out of memory"):
                reader(sound)
        else:
            assert reader(sound).shape == (1, 1, WIDTH)
        assert not any(layer._forward_hooks for layer in model.transformer.layers)


def test_the_layer_and_the_time_of_the_flow_matter():
    model, sound = parts(), torch.from_numpy(tone(0.2, rate=48000))[None, None]
    read = {
        (layer, time): SoundReader(model, "A2", layer, time)(sound).detach() for layer in (1, 3) for time in (0.0, 0.9)
    }
    found = list(read.values())
    for one in range(4):
        for other in range(one):
            assert not torch.allclose(found[one], found[other], atol=1e-3)


def test_pictures_are_read_without_the_rest_of_the_model():
    model = SimpleNamespace(vision_encoder=SimpleNamespace(model=SimpleNamespace(visual=Visual())))
    assert PictureReader(model, "V1")(torch.zeros(2, 3, 32, 32)).shape == (2, 16, 64)


def test_tokens_do_not_depend_on_neighbours(package, folder):
    for read in READS:
        encoder = made(folder, "audio", audio=read, seconds=0.4, steps=12)
        batch = np.full((4, 19200), np.nan, np.float32)
        for row, length in zip(batch, (19200, 5000, 700, 4900), strict=True):
            row[:length] = tone(1, rate=48000)[:length]
        together = encoder.encode(batch)
        for row, tokens in zip(batch, together, strict=True):
            np.testing.assert_allclose(encoder.encode(row[None])[0], tokens, atol=1e-5)


def test_a_codec_of_another_rate_is_taken_as_it_is(package, tmp_path):
    package.codec_hop = 800
    torch.save(parts(800).state_dict(), tmp_path / "checkpoint.pt")
    encoder = made(tmp_path, "audio", seconds=0.2, steps=20)
    tokens = encoder.encode(tone(0.2, rate=48000)[None])[0]
    assert (tokens != 0).any(axis=1).sum() == 12  # 9600 samples


def test_cards_name_what_was_read(package, folder):
    card = made(folder, "audio", audio="A2", time=0.25).card()
    assert card["reads"].startswith("A2: hidden state of the transformer after block 2 of 4 at time 0.25")
    assert card["options"]["audio"] == "A2"
    assert made(folder, "visual").card()["reads"].startswith("V1")
    assert "SAM License" in card["licence"]
    assert card["revision"].startswith("sha256:")
    assert not package.calls, "cards need no model"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"audio": "A3"}, "audio"),
        ({"audio": "A2", "layer": 5}, "from 1 to 4"),
        ({"layer": 1}, "layer is of audio=A2"),
        ({"time": 1.5}, "time must be from 0 to 1"),
        ({"steps": 0}, "steps"),
        ({"text": "dog"}, "no option 'text'"),
    ],
)
def test_senseless_options_are_refused(package, folder, options, what):
    with pytest.raises(McilError, match=what):
        made(folder, "audio", **options)


def test_without_the_package_the_error_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sam_audio", None)
    with pytest.raises(McilError) as error:
        made(folder, "audio")
    for part in (
        "cannot be imported",
        "git+https://github.com/facebookresearch/sam-audio",
        "hf download",
        "placeholder",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_the_placeholder_of_pypi_is_told_apart(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sam_audio", ModuleType("sam_audio"))
    with pytest.raises(McilError, match="has no SAMAudio: remove it"):
        made(folder, "visual")


def test_missing_or_other_weights_are_one_line(package, folder, tmp_path, monkeypatch):
    with pytest.raises(McilError, match=r"no folder.*access to the gated weights"):
        made(tmp_path / "absent", "audio")
    torch.save({"a": torch.ones(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(McilError, match="holds no SAM-Audio model"):
        made(tmp_path, "audio")
    encoder = made(folder, "audio")

    def refuse(**options):
        raise OSError("t5-base cannot be had\nfrom the hub")

    monkeypatch.setattr(sys.modules["sam_audio"].SAMAudio, "_from_pretrained", refuse)
    with pytest.raises(McilError, match=r"t5-base cannot be had\).*hf download t5-base") as error:
        encoder.encode(np.zeros((1, 1920), np.float32))
    assert "\n" not in str(error.value)


# Methods that read pictures alone, and what was made for these tokens.
LEARNERS = [("ncm", "visual"), ("er", "visual"), ("sam-audio-cil", "audio-visual")]


def test_from_files_to_predictions(package, folder, tmp_path):
    options = {"weights": str(folder), "seconds": 1.0, "frames": 2}
    store = tiny_pe.make_store(tmp_path, {"sam-audio": options})
    assert store.shapes == {"audio": (16, LATENT), "visual": (2, 16, 64)}
    counts = (store.read("audio", np.arange(16)) != 0).any(dim=-1).sum(dim=1).reshape(4, 4)
    assert (counts[:, :3] == 16).all()
    assert ((counts[:, 3] >= 10) & (counts[:, 3] <= 12)).all()
    for method, modality in LEARNERS:
        predicted = tiny_pe.learn_two_tasks(store, method, modality)
        assert len(predicted) == 4
        assert set(predicted.tolist()) <= {0, 1, 2, 3}
