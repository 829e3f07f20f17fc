"""Models of transformers behind the encoder interface, tiny and random, against direct calls of the same models."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from command import refusal
from mcil.data.extraction import extract
from mcil.data.manifest import write_manifest
from mcil.encoders import ENCODERS, create_encoders
from mcil.encoders.base import FACTS, segment_centres
from mcil.encoders.dense import Pixels, pool_grid, pool_steps
from mcil.encoders.hf.model import stated_licence
from mcil.errors import McilError
from mcil.media import Clip
from mcil.types import ClipRecord
from test_encoders import check_contract, clip_of, write_video, write_wave

BODY = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {**BODY, "num_hidden_layers": 1, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
EYE = {**BODY, "image_size": 32, "patch_size": 8}
SIDE, RATE = 32, 8000
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
SQUARE = {"size": {"height": SIDE, "width": SIDE}, "image_mean": MEAN, "image_std": DEVIATION, "resample": 2}
CROP = {"size": {"shortest_edge": 40}, "crop_size": SIDE, "image_mean": MEAN, "image_std": DEVIATION, "resample": 3}
HEARD: dict[str, Any] = {
    "ast": {"feature_extractor_type": "ASTFeatureExtractor", "num_mel_bins": 16, "max_length": 100},
    "clap": {
        "feature_extractor_type": "ClapFeatureExtractor",
        "feature_size": 8,
        "sampling_rate": RATE,
        "hop_length": 80,
        "fft_window_size": 256,
        "max_length_s": 1,
        "frequency_max": 4000,
        "truncation": "rand_trunc",
    },
    "speech": {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE, "do_normalize": True},
    "whisper": {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": 8,
        "sampling_rate": 16000,
        "chunk_length": 1,
    },
}


def save(model: Any, folder: Path, settings: dict[str, Any] | None, file: str = "preprocessor_config.json") -> Path:
    """Write a model with every weight drawn so large that tokens differ, as it is published."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.1) + float("norm" in name))
    model.save_pretrained(folder)
    if settings is not None:
        (folder / file).write_text(json.dumps(settings))
    return folder


def clap_model(**audio: Any) -> Any:
    sizes = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2], "num_hidden_layers": 2}
    shape = {"spec_size": 32, "num_mel_bins": 8, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4}
    ear = {**sizes, **shape, "hidden_size": 16, "projection_dim": 8, **audio}
    return transformers.ClapModel(transformers.ClapConfig(audio_config=ear, text_config=TEXT))


SEEN: dict[str, Any] = {
    "dinov2": lambda: (transformers.Dinov2Model(transformers.Dinov2Config(**EYE)), CROP),
    "dinov2 with registers": lambda: (
        transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**EYE, num_register_tokens=3)),
        CROP,
    ),
    "siglip2": lambda: (
        transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=EYE, text_config={**TEXT, "projection_size": 16})
        ),
        SQUARE,
    ),
    "hf dinov3": lambda: (
        transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**EYE, num_register_tokens=4)),
        SQUARE,
    ),
    "hf clip": lambda: (transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**EYE)), CROP),
    "hf convnext": lambda: (
        transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[4, 4, 8, 16], depths=[1, 1, 1, 1])),
        {**SQUARE, "size": {"shortest_edge": 128}},
    ),
}
REGISTERS = {"dinov2": 1, "dinov2 with registers": 4, "hf dinov3": 5, "hf clip": 1}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: save(model, tmp_path_factory.mktemp("seen"), settings)
        for name, (model, settings) in ((name, make()) for name, make in SEEN.items())
    }


def naflex_model() -> Any:
    eye = {**BODY, "num_patches": 16, "patch_size": 8}
    return transformers.Siglip2Model(
        transformers.Siglip2Config(vision_config=eye, text_config={**TEXT, "projection_size": 16})
    )


