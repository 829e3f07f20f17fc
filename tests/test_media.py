"""Media files are written for real, then read back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mcil.errors import MediaError
from mcil.media import Clip, kind_of, probe, read_audio, read_frames, read_image
from mcil.types import ClipRecord

FPS = 10
SECONDS = 2.0


def grey(index: int) -> int:
    """The brightness of a frame tells its number."""
    return 20 + 10 * index


def write_video(path: Path, codec: str = "libx264", seconds: float = SECONDS, turn: int = 0, **options: str) -> Path:
    """A silent video of 64 x 48 pixels; its left upper corner is white."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = 7
        if turn:
            stream.set_display_rotation(turn)
        for index in range(round(seconds * FPS)):
            pixels = np.full((48, 64, 3), grey(index % 20), np.uint8)
            pixels[:16, :16] = 255
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sweep(seconds: float, rate: int) -> np.ndarray:
    """A tone that rises, so that every moment sounds different."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 150 * time) * time)).astype(np.float32)


def write_sound(
    path: Path,
    codec: str,
    rate: int = 16000,
    channels: int = 1,
    seconds: float = SECONDS,
    video: str | None = None,
    pictures: int = round(SECONDS * FPS),
    **options: str,
) -> Path:
    """A sound file; with ``video`` so many pictures in that codec go with it."""
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", options=options) as container:
        if video:
            picture = container.add_stream(video, rate=FPS)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if video:
            for index in range(pictures):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey(index), np.uint8))
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, context.layout, rate, context.frame_size or 1024)
        samples = av.AudioFrame.from_ndarray(np.stack([sweep(seconds, rate)] * channels), "fltp", layout)
        samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
        for piece in (*resampler.resample(samples), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """A copy of which only the first part was downloaded."""
    content = path.read_bytes()
    copy = path.with_name(f"cut_{path.name}")
    copy.write_bytes(content[: int(share * len(content))])
    return copy


def levels(frames: np.ndarray) -> list[int]:
    """Which frames these are, by their brightness."""
    return [round((float(frame[30:, 30:].mean()) - 20) / 10) for frame in frames]


def check_line(error: pytest.ExceptionInfo[MediaError], path: Path) -> None:
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def video(folder: Path) -> Path:
    return write_video(folder / "video.mp4")


@pytest.fixture(scope="module")
def film(folder: Path) -> Path:
    return write_sound(folder / "film.mp4", "aac", video="libx264")


SOUNDS = [
    ("a.wav", "pcm_s16le", 16000, 1),
    ("b.wav", "pcm_s16le", 22050, 2),
    ("f.wav", "pcm_f32le", 16000, 1),
    ("a.flac", "flac", 16000, 2),
    ("a.ogg", "libopus", 48000, 1),
    ("a.mp3", "libmp3lame", 16000, 1),
    ("a.m4a", "aac", 16000, 1),
]


@pytest.mark.parametrize(("name", "codec", "rate", "channels"), SOUNDS)
def test_sounds_of_every_format_read_back(folder: Path, name: str, codec: str, rate: int, channels: int) -> None:
    path = write_sound(folder / name, codec, rate, channels)
    info = probe(path)
    assert (info.video, info.audio, info.sample_rate) == (False, True, rate)
    assert info.duration == pytest.approx(SECONDS, abs=0.1)
    samples, own = read_audio(path)
    assert (own, samples.dtype, samples.ndim) == (rate, np.float32, 1)
    expected = sweep(SECONDS, rate)
    assert len(samples) == pytest.approx(len(expected), abs=0.1 * rate)
    middle = slice(rate // 2, rate)
    assert np.corrcoef(samples[middle], expected[middle])[0, 1] > 0.99
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", ["part.wav", "part.flac", "part.mp3", "part.m4a"])
@pytest.mark.parametrize(("start", "end"), [(0.5, 1.25), (2.2, None), (None, 0.75)])
def test_a_stretch_is_what_the_whole_holds_there(
    folder: Path, name: str, start: float | None, end: float | None
) -> None:
    codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".m4a": "aac"}[Path(name).suffix]
    path = write_sound(folder / name, codec, seconds=3.0)
    whole, rate = read_audio(path)
    part, _ = read_audio(path, start=start, end=end)
    first = round((start or 0.0) * rate)
    expected = whole[first:] if end is None else whole[first : round(end * rate)]
    assert len(part) == len(expected)
    assert np.corrcoef(part[500:-500], expected[500:-500])[0, 1] > 0.99


def test_a_stretch_of_a_recording_without_an_index(folder: Path) -> None:
    path = write_sound(folder / "live.mka", "flac", seconds=3.0, live="1")
    samples, rate = read_audio(path, start=2.0, end=2.5)
    np.testing.assert_allclose(samples, sweep(3.0, rate)[2 * rate : 5 * rate // 2], atol=1e-3)


def test_resampling_keeps_pitch_and_length(folder: Path) -> None:
    path = write_sound(folder / "rate.wav", "pcm_s16le", rate=44100)
    samples, rate = read_audio(path, 16000, 0.5, 1.5)
    assert (len(samples), rate) == (16000, 16000)
    assert np.corrcoef(samples[100:-100], sweep(SECONDS, 16000)[8100:23900])[0, 1] > 0.999


def test_channels_are_averaged(folder: Path) -> None:
    path = folder / "sides.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16000, layout="stereo")
        sides = np.stack([np.full(16000, 0.5), np.full(16000, -0.1)], axis=1).astype(np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(sides, "flt", "stereo")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    np.testing.assert_allclose(read_audio(path)[0], 0.2, atol=1e-6)


VIDEOS = [
    ("v.mp4", "libx264", {}),
    ("fast.mp4", "libx264", {"movflags": "faststart"}),
    ("v.mkv", "libx264", {}),
    ("v.mov", "mpeg4", {}),
    ("v.webm", "libvpx-vp9", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), VIDEOS)
def test_frames_of_every_format_are_those_on_screen(
    folder: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write_video(folder / name, codec, **options)
    info = probe(path)
    assert (info.video, info.audio, info.width, info.height) == (True, False, 64, 48)
    assert info.duration == pytest.approx(SECONDS, abs=0.11)
    assert info.fps == pytest.approx(FPS)
    times = np.array([1.55, 0.0, 0.05, 0.1, 1.95, 0.1, 7.0, -1.0])
    frames = read_frames(path, times)
    assert (frames.shape, frames.dtype) == ((8, 48, 64, 3), np.uint8)
    assert levels(frames) == [15, 0, 0, 1, 19, 1, 19, 0]


@pytest.mark.parametrize(
    ("name", "codec"), [("s.mp4", "libx264"), ("s.mkv", "libx264"), ("s.webm", "libvpx-vp9"), ("s.avi", "mjpeg")]
)
@pytest.mark.parametrize("time", [0.75, 1.95, 2.05, 100.0])
def test_a_late_frame_is_sought(folder: Path, name: str, codec: str, time: float) -> None:
    path = write_video(folder / name, codec)
    assert levels(read_frames(path, np.array([time]))) == [min(int(time * FPS), 19)]


@given(times=st.lists(st.integers(0, 60), max_size=8))
def test_any_times_in_any_order_give_the_frames_of_one_full_pass(video: Path, times: list[int]) -> None:
    # Tested between the frames, where rounding cannot matter; seeks go to key frames 0, 7 and 14.
    frames = read_frames(video, np.array([(time + 0.5) / 20 for time in times]))
    assert frames.shape == (len(times), 48, 64, 3)
    assert levels(frames) == [min(time // 2, 19) for time in times]


def test_a_video_held_upright_is_shown_upright(folder: Path) -> None:
    frames = read_frames(write_video(folder / "turned.mp4", turn=90), np.zeros(1))
    assert frames.shape == (1, 64, 48, 3)
    bright = {
        corner: int(frames[0][place].mean())
        for corner, place in (
            ("left upper", np.s_[:8, :8]),
            ("left lower", np.s_[-8:, :8]),
            ("right upper", np.s_[:8, -8:]),
        )
    }
    assert max(bright, key=lambda corner: bright[corner]) == "left lower"  # a quarter turn against the clock


def test_sound_and_frames_of_a_film(film: Path) -> None:
    info = probe(film)
    assert (info.video, info.audio) == (True, True)
    assert levels(read_frames(film, np.array([1.05]))) == [10]
    samples, rate = read_audio(film)
    expected = sweep(SECONDS, rate)[4000:12000]
    assert np.corrcoef(samples[4000:12000], expected)[0, 1] > 0.99


def test_a_film_whose_sound_is_longer_than_its_picture_is_whole(folder: Path) -> None:
    path = write_sound(folder / "longer.mkv", "aac", seconds=3.0, video="libx264", pictures=10)
    assert levels(read_frames(path, np.array([0.5, 2.5]))) == [5, 9]


def test_pictures(folder: Path) -> None:
    path = folder / "picture.png"
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image(path), pixels)
    info = probe(path)
    assert (info.width, info.height, info.video, info.audio, info.duration) == (7, 5, False, False, None)


def test_pictures_are_turned_upright(folder: Path) -> None:
    path = folder / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(path, exif=exif)
    assert read_image(path).shape == (32, 16, 3)
    assert (probe(path).width, probe(path).height) == (16, 32)


def test_grey_pictures_of_16_bits_keep_their_range(folder: Path) -> None:
    path = folder / "deep.png"
    Image.fromarray(np.array([[0, 256 * 100, 65535]], np.uint16)).save(path)
    assert read_image(path)[0, :, 1].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    "name", ["text.mp4", "text.wav", "text.png", "empty.mp4", "empty.ogg", "empty.jpg", "none.mp4"]
)
def test_what_is_no_media_file_is_said_in_one_line(folder: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / name
    if not name.startswith("none"):
        path.write_text("no sound, no picture\n" * 50 if name.startswith("text") else "")
    readers = (
        [probe, read_image] if kind_of(path) == "image" else [probe, read_audio, lambda p: read_frames(p, np.zeros(1))]
    )
    for read in readers:
        with pytest.raises(MediaError) as error:
            read(path)
        check_line(error, path)
    assert capfd.readouterr().err == ""


def test_a_folder_is_no_media_file(folder: Path) -> None:
    with pytest.raises(MediaError, match="directory"):
        probe(folder)


def test_a_medium_that_is_not_there_is_said(folder: Path, video: Path) -> None:
    sound = write_sound(folder / "only.wav", "pcm_s16le")
    with pytest.raises(MediaError, match="has no sound") as error:
        read_audio(video)
    check_line(error, video)
    with pytest.raises(MediaError, match="has no video") as error:
        read_frames(sound, np.zeros(1))
    check_line(error, sound)


@pytest.mark.parametrize(("name", "options"), [("x.mp4", {}), ("y.mp4", {"movflags": "faststart"}), ("z.mkv", {})])
def test_a_video_that_broke_off_is_found(
    folder: Path, name: str, options: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = cut(write_video(folder / name, **options), 0.6)
    with pytest.raises(MediaError) as error:
        read_frames(path, np.array([0.2, 1.9]))
    check_line(error, path)
    with pytest.raises(MediaError) as error:
        read_frames(path, np.array([1.9]))
    check_line(error, path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("name", "codec"), [("x.m4a", "aac"), ("x.flac", "flac"), ("x.mka", "aac")])
def test_a_sound_that_broke_off_is_found(folder: Path, name: str, codec: str) -> None:
    path = cut(write_sound(folder / name, codec))
    with pytest.raises(MediaError) as error:
        read_audio(path)
    check_line(error, path)


def test_a_header_without_samples_is_found(folder: Path) -> None:
    path = folder / "header.wav"
    path.write_bytes(write_sound(folder / "full.wav", "pcm_s16le").read_bytes()[:44])
    with pytest.raises(MediaError):
        read_audio(path)


def test_a_picture_that_broke_off_is_found(folder: Path) -> None:
    whole = folder / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    path = cut(whole)
    with pytest.raises(MediaError) as error:
        read_image(path)
    check_line(error, path)


@pytest.mark.parametrize(
    ("start", "end", "what"),
    [(3.0, 4.0, "start|holds no sound"), (1.0, 4.0, "end"), (-1.0, 1.0, "at least 0"), (1.0, 0.5, "before")],
)
def test_a_stretch_beyond_the_file_is_refused(film: Path, start: float, end: float, what: str) -> None:
    record = ClipRecord("c", "x", "train", video=film.name, audio=film.name, start=start, end=end)
    clip = Clip(record, film.parent)
    for read in (clip.waveform, lambda: clip.visual_duration, lambda: clip.frames(np.zeros(1))):
        with pytest.raises(MediaError, match=what) as error:
            read()
        check_line(error, film)


def test_a_clip_is_cut_out_of_its_file(film: Path) -> None:
    record = ClipRecord("c", "x", "train", video=film.name, audio=film.name, start=0.5, end=1.5)
    clip = Clip(record, film.parent)
    assert (clip.has_audio, clip.has_visual, clip.frame_rate) == (True, True, FPS)
    assert clip.visual_duration == pytest.approx(1.0)
    assert len(clip.waveform(8000)[0]) == 8000
    # Times outside the clip show its own first and last frame, not the file's.
    assert levels(clip.frames(np.array([0.05, 0.95, 1.0, 5.0, -1.0]))) == [5, 14, 14, 14, 5]


def test_a_clip_of_a_still_image(folder: Path) -> None:
    Image.fromarray(np.full((8, 6, 3), 7, np.uint8)).save(folder / "still.png")
    clip = Clip(ClipRecord("c", "x", "train", image="still.png", start=1.0, end=2.0), folder)
    assert (clip.has_audio, clip.has_visual, clip.visual_duration, clip.frame_rate) == (False, True, 0.0, 0.0)
    assert clip.frames(np.array([0.0, 3.0])).shape == (2, 8, 6, 3)
    with pytest.raises(MediaError, match="clip c"):
        clip.waveform()


def test_a_clip_of_sound_alone_has_no_frames(folder: Path) -> None:
    clip = Clip(ClipRecord("c", "x", "train", audio="any.wav"), folder)
    assert not clip.has_visual
    with pytest.raises(MediaError, match="clip c"):
        clip.frames(np.zeros(1))


def test_kinds_by_suffix() -> None:
    kinds = [kind_of(Path(name)) for name in ("a.MP4", "b.wav", "c.jpeg", "d.txt", "e")]
    assert kinds == ["video", "audio", "image", None, None]


def test_a_recording_without_a_duration_in_its_header(folder: Path) -> None:
    path = write_video(folder / "live.mkv", live="1")  # as browsers record
    assert probe(path).duration == pytest.approx(SECONDS, abs=0.11)
    assert levels(read_frames(path, np.array([1.55, 9.0]))) == [15, 19]
    assert levels(read_frames(path, np.array([9.0]))) == [19]


def test_a_bare_stream_without_time_stamps(folder: Path) -> None:
    path = write_video(folder / "bare.h264", bf="0")
    assert levels(read_frames(path, np.array([0.0, 0.55])))[0] == 0
    assert len(read_frames(path, np.array([0.5, 0.1, 9.0]))) == 3


def test_the_cover_of_a_song_is_no_video(folder: Path) -> None:
    path = folder / "song.mp3"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=16000, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = Disposition.attached_pic
        context = stream.codec_context
        samples = av.AudioFrame.from_ndarray(sweep(1.0, 16000)[None], "fltp", "mono")
        samples.sample_rate, samples.pts = 16000, 0
        resampler = av.AudioResampler(context.format, context.layout, 16000, context.frame_size)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        for piece in (*resampler.resample(samples), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    assert (probe(path).video, probe(path).audio) == (False, True)
    with pytest.raises(MediaError, match="has no video"):
        read_frames(path, np.zeros(1))


def test_samples_that_are_no_numbers_are_refused(folder: Path) -> None:
    path = folder / "nan.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 1600), np.nan, np.float32), "flt", "mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="no numbers") as error:
        read_audio(path)
    check_line(error, path)
