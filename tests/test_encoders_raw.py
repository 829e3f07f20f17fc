"""Raw input: exactly the samples and pixels that decoding gives, through extraction and the store."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mcil.data.extraction import extract
from mcil.data.manifest import write_manifest
from mcil.data.store import FeatureStore
from mcil.encoders import ENCODERS
from mcil.encoders.raw import centre_square
from mcil.errors import McilError, MediaError
from mcil.media import read_frames
from mcil.types import ClipRecord
from test_encoders import brightening, check_contract, clip_of, write_video, write_wave

RATE = 8000


def raw(**options: Any) -> Any:
    return ENCODERS["raw"](**{"size": 32, "seconds": 1.0, "rate": RATE, **options})


def write_samples(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    """Write int16 (n,) or (n, channels) as a wav file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    write_wave(tmp_path / "a.wav", np.sin(np.arange(2 * RATE) / 20).astype(np.float32))
    write_video(tmp_path / "v.mp4", brightening())
    clip = clip_of(tmp_path, audio="a.wav", video="v.mp4")
    for encoder in raw():
        check_contract(encoder, clip)


def test_by_default_it_is_what_clip_and_audioclip_take() -> None:
    audio, visual = ENCODERS["raw"]()
    assert (audio.shape, audio.dtype) == ((220500,), "int16")
    assert (visual.shape, visual.dtype) == ((1, 224 * 224, 3), "uint8")


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_files_go_through_a_store_without_a_change(tmp_path: Path, dtype: Any) -> None:
    random = np.random.default_rng(0)
    sounds = [random.integers(-32768, 32768, count).astype(np.int16) for count in (RATE, RATE + 77, 500)]
    sounds[0][:4] = [-32768, 32767, 0, -1]
    pictures = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((32, 32), (32, 45), (51, 32))]
    records = []
    for number, (sound, picture) in enumerate(zip(sounds, pictures, strict=True)):
        write_samples(tmp_path / f"{number}.wav", sound)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        media = {"audio": f"{number}.wav", "image": f"{number}.png"}
        records.append(ClipRecord(f"c{number}", "ab"[number % 2], "train", **media))
    records += [ClipRecord("d", "a", "train", audio="0.wav"), ClipRecord("e", "b", "train", image="0.png")]
    write_manifest(tmp_path / "m.csv", records)
    extract(tmp_path / "m.csv", tmp_path / "s", raw(), dtype=dtype, jobs=1, batch_size=2)
    store = FeatureStore(tmp_path / "s")
    assert store.shapes == {"audio": (RATE,), "visual": (1, 32 * 32, 3)}
    audio, visual = (store.read(name, np.array([2, 0, 1, 4, 3])) for name in ("audio", "visual"))
    assert (audio.dtype, visual.dtype) == (torch.int16, torch.uint8)
    expected = [np.pad(sounds[2], (0, RATE - 500)), sounds[0], sounds[1][:RATE], np.zeros(RATE, np.int16), sounds[0]]
    np.testing.assert_array_equal(audio.numpy(), expected)
    squares = [pictures[2][10:42], pictures[0], pictures[1][:, 6:38], pictures[0], np.zeros((32, 32, 3), np.uint8)]
    np.testing.assert_array_equal(visual.numpy().reshape(5, 32, 32, 3), squares)
    assert store.index["has_audio"].to_list() == [True, True, True, True, False]


def test_channels_are_averaged_and_rates_changed(tmp_path: Path) -> None:
    left = (8000 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / (2 * RATE))).astype(np.int16)
    write_samples(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 2 * RATE)
    audio, _ = raw()
    samples = audio.prepare(clip_of(tmp_path, audio="a.wav"))
    expected = 4000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(samples[100:-100], expected[100:-100], atol=20)


def test_full_scale_does_not_wrap_around(tmp_path: Path) -> None:
    from scipy.io import wavfile

    wavfile.write(tmp_path / "a.wav", RATE, np.array([1.0, -1.0, 2.0, -2.0, 0.5, 1.4 / 32768], np.float32))
    audio, _ = raw()
    assert audio.prepare(clip_of(tmp_path, audio="a.wav"))[:7].tolist() == [32767, -32768, 32767, -32768, 16384, 1, 0]


def test_a_video_shows_its_middle(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", brightening(height=32, width=32))  # 20 frames, 2 s, frame k of level 10 k
    _, visual = raw()
    (picture,) = read_frames(tmp_path / "v.mp4", np.array([1.0]))
    np.testing.assert_array_equal(visual.prepare(clip_of(tmp_path, video="v.mp4"))[0], picture.reshape(-1, 3))
    assert abs(picture.mean() - 100) < 3
    part = visual.prepare(clip_of(tmp_path, video="v.mp4", start=1.0, end=1.8))
    assert abs(part.mean() - 140) < 3


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_the_square_is_the_middle_of_the_resized_picture(height: int, width: int, size: int) -> None:
    ramp = np.linspace(0, 255, width) if width >= height else np.linspace(0, 255, height)
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = ramp[None, :, None] if width >= height else ramp[:, None, None]
    square = centre_square(picture, size)
    assert square.shape == (size, size, 3)
    assert abs(float(square.mean()) - float(picture.mean())) < 255 / size + 3
    np.testing.assert_array_equal(centre_square(square, size), square)


def test_pictures_are_resized_bicubically() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(picture).resize((20, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(centre_square(picture, 20), resized[5:25])


def test_lacking_media_are_media_errors(tmp_path: Path) -> None:
    audio, visual = raw()
    with pytest.raises(MediaError):
        audio.prepare(clip_of(tmp_path, image="p.png"))
    with pytest.raises(MediaError):
        visual.prepare(clip_of(tmp_path, audio="a.wav"))


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"seconds": float("inf")}, {"rate": 10}]
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(McilError, match="raw:"):
        raw(**options)