def vjepa2_model() -> Any:
    body = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    predictor = {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    config = transformers.VJEPA2Config(**body, **predictor, crop_size=SIDE, patch_size=8, frames_per_clip=4)
    return transformers.VJEPA2Model(config)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ast = transformers.ASTConfig(
        **BODY, patch_size=8, frequency_stride=4, time_stride=8, max_length=100, num_mel_bins=16
    )
    convolutions = {"conv_dim": [8, 8], "conv_stride": [40, 4], "conv_kernel": [80, 4], "num_conv_pos_embeddings": 4}
    speech = {**BODY, **convolutions, "num_feat_extract_layers": 2, "num_conv_pos_embedding_groups": 2}
    whisper = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_mel_bins=8,
        max_source_positions=50,
        vocab_size=40,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    models = {
        "ast": transformers.ASTForAudioClassification(ast),
        "clap": clap_model(),
        "speech": transformers.WavLMModel(transformers.WavLMConfig(**speech)),
        "whisper": transformers.WhisperModel(whisper),
    }
    return {name: save(model, tmp_path_factory.mktemp("heard"), HEARD[name]) for name, model in models.items()}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of noisy pictures with a sound: of a second, and of 0.4 seconds."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for name, seconds in (("long", 1.0), ("short", 0.4)):
        frames = (
            rng.integers(0, 256, (round(10 * seconds), 6, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        )
        write_video(folder / f"{name}.mp4", frames)
        write_wave(folder / f"{name}.wav", rng.normal(0, 0.2, int(seconds * 16000)).astype(np.float32), 16000)
    records = [
        ClipRecord(id=name, label="noise", split="train", video=f"{name}.mp4", audio=f"{name}.wav")
        for name in ("long", "short")
    ]
    write_manifest(folder / "manifest.csv", records)
    return folder


def named(name: str, folder: Path, **options: Any) -> dict[str, Any]:
    first = name.split()[0]
    if first in ("hf", "speech", "whisper"):
        return {f"hf:{folder}": {"device": "cpu", **options}}
    return {first: {"weights": str(folder), "device": "cpu", **options}}


def encoder_of(name: str, folder: Path, **options: Any) -> Any:
    (encoder,) = create_encoders(named(name, folder, **options))
    return encoder


def stored(encoder: Any, media: Path, out: Path) -> torch.Tensor:
    """Extract the two clips of ``media`` and read what the store holds."""
    store = extract(media / "manifest.csv", out, [encoder], dtype="float32", jobs=1)
    return store.read(encoder.modality, [0, 1])


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """Pixels uint8 (..., 3, H, W) as the processors' arithmetic has them."""
    mean, deviation = (np.reshape(values, (3, 1, 1)) for values in (MEAN, DEVIATION))
    return torch.from_numpy(((pixels / 255 - mean) / deviation).astype(np.float32))


def naive_pool(tokens: np.ndarray, rows: int, grid: int) -> np.ndarray:
    """Average (rows * rows, D) to (grid * grid, D), where grid divides rows."""
    size, pooled = rows // grid, np.zeros((grid * grid, tokens.shape[1]))
    for row in range(rows):
        for column in range(rows):
            pooled[row // size * grid + column // size] += tokens[row * rows + column] / size**2
    return pooled


# pictures and videos


@pytest.mark.parametrize("name", SEEN)
def test_pictures_in_a_store_are_the_models_patch_tokens(
    name: str, seen: dict[str, Path], media: Path, tmp_path: Path
) -> None:
    encoder = encoder_of(name, seen[name], frames=2, grid=2)
    assert encoder.shape == (2, 4, 16)
    values = stored(encoder, media, tmp_path / "s").numpy()
    cls = transformers.SiglipVisionModel if name == "siglip2" else type(SEEN[name]()[0])
    model = cls.from_pretrained(seen[name]).eval()
    for row, clip in enumerate(("long", "short")):
        pixels = encoder.prepare(clip_of(media, video=f"{clip}.mp4"))
        with torch.no_grad():
            expected = model(pixel_values=normalised(pixels)).last_hidden_state.numpy()
        if expected.ndim == 4:
            expected = expected.reshape(2, 16, -1).transpose(0, 2, 1)
        expected = expected[:, REGISTERS.get(name, 0) :]
        for moment in range(2):
            pooled = naive_pool(expected[moment], math.isqrt(expected.shape[1]), 2)
            np.testing.assert_allclose(values[row, moment], pooled, atol=1e-4)
    assert np.abs(values[0] - values[1]).max() > 0.01


@pytest.mark.parametrize("name", ["dinov2", "hf convnext"])
def test_encoders_of_pictures_keep_the_contract(name: str, seen: dict[str, Path], media: Path) -> None:
    check_contract(encoder_of(name, seen[name], frames=3), clip_of(media, video="long.mp4"))


def test_a_naflex_model_gets_the_whole_picture_as_a_square(tmp_path: Path) -> None:
    folder = save(naflex_model(), tmp_path / "w", {"image_mean": MEAN, "image_std": DEVIATION, "resample": 2})
    picture = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    encoder = encoder_of("siglip2", folder, frames=1, grid=None)
    values = encoder.encode(encoder.prepare(clip_of(tmp_path, image="p.png"))[None])
    processor = transformers.Siglip2ImageProcessorPil(
        patch_size=8, max_num_patches=16, image_mean=MEAN, image_std=DEVIATION
    )
    model = transformers.Siglip2VisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(**processor(picture, return_tensors="pt")).last_hidden_state
    np.testing.assert_allclose(values[0, 0], expected[0].numpy(), atol=1e-4)
    check_contract(encoder, clip_of(tmp_path, image="p.png"))


def test_vjepa2_gives_a_moment_for_two_frames(media: Path, tmp_path: Path) -> None:
    folder = save(vjepa2_model(), tmp_path / "w", CROP, "video_preprocessor_config.json")
    encoder = encoder_of("vjepa2", folder, frames=4, grid=2)
    assert encoder.shape == (2, 4, 24)
    clip = clip_of(media, video="long.mp4")
    check_contract(encoder, clip)
    pixels = encoder.prepare(clip)
    frames = clip.frames(segment_centres(clip.visual_duration, 4))
    shrunk = Pixels(SIDE, "crop", MEAN, DEVIATION)
    np.testing.assert_array_equal(pixels, np.stack([shrunk.prepare(frame) for frame in frames]))
    model = transformers.VJEPA2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model.get_vision_features(normalised(pixels)[None]).numpy().reshape(2, 16, 24)
    values = stored(encoder, media, tmp_path / "s").numpy()
    for moment in range(2):
        np.testing.assert_allclose(values[0, moment], naive_pool(expected[moment], 4, 2), atol=1e-4)
    with pytest.raises(McilError, match="multiple of 2"):
        encoder_of("vjepa2", folder, frames=5)


def test_several_layers_stand_side_by_side_and_the_last_is_normed(seen: dict[str, Path], media: Path) -> None:
    folder, clip = seen["dinov2"], clip_of(media, video="long.mp4")
    encoder = encoder_of("dinov2", folder, frames=1, grid=None, layers=[1, -1])
    assert encoder.shape == (1, 16, 32)
    pixels = encoder.prepare(clip)
    values = encoder.encode(pixels[None])[0, 0]
    model = transformers.Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(pixel_values=normalised(pixels), output_hidden_states=True)
    np.testing.assert_allclose(values[:, :16], output.hidden_states[1][0, 1:].numpy(), atol=1e-4)
    np.testing.assert_allclose(values[:, 16:], output.last_hidden_state[0, 1:].numpy(), atol=1e-4)
    with pytest.raises(McilError, match="layers must be numbers from 1 to 3"):
        encoder_of("dinov2", folder, layers=[4])
    with pytest.raises(McilError, match="another grid"):
        encoder_of("hf convnext", seen["hf convnext"], layers=[1, 4])


def test_pictures_are_cropped_or_squeezed_as_the_folder_says(seen: dict[str, Path], tmp_path: Path) -> None:
    picture = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    picture[:, : SIDE // 2] = 255
    Image.fromarray(picture).save(tmp_path / "p.png")
    clip = clip_of(tmp_path, image="p.png")
    cropped, squeezed = (encoder_of(name, seen[name], frames=1) for name in ("dinov2", "siglip2"))
    assert not cropped.prepare(clip).any()
    assert squeezed.prepare(clip)[0, :, :, :7].min() == 255
    assert (cropped.card()["view"], squeezed.card()["view"]) == ("centre", "full")
    assert cropped.card()["preprocessing"]["resample"] == "bicubic"
    assert squeezed.card()["preprocessing"]["resample"] == "bilinear"


# sounds


def expected_tokens(name: str, folder: Path, wave: np.ndarray, rate: int) -> np.ndarray:
    """All tokens over time of a sound, by the model's own extractor and a direct call: (T,D)."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(wave, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        if name == "ast":
            model = transformers.ASTModel.from_pretrained(folder).eval()
            tokens = model(**inputs).last_hidden_state[0, 2:].numpy()
            bands = (16 - 8) // 4 + 1
            return np.mean([tokens[band * len(tokens) // bands :][: len(tokens) // bands] for band in range(bands)], 0)
        if name == "clap":
            model = transformers.ClapModel.from_pretrained(folder).eval()
            maps = model.audio_model(inputs["input_features"]).last_hidden_state
            return maps[0].numpy().mean(axis=1).T
        if name == "whisper":
            model = transformers.WhisperModel.from_pretrained(folder).eval()
            return model.get_encoder()(inputs["input_features"]).last_hidden_state[0].numpy()
        model = transformers.WavLMModel.from_pretrained(folder).eval()
        return model(**inputs).last_hidden_state[0].numpy()


# For each model: samples a second, and how many of its tokens a sound of 0.4 seconds covers.
LISTENERS = {"ast": (16000, 5), "clap": (RATE, 7), "speech": (RATE, 19), "whisper": (16000, 20)}


@pytest.mark.parametrize("name", LISTENERS)
def test_sounds_in_a_store_are_the_models_tokens_over_the_time_that_they_last(
    name: str, heard: dict[str, Path], media: Path, tmp_path: Path
) -> None:
    rate, covered = LISTENERS[name]
    encoder = encoder_of(name, heard[name], seconds=1.0, steps=30)
    values = stored(encoder, media, tmp_path / "s")
    assert values.shape == (2, 30, 16)
    for row, clip in enumerate(("long", "short")):
        wave, _ = clip_of(media, audio=f"{clip}.wav").waveform(rate)
        tokens = expected_tokens(name, heard[name], wave, rate)
        kept = torch.from_numpy(tokens if clip == "long" else tokens[:covered])
        np.testing.assert_allclose(values[row], pool_steps(kept.float(), 30), atol=1e-4)
    assert values[1, :covered].abs().sum(dim=1).min() > 0
    assert not values[1, covered:].any()


@pytest.mark.parametrize("name", ["ast", "clap"])  # whose order of time and frequency is taken apart here
def test_a_change_late_in_a_sound_shows_in_late_tokens(name: str, heard: dict[str, Path], tmp_path: Path) -> None:
    encoder = encoder_of(name, heard[name], seconds=1.0, steps=8)
    rate = LISTENERS[name][0]
    rng = np.random.default_rng(0)
    same = rng.normal(0, 0.05, rate)
    changed = {}
    for half in (0, 1):
        wave = same.copy()
        wave[half * rate // 2 : (half + 1) * rate // 2] += rng.normal(0, 0.2, rate // 2)
        write_wave(tmp_path / f"{half}.wav", wave, rate)
        changed[half] = encoder.prepare(clip_of(tmp_path, audio=f"{half}.wav"))
    write_wave(tmp_path / "same.wav", same, rate)
    plain = encoder.encode(encoder.prepare(clip_of(tmp_path, audio="same.wav"))[None])[0]
    for half in (0, 1):
        difference = np.abs(encoder.encode(changed[half][None])[0] - plain).sum(axis=1)
        assert difference.reshape(2, 4).sum(axis=1).argmax() == half


@pytest.mark.parametrize("name", LISTENERS)
def test_encoders_of_sounds_keep_the_contract(name: str, heard: dict[str, Path], media: Path) -> None:
    check_contract(encoder_of(name, heard[name], seconds=0.9, steps=4), clip_of(media, audio="short.wav"))


@pytest.mark.parametrize("name", LISTENERS)
def test_a_sound_of_one_sample_has_a_token(name: str, heard: dict[str, Path], tmp_path: Path) -> None:
    write_wave(tmp_path / "a.wav", np.array([0.5], np.float32), LISTENERS[name][0])
    encoder = encoder_of(name, heard[name], seconds=1.0)
    values = encoder.encode(encoder.prepare(clip_of(tmp_path, audio="a.wav"))[None])
    assert np.isfinite(values).all()
    assert values[0, 0].any()


@pytest.mark.parametrize("name", ["ast", "speech"])
def test_layers_of_sounds_stand_side_by_side(name: str, heard: dict[str, Path], media: Path) -> None:
    clip = clip_of(media, audio="long.wav")
    last, both, first = (encoder_of(name, heard[name], seconds=1.0, layers=layers) for layers in (None, [2, 3], [2]))
    values = [encoder.encode(encoder.prepare(clip)[None]) for encoder in (last, both, first)]
    np.testing.assert_allclose(values[1], np.concatenate([values[2], values[0]], axis=-1), atol=1e-5)


def test_stages_of_clap_have_the_time_of_the_last(heard: dict[str, Path], media: Path) -> None:
    """The first stage of two, read off the picture that the spectrogram is folded into, piece by piece."""
    clip = clip_of(media, audio="long.wav")
    encoder = encoder_of("clap", heard["clap"], seconds=1.0, steps=32, layers=[1, 2])
    assert encoder.shape == (32, 32)
    wave, _ = clip.waveform(RATE)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(heard["clap"])
    inputs = extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_features"]
    model = transformers.ClapModel.from_pretrained(heard["clap"]).eval().audio_model
    with torch.no_grad():
        picture = model(inputs, output_hidden_states=True).hidden_states[1][0].numpy()  # (16, 4 pieces, 4)
    expected = np.stack([picture[:, piece, column] for piece in range(4) for column in range(4)])
    values = encoder.encode(encoder.prepare(clip)[None])[0]
    np.testing.assert_allclose(values[:16, :16], expected, atol=1e-4)


def test_clap_with_fusion_is_the_same_each_time(media: Path, tmp_path: Path) -> None:
    settings = {**HEARD["clap"], "truncation": "fusion"}
    folder = save(clap_model(enable_fusion=True, fusion_type=None), tmp_path / "w", settings)
    check_contract(encoder_of("clap", folder, seconds=1.0), clip_of(media, audio="long.wav"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ast", {"seconds": 1.5}, "at most 1, which"),
        ("clap", {"seconds": 1.5}, "at most 1, which"),
        ("clap", {"seconds": 0.0}, "above 0"),
        ("ast", {"seconds": 1.0, "steps": 0}, "at least 1"),
        ("speech", {"seconds": 1.0, "layers": []}, "from 1 to 3"),
    ],
)
def test_senseless_options_are_one_line(
    heard: dict[str, Path], name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(McilError, match=message) as caught:
        encoder_of(name, heard[name], **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ast", {"seconds": "1.0e-9"}, "ast: seconds must be above 0"),
        ("speech", {"seconds": ".inf"}, "hf: seconds must be above 0"),
        ("speech", {"seconds": ".nan"}, "hf: seconds must be above 0"),
        ("speech", {"seconds": "1.0e7"}, "at most 3600"),
        ("clap", {"seconds": "1.0", "steps": "100000000"}, "at most 100000"),
        ("dinov2", {"seconds": "-1"}, "dinov2: seconds must be above 0"),
    ],
)
def test_the_command_refuses_what_cannot_be_read_before_it_writes(
    name: str,
    options: dict[str, str],
    message: str,
    heard: dict[str, Path],
    seen: dict[str, Path],
    media: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    called, weights = ("hf" if name == "speech" else name), {**heard, **seen}[name]
    given = ", ".join(f"{option}: {value}" for option, value in {"weights": str(weights), **options}.items())
    line = refusal(f"extract {media / 'manifest.csv'} --encoders '{{{called}: {{{given}}}}}' --out s --jobs 1")
    assert message in line


# folders


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def without_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(state) if "layer.2" in name or "layers.2" in name)
    del state[name]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


BROKEN: dict[str, tuple[Any, str]] = {
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "lacks a readable config.json"),
    "no json": (lambda folder: (folder / "config.json").write_text("{"), "lacks a readable config.json"),
    "unknown type": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "never"}'),
        "lacks a readable config.json",
    ),
    "other type": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'),
        "of type 'vit', not dinov2 or .*write 'hf:",
    ),
    "typed": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "dinov2", "hidden_size": "wide"}'),
        "lacks a readable config.json",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds neither"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900]),
        "cannot be read as weights",
    ),
    "a tensor too few": (without_a_tensor, r"lacks encoder\.layers?\.2"),
    "no numbers": (
        lambda folder: (folder / "preprocessor_config.json").write_text('{"size": 32}'),
        "does not say how square pictures",
    ),
    "no square": (
        lambda folder: (folder / "preprocessor_config.json").write_text(
            json.dumps({**SQUARE, "size": {"height": 32, "width": 16}})
        ),
        "does not say how square pictures",
    ),
    "too small": (
        lambda folder: (folder / "preprocessor_config.json").write_text(
            json.dumps({**SQUARE, "size": {"height": 4, "width": 4}})
        ),
        "gives no tokens|no square of patches",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_folders_that_do_not_fit_are_one_line(how: str, seen: dict[str, Path], media: Path, tmp_path: Path) -> None:
    folder = copied(seen["dinov2"], tmp_path / "w")
    spoil, message = BROKEN[how]
    spoil(folder)

    def use() -> None:
        encoder = encoder_of("dinov2", folder, frames=1, grid=1)
        encoder.encode(encoder.prepare(clip_of(media, video="long.mp4"))[None])

    with pytest.raises(McilError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_models_that_give_no_tokens_of_pictures_or_sounds_are_refused(tmp_path: Path) -> None:
    configs = {
        "reads input_ids": transformers.BertConfig(**{**TEXT, "max_position_embeddings": 8}),
        "order of whose tokens is not known": transformers.TimesformerConfig(**EYE),
        "no square of patches": transformers.YolosConfig(**{**EYE, "image_size": [SIDE, SIDE]}),
        "gives no tokens for a sound": transformers.EncodecConfig(),
    }
    for number, (message, config) in enumerate(configs.items()):
        folder = tmp_path / str(number)
        config.save_pretrained(folder)
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
        settings = {"feature_extractor_type": "EncodecFeatureExtractor"} if "sound" in message else SQUARE
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        with pytest.raises(McilError, match=f"hf: .*{message}") as caught:
            create_encoders(f"hf:{folder}")
        assert "\n" not in str(caught.value)


def test_an_unknown_type_needs_its_preprocessing(tmp_path: Path, heard: dict[str, Path]) -> None:
    folder = save(transformers.ViTModel(transformers.ViTConfig(**EYE)), tmp_path / "w", None)
    silent = copied(heard["speech"], tmp_path / "speech")
    (silent / "preprocessor_config.json").unlink()
    for each in (folder, silent):
        with pytest.raises(McilError, match=r"lacks preprocessor_config\.json"):
            create_encoders(f"hf:{each}")


def test_the_prefix_hf_names_the_weights(seen: dict[str, Path], heard: dict[str, Path]) -> None:
    picture, sound = seen["hf dinov3"], heard["speech"]
    for wanted in (f"hf:{sound},hf:{picture}", f"{{hf:{sound}: {{}}, 'hf:{picture}': {{frames: 8}}}}"):
        audio, visual = create_encoders(wanted)
        assert (audio.shape, visual.shape) == ((16, 16), (8, 16, 16))
        assert visual.card()["options"]["weights"] == str(picture)
        assert ENCODERS["hf"](**visual.card()["options"])[0].card() == visual.card()
    with pytest.raises(McilError, match="names its weights already"):
        create_encoders({f"hf:{sound}": {"weights": "x"}})
    with pytest.raises(McilError, match="which model"):
        create_encoders("hf")
    with pytest.raises(McilError, match="hf download someone/never-downloaded"):
        create_encoders("hf:someone/never-downloaded")
    with pytest.raises(McilError, match=r"no option 'frame'.*'frames'"):
        create_encoders({f"hf:{picture}": {"frame": 2}})


def test_the_licence_is_the_model_cards(seen: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(seen["dinov2"], tmp_path / "w")
    assert encoder_of("dinov2", folder).card()["licence"] == "weights: Apache-2.0"
    assert encoder_of("hf", folder).card()["licence"] == "unknown: read the model card"
    card = folder / "README.md"
    card.write_text("---\nlicense: mit\ntags: [a]\n---\n# Words\n---\n")
    assert encoder_of("hf", folder).card()["licence"] == encoder_of("dinov2", folder).card()["licence"]
    assert "mit" in encoder_of("hf", folder).card()["licence"]
    card.write_text("---\nlicense: other\nlicense_name: dinov3-license\n---\n")
    assert "dinov3-license" in str(stated_licence(folder))
    for nothing in ("# Words\n", "---\ntags: [a]\n---\n", "---\n: [\n---\n", "---\n- a\n---\n"):
        card.write_text(nothing)
        assert stated_licence(folder) is None


# facts

DEFAULTS: dict[str, Any] = {
    "ast": transformers.ASTConfig,
    "clap": transformers.ClapConfig,
    "dinov2": lambda: transformers.Dinov2Config(image_size=518, patch_size=14),
    "siglip2": transformers.SiglipConfig,
    "vjepa2": transformers.VJEPA2Config,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_facts_are_those_of_the_published_sizes(name: str, tmp_path: Path) -> None:
    """Sizes are read off the configuration, so that a folder without true weights tells the shape."""
    from mcil.encoders.hf.model import read_source, sketch
    from mcil.encoders.weights import Weights

    DEFAULTS[name]().save_pretrained(tmp_path)
    save_file({"nothing": torch.zeros(1)}, tmp_path / "model.safetensors")
    (facts,) = FACTS[name]
    assert facts.shape == encoder_of(name, tmp_path).shape
    source = read_source(name, Weights(tmp_path, tmp_path / "model.safetensors", "none"))
    count = sum(weight.numel() for weight in sketch(source).parameters())
    assert facts.parameters == pytest.approx(count / 1e6, abs=0.06)


def test_every_encoder_has_facts_of_what_it_reads() -> None:
    assert sorted(FACTS) == ENCODERS.names()
    for facts in FACTS.values():
        assert len({each.modality for each in facts}) == len(facts)
        assert all(each.licence for each in facts)
    for name in ("builtin", "raw"):
        made = {encoder.modality: encoder.shape for encoder in create_encoders(name)}
        assert made == {each.modality: each.shape for each in FACTS[name]}


# pooling


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_pooling_to_a_grid_averages_the_places_that_a_cell_touches(
    rows: int, columns: int, grid: int, seed: int
) -> None:
    grid = min(grid, rows, columns)
    tokens = np.random.default_rng(seed).normal(size=(2, rows * columns, 3)).astype(np.float32)
    pooled = pool_grid(torch.from_numpy(tokens), (rows, columns), (grid, grid)).numpy()
    for row in range(grid):
        for column in range(grid):
            down = range(row * rows // grid, -(-(row + 1) * rows // grid))
            across = range(column * columns // grid, -(-(column + 1) * columns // grid))
            cell = np.mean([tokens[:, r * columns + c] for r in down for c in across], axis=0)
            np.testing.assert_allclose(pooled[:, row * grid + column], cell, atol=1e-5)


def test_a_clip_needs_the_modality(seen: dict[str, Path], heard: dict[str, Path], media: Path) -> None:
    clips: dict[str, Clip] = {"audio": clip_of(media, video="long.mp4"), "visual": clip_of(media, audio="long.wav")}
    for encoder in (encoder_of("dinov2", seen["dinov2"]), encoder_of("clap", heard["clap"], seconds=1.0)):
        with pytest.raises(McilError):
            encoder.prepare(clips[encoder.modality])
