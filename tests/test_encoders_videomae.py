"""VideoMAE with tiny random weights, loaded by the same code as the published ones."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
)

from mcil.encoders import ENCODERS
from mcil.encoders.videomae import published_frames
from mcil.errors import McilError
from test_encoders import brightening, check_contract, clip_of, write_video

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "num_frames": 4,
}
PUBLISHED_PROCESSOR = {
    "feature_extractor_type": "VideoMAEFeatureExtractor",
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
    "size": 32,
    "crop_size": 32,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    VideoMAEModel(VideoMAEConfig(**TINY)).save_pretrained(path)
    return path


@pytest.fixture
def clip(tmp_path):
    """Two seconds at 10 frames a second; grey levels grow with time, with some texture."""
    frames = brightening(20)
    frames[:, ::5, ::3] += 40
    write_video(tmp_path / "v.mp4", frames)
    return clip_of(tmp_path, video="v.mp4")


def videomae(weights, **options):
    (encoder,) = ENCODERS["videomae"](weights=str(weights), device="cpu", **options)
    return encoder


@pytest.mark.parametrize("preset", ["default", "published"])
def test_keeps_the_contract(folder, clip, preset):
    encoder = videomae(folder, preset=preset)
    assert encoder.shape == (2, 4, 32)
    features = check_contract(encoder, clip)
    assert np.abs(features[0] - features[1]).max() > 1e-4
    assert encoder.card()["grid"] == [2, 2]
    assert encoder.card()["view"] == "centre"


def test_equals_transformers_from_frames_to_tokens(folder, clip):
    encoder = videomae(folder)
    frames = clip.frames(np.array([0.25, 0.75, 1.25, 1.75]))
    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=PUBLISHED_PROCESSOR["image_mean"],
        image_std=PUBLISHED_PROCESSOR["image_std"],
    )
    inputs = processor(list(frames), return_tensors="pt")
    with torch.no_grad():
        expected = VideoMAEModel.from_pretrained(folder)(**inputs).last_hidden_state
    features = encoder.encode(encoder.prepare(clip)[None])
    np.testing.assert_allclose(features.reshape(1, 8, 32), expected.numpy(), atol=1e-5)


def test_frames_are_resized_by_the_short_side_and_cropped_in_the_centre(folder, tmp_path):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:64, 0] = 255  # left half of the centre crop is red
    picture[:, 64:96, 1] = 255  # right half green
    picture[:, :32] = picture[:, 96:] = 255  # what is cropped away is white
    Image.fromarray(picture).save(tmp_path / "p.png")
    prepared = videomae(folder).prepare(clip_of(tmp_path, image="p.png"))
    assert prepared.dtype == np.uint8
    assert prepared.shape == (4, 3, 32, 32)
    for frame in prepared:
        assert frame[:, 16, 8].tolist() == [255, 0, 0]
        assert frame[:, 16, 24].tolist() == [0, 255, 0]


def test_tokens_are_frame_major_then_row_major(folder, tmp_path):
    """What changes in one place changes the patch embedding of that place's token most."""
    encoder = videomae(folder)
    plain = np.full((1, 4, 3, 32, 32), 128, np.uint8)
    changed = plain.copy()
    changed[:, 2:, :, 16:, :16] = 255  # second tubelet, second row, first column
    difference = np.abs(encoder.encode(changed) - encoder.encode(plain))[0].sum(axis=-1)
    assert np.unravel_index(difference.argmax(), difference.shape) == (1, 2)


def test_default_sampling_takes_centres_of_equal_segments(folder, clip):
    encoder = videomae(folder)
    np.testing.assert_allclose(encoder.sample_times(2.0), [0.25, 0.75, 1.25, 1.75])
    np.testing.assert_allclose(encoder.frame_times(2.0), [0.5, 1.5])
    levels = encoder.prepare(clip)[:, 0, 3, 4].astype(int)
    np.testing.assert_allclose(levels, [20, 70, 120, 170], atol=12)


