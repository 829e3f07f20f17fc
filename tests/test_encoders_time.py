"""Dense encoders of sounds and of pictures read the same time of a clip."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mcil.encoders.dense import DenseAudio, DenseVisual, Origin, Pixels
from mcil.errors import McilError
from mcil.models.guided import steps_of_frames
from mcil.models.tokens import present
from test_encoders import clip_of, write_video, write_wave

ORIGIN = Origin("x", "none", "1", "none needed", "levels")
RATE, TOTAL = 1000, 20.0


class Loudness(DenseAudio):
    """A token each tenth of a second: [1, the mean size of its samples]."""

    def load(self) -> nn.Module:
        return nn.Identity()

    def tokens(self, waveforms: Tensor, lengths: Any) -> list[Tensor]:
        sizes = [wave[:length].abs().split(RATE // 10) for wave, length in zip(waveforms, lengths, strict=True)]
        return [torch.tensor([[1.0, float(part.mean())] for part in parts]) for parts in sizes]


class Brightness(DenseVisual):
    """A token a picture: [1, its mean level]."""

    def load(self) -> nn.Module:
        class Level(nn.Module):
            def forward(self, pixels: Tensor) -> Tensor:
                level = pixels.mean(dim=(1, 2, 3))
                return torch.stack([torch.ones_like(level), level], dim=-1)[:, None]

        return Level()


def listener(seconds: float = 10.0, steps: int = 50) -> Loudness:
    return Loudness(ORIGIN, RATE, seconds, steps, 2, "cpu", {})


def viewer(seconds: float = 10.0, frames: int = 8) -> Brightness:
    pixels = Pixels(8, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Brightness(ORIGIN, pixels, frames, seconds, (1, 1), None, 2, "cpu", {})


def write_clip(folder: Path, shown: float, heard: float) -> Any:
    """A clip that gets brighter and louder: at t seconds its level and its loudness are t / 20."""
    levels = ((np.arange(round(shown * 10)) + 0.5) / 10 / TOTAL * 255).astype(np.uint8)
    write_video(folder / "v.mp4", np.broadcast_to(levels[:, None, None, None], (len(levels), 16, 16, 3)).copy())
    write_wave(folder / "a.wav", (np.arange(round(heard * RATE)) / RATE / TOTAL).astype(np.float32), RATE)
    return clip_of(folder, video="v.mp4", audio="a.wav")


def levels(clip: Any, seconds: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """Of each frame, its brightness and the loudness of the sound that asks it."""
    sound, picture = listener(seconds), viewer(seconds)
    steps = torch.from_numpy(sound.encode(sound.prepare(clip)[None]))
    frames = torch.from_numpy(picture.encode(picture.prepare(clip)[None]))
    asks = steps_of_frames(steps, present(steps), present(frames).flatten(2).any(dim=-1))
    return frames[0, :, 0, 1].numpy(), asks[0, :, 1].numpy()


@pytest.mark.parametrize(("shown", "seconds"), [(20.0, 10.0), (20.0, 5.0), (4.0, 10.0)])
def test_the_sound_that_asks_a_frame_is_that_of_its_time(tmp_path: Path, shown: float, seconds: float) -> None:
    clip = write_clip(tmp_path, shown, shown)
    seen, heard = levels(clip, seconds)
    times = viewer(seconds).frame_times(clip.visual_duration)
    np.testing.assert_allclose(times, (np.arange(8) + 0.5) / 8 * min(shown, seconds), atol=0.02)
    np.testing.assert_allclose(seen, times / TOTAL, atol=0.015)
    np.testing.assert_allclose(heard, times / TOTAL, atol=0.005)


def test_a_sound_that_ends_before_its_video_goes_on_in_silence(tmp_path: Path) -> None:
    clip = write_clip(tmp_path, shown=6.0, heard=3.0)
    seen, heard = levels(clip)
    times = (np.arange(8) + 0.5) / 8 * 6
    np.testing.assert_allclose(seen, times / TOTAL, atol=0.015)
    np.testing.assert_allclose(heard[:4], times[:4] / TOTAL, atol=0.005)
    assert np.abs(heard[4:]).max() < 1e-3
    waveform = listener().prepare(clip)
    assert np.isfinite(waveform).sum() == 6 * RATE
    assert not waveform[3 * RATE : 6 * RATE].any()


def test_silence_stands_behind_no_sound_without_a_video(tmp_path: Path) -> None:
    write_clip(tmp_path, shown=6.0, heard=3.0)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    for other in ({}, {"image": "absent.png"}, {"video": "no.mp4"}):
        assert np.isfinite(listener().prepare(clip_of(tmp_path, audio="a.wav", **other))).sum() == 3 * RATE
    short = listener(seconds=4.0).prepare(clip_of(tmp_path, audio="a.wav", video="v.mp4"))
    assert np.isfinite(short).all()
    assert len(short) == 4 * RATE


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 20))
def test_frames_are_within_what_is_read(duration: float, seconds: float, frames: int) -> None:
    times = viewer(seconds, frames).frame_times(duration)
    assert len(times) == frames
    assert 0 < times[0] <= times[-1] < min(duration, seconds)


def test_the_card_says_how_much_is_read() -> None:
    assert viewer(5.0).card()["seconds"] == 5.0


@pytest.mark.parametrize("seconds", [0.0, -1.0, 3601.0, float("nan"), float("inf")])
def test_stretches_of_time_that_cannot_be_read_are_one_line(seconds: float) -> None:
    for make in (listener, viewer):
        with pytest.raises(McilError, match=r"x: seconds must be above 0.*at most 3600") as caught:
            make(seconds)
        assert "\n" not in str(caught.value)


def test_a_sound_has_a_sample_and_a_bearable_number_of_steps() -> None:
    with pytest.raises(McilError, match="one sample at least"):
        listener(0.5 / RATE)
    for steps in (0, 100_001):
        with pytest.raises(McilError, match="steps must be at least 1, and at most 100000"):
            listener(steps=steps)
