"""Contract of every encoder, and the built-in ones. The makers of small media files serve all encoder tests."""

import json
import pickle
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcil.encoders import ENCODERS, Encoder, patches, sound
from mcil.errors import McilError, MediaError
from mcil.media import Clip
from mcil.types import ClipRecord

RATE = 8000


def tone(seconds=1.0, hertz=440.0, rate=RATE):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def write_wave(path: Path, samples, rate=RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def write_video(path: Path, frames, fps=10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def brightening(count=20, height=48, width=64):
    """A video whose frame k is grey of level 10 * k."""
    levels = (np.arange(count) * 10).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def clip_of(root: Path, **media) -> Clip:
    return Clip(ClipRecord(id="one", label="cat", split="train", **media), root)


@pytest.fixture
def clip(tmp_path):
    """Two seconds of video at 10 frames a second, and a tone."""
    write_wave(tmp_path / "a.wav", tone(2.0))
    write_video(tmp_path / "v.mp4", brightening())
    return clip_of(tmp_path, audio="a.wav", video="v.mp4")


def check_contract(encoder: Encoder, clip: Clip) -> np.ndarray:
    """What every encoder promises; returns the encoded clip."""
    card = encoder.card()
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert {"name", "modality", "revision", "licence", "options", "preprocessing", "shape"} <= card.keys()
    assert card["shape"] == list(encoder.shape)
    again = {e.modality: e for e in ENCODERS[card["name"]](**card["options"])}[encoder.modality]
    assert again.card() == card
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 10_000
    prepared = pickle.loads(pickled).prepare(clip)
    np.testing.assert_array_equal(prepared, encoder.prepare(clip))
    features = encoder.encode(np.stack([prepared, prepared]))
    assert features.dtype == (encoder.dtype or np.float32)
    assert features.shape == (2, *encoder.shape)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features[0], features[1], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(prepared[None])[0], features[0], atol=1e-5)
    assert len(pickle.dumps(encoder)) < 10_000, "loaded weights must not travel to worker processes"
    if encoder.modality == "visual":
        frames, patch_count, _ = encoder.shape
        assert patch_count == np.prod(card["grid"])
        assert card["view"] in ("full", "centre")
        times = encoder.frame_times(4.0)
        assert times.shape == (frames,)
        assert (np.diff(times) > 0).all()
        assert times.min() >= 0
        assert times.max() <= 4.0
    else:
        assert len(encoder.shape) in (1, 2)
        with pytest.raises(TypeError):
            encoder.frame_times(1.0)
    return features[0]


def test_the_table_of_encoders_knows_all_and_offers_the_nearest():
    assert {"audiomae", "builtin", "videomae"} <= set(ENCODERS.names())
    with pytest.raises(McilError, match="Did you mean 'builtin'"):
        ENCODERS["buildin"]


@pytest.mark.parametrize("options", [{}, {"frames": 3, "grid": 2, "gap": 0.2, "rate": 16000}])
def test_builtin_keeps_the_contract(clip, options):
    for encoder in ENCODERS["builtin"](**options):
        check_contract(encoder, clip)


@pytest.mark.parametrize("options", [{"frames": 0}, {"grid": 0}, {"gap": 0.0}, {"gap": float("nan")}, {"rate": 100}])
def test_builtin_refuses_senseless_options(options):
    with pytest.raises(McilError, match="builtin:"):
        ENCODERS["builtin"](**options)


def builtin(**options):
    return ENCODERS["builtin"](**options)


def test_prepared_video_takes_the_same_path_as_decoded_pictures(clip):
    _, visual = builtin(frames=4, gap=0.1)
    moments = np.array([0.25, 0.75, 1.25, 1.75])
    np.testing.assert_allclose(visual.frame_times(2.0), moments)
    frames = clip.frames(np.stack([moments, moments + 0.1], 1).ravel())
    features = visual.prepare(clip)
    np.testing.assert_array_equal(features, visual.encode_pictures(frames))
    brightness = features[:, 0, 0]
    np.testing.assert_allclose(brightness, np.array([20, 70, 120, 170]) / 255, atol=0.03)


def test_a_picture_is_l_equal_moments_without_motion(tmp_path):
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    _, visual = builtin(frames=3)
    features = visual.prepare(clip_of(tmp_path, image="p.png"))
    np.testing.assert_array_equal(features, visual.encode_pictures(picture[None]))
    np.testing.assert_array_equal(features, np.repeat(features[:1], 3, axis=0))
    assert not features[..., -patches.MOTION :].any()
    still = visual.encode_pictures(np.repeat(picture[None], 6, axis=0))
    np.testing.assert_allclose(features, still, atol=1e-6)


def test_lacking_media_are_media_errors(tmp_path, clip):
    audio, visual = builtin()
    with pytest.raises(MediaError):
        audio.prepare(clip_of(tmp_path, video="v.mp4"))
    with pytest.raises(MediaError):
        visual.prepare(clip_of(tmp_path, audio="a.wav"))
    with pytest.raises(McilError, match="uint8"):
        visual.encode_pictures(np.zeros((2, 8, 8, 3)))
    with pytest.raises(McilError, match="bands, columns"):
        audio.encode_logmel(np.zeros((0, 4), np.float32))


def test_a_patch_describes_its_own_place():
    _, visual = builtin(frames=1, grid=3)
    dark = np.zeros((1, 48, 48, 3), np.uint8)
    spot = dark.copy()
    spot[:, 20:28, 22:28] = (250, 30, 40)
    different = np.abs(visual.encode_pictures(spot) - visual.encode_pictures(dark))[0].max(axis=-1) > 1e-6
    assert different.tolist() == [False] * 4 + [True] + [False] * 4


def test_colours_fall_into_their_bins():
    pictures = np.zeros((4, 16, 16, 3), np.uint8)
    pictures[0], pictures[1], pictures[2] = (255, 0, 0), (0, 255, 0), (255, 255, 255)
    described = patches.colour(patches.working_pictures(pictures, 1))[:, 0]
    red, green, white, black = described
    hues, greys = slice(6, 6 + patches.DIRECTIONS), slice(6 + patches.DIRECTIONS, None)
    assert red[hues].argmax() != green[hues].argmax()
    assert not white[hues].any()
    assert not red[greys].any()
    np.testing.assert_allclose(white[greys], [0, 0, 0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(black[greys], [1, 0, 0, 0, 0], atol=1e-3)


@pytest.mark.parametrize(("step", "axis", "sign"), [(1, 0, 1), (-1, 0, -1)])
def test_motion_tells_where_things_go(step, axis, sign):
    ramp = 120 + 60 * np.sin(np.arange(64) / 4)
    picture = np.broadcast_to(ramp[None, :, None], (64, 64, 3))
    frames = np.stack([picture, np.roll(picture, 2 * step, axis=1)]).astype(np.uint8)
    for turned, place in ((frames, -3), (frames.swapaxes(1, 2), -2)):
        described = builtin(frames=1, grid=4)[1].encode_pictures(turned)[0]
        inner = described[[5, 6, 9, 10]]
        assert (np.sign(inner[:, place]) == sign).all()
        np.testing.assert_allclose(inner[:, -5 - place], 0, atol=0.05)


def test_soft_histogram_equals_loops():
    rng = np.random.default_rng(1)
    position = rng.uniform(-4, 4, (2, 4, 6)).astype(np.float32)
    weight = rng.uniform(0, 1, (2, 4, 6)).astype(np.float32)
    for circular in (True, False):
        expected = np.zeros((2, 6, 5))
        for n, y, x in np.ndindex(2, 4, 6):
            low = int(np.floor(position[n, y, x]))
            share = position[n, y, x] - low
            for place, part in ((low, 1 - share), (low + 1, share)):
                place = place % 5 if circular else min(max(place, 0), 4)
                expected[n, (y // 2) * 3 + x // 2, place] += weight[n, y, x] * part / 4
        np.testing.assert_allclose(patches.soft_histogram(position, weight, 5, circular, 2), expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1, 255])
)
def test_any_pictures_give_bounded_numbers(seed, count, height, width, top):
    frames = np.random.default_rng(seed).integers(0, top + 1, (count, height, width, 3), dtype=np.uint8)
    features = builtin(frames=2, grid=2)[1].encode_pictures(frames)
    assert features.shape == (2, 4, patches.WIDTH)
    assert np.abs(features).max() <= 4.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 140), st.integers(1, 200), st.floats(-150, 20), st.floats(0, 40))
def test_any_spectrogram_gives_bounded_numbers(seed, bands, columns, level, spread):
    levels = np.random.default_rng(seed).normal(level, spread, (bands, columns)).astype(np.float32)
    features = builtin()[0].encode_logmel(levels)
    assert features.shape == (sound.WIDTH,)
    assert np.abs(features).max() <= 4.0


def test_silence_is_zero_and_loudness_does_not_matter(tmp_path):
    audio, _ = builtin(rate=RATE)
    noise = np.random.default_rng(0).normal(0, 0.05, RATE * 2).astype(np.float32)
    assert not audio.encode_logmel(sound.logmel(np.zeros(RATE, np.float32), RATE)).any()
    loud, soft = (audio.encode_logmel(sound.logmel(gain * noise, RATE)) for gain in (1.0, 0.1))
    np.testing.assert_allclose(loud, soft, atol=1e-3)
    write_wave(tmp_path / "short.wav", noise[:10])
    assert np.isfinite(audio.prepare(clip_of(tmp_path, audio="short.wav"))).all()


def test_levels_are_decibels_of_full_scale():
    sine = np.sin(2 * np.pi * 1000 * np.arange(32000) / 32000).astype(np.float32)
    levels = sound.logmel(sine, 32000)
    assert levels.shape == (sound.BANDS, 49)
    assert abs(levels.max()) < 4
    np.testing.assert_allclose(sound.logmel(0.1 * sine, 32000).max(), levels.max() - 20, atol=0.1)


def test_modulation_rate_is_found_whatever_the_column():
    for column in (0.02, 0.01):
        time = np.arange(int(4 / column)) * column
        for band, hertz in enumerate((1.0, 2.2, 4.5, 9.0, 18.0)):
            levels = 0.5 + 0.3 * np.sin(2 * np.pi * hertz * time) * np.ones((sound.BANDS, 1))
            shares = sound.modulation(levels, column).reshape(sound.GROUPS, -1)
            assert (shares.argmax(axis=1) == band).all()


def test_bands_are_averaged_or_repeated_to_the_encoders_own():
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(120, 7)).astype(np.float32)
    np.testing.assert_allclose(sound.to_bands(fine), fine.reshape(40, 3, 7).mean(1), atol=1e-5)
    coarse = rng.normal(size=(10, 7)).astype(np.float32)
    np.testing.assert_allclose(sound.to_bands(coarse), np.repeat(coarse, 4, axis=0), atol=1e-5)