@pytest.mark.parametrize("dumped", [1, 2, 3, 7, 8, 15, 16, 80, 99, 100, 101])
def test_published_frames_equal_the_formula(dumped):
    expected = [1, *(min(1 + int((i + 1) * dumped / 15 + 0.5), dumped) for i in range(14)), dumped]
    frames = published_frames(dumped)
    assert frames.tolist() == expected
    assert (np.diff(frames) >= 0).all()


@pytest.mark.parametrize(("fps", "dumped"), [(10.0, 20), (8.0, 16)])
def test_published_sampling_dumps_at_its_own_rate(folder, fps, dumped):
    encoder = videomae(folder, preset="published", fps=fps)
    np.testing.assert_allclose(encoder.sample_times(2.0), (published_frames(dumped, 4) - 1) / fps)
    np.testing.assert_allclose(encoder.sample_times(0.0), 0.0)
    assert encoder.card()["preprocessing"]["dump_fps"] == fps


def test_the_published_processor_file_is_followed(folder, tmp_path, clip):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PROCESSOR))
    with_file, without = videomae(tmp_path), videomae(folder)
    assert with_file.card()["preprocessing"] == without.card()["preprocessing"]
    prepared = with_file.prepare(clip)[None]
    np.testing.assert_array_equal(with_file.encode(prepared), without.encode(prepared))
    other = {**PUBLISHED_PROCESSOR, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(other))
    assert np.abs(videomae(tmp_path).encode(prepared) - without.encode(prepared)).max() > 1e-3


@pytest.mark.parametrize("kind", [VideoMAEForPreTraining, VideoMAEForVideoClassification])
def test_pretraining_and_classification_checkpoints_load_quietly(tmp_path, clip, kind, capfd):
    torch.manual_seed(0)
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = VideoMAEConfig(**TINY, **{f"decoder_{name}": value for name, value in decoder.items()})
    model = kind(config)
    model.save_pretrained(tmp_path / "w")
    encoder = videomae(tmp_path / "w")
    capfd.readouterr()
    prepared = encoder.prepare(clip)[None]
    features = encoder.encode(prepared)
    assert capfd.readouterr() == ("", "")
    again = VideoMAEModel(config)
    again.load_state_dict(model.videomae.state_dict())
    mean, std = (np.reshape(PUBLISHED_PROCESSOR[name], (3, 1, 1)) for name in ("image_mean", "image_std"))
    pixels = (prepared / 255 - mean) / std
    with torch.no_grad():
        expected = again.eval()(torch.from_numpy(pixels.astype(np.float32))).last_hidden_state
    np.testing.assert_allclose(features.reshape(expected.shape), expected.numpy(), atol=1e-5)


def broken(folder, path, how):
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes((folder / name).read_bytes())
    if how == "no config":
        (path / "config.json").unlink()
    elif how == "no json":
        (path / "config.json").write_text("{")
    elif how == "other model":
        (path / "config.json").write_text('{"model_type": "vit", "hidden_size": 32}')
    elif how == "other crop":
        (path / "preprocessor_config.json").write_text(json.dumps({**PUBLISHED_PROCESSOR, "crop_size": 64}))
    elif how == "cut":
        file = path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:3000])
    elif how == "a layer too few":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    elif how == "other width":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "config.json"),
        ("no json", "config.json"),
        ("other model", "config.json"),
        ("other crop", "config.json"),
        ("cut", "cannot be read as weights"),
        ("a layer too few", r"lacks encoder\.layer\.1"),
        ("other width", "cannot be read as weights"),
    ],
)
def test_folders_that_do_not_fit_give_one_line(folder, tmp_path, clip, how, message):
    broken(folder, tmp_path, how)

    def load():
        encoder = videomae(tmp_path)
        return encoder.encode(encoder.prepare(clip)[None])

    with pytest.raises(McilError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_weights_say_how_to_get_them():
    with pytest.raises(McilError, match="hf download someone/never-downloaded"):
        videomae("someone/never-downloaded")


@pytest.mark.parametrize("options", [{"preset": "publishd"}, {"fps": 0.0}, {"fps": float("nan")}])
def test_senseless_options_are_refused(folder, options):
    with pytest.raises(McilError, match="videomae:"):
        videomae(folder, **options)
