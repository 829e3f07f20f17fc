"""What a media file holds, by its name and by its header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av

from mcil.errors import MediaError
from mcil.media.container import find_audio, find_video, open_media, seconds_held
from mcil.media.image import image_size

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif"}
)
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".wma"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class MediaInfo:
    """What is in a media file.

    ``video`` and ``audio`` say whether it has such a stream; ``duration`` is in seconds, of the video if there is
    one; ``fps`` frames a second; ``width`` and ``height`` in pixels as coded; ``sample_rate`` in Hz. For a picture
    only the size is set (as it is shown).
    """

    video: bool
    audio: bool
    duration: float | None
    fps: float | None
    width: int | None
    height: int | None
    sample_rate: int | None


def kind_of(path: Path) -> Literal["video", "audio", "image"] | None:
    """Which medium a file holds, judged by its suffix; None when it is no media file."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in AUDIO_SUFFIXES:
        return "audio"
    return "image" if suffix in IMAGE_SUFFIXES else None


def probe(path: Path) -> MediaInfo:
    """Read the header of a media file; nothing is decoded.

    Raises:
        MediaError: there is no such file, it is no media file, or it holds neither picture nor sound.
    """
    if kind_of(path) == "image":
        width, height = image_size(path)
        return MediaInfo(False, False, None, None, width, height, None)
    with open_media(path) as container:
        video, audio = find_video(container), find_audio(container)
        stream = video or audio
        if stream is None:
            raise MediaError(f"{path}: holds neither video nor sound; replace or remove this file")
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        else:  # recorded by a browser, say, which cannot go back to write the header
            duration = seconds_held(path)
        rate = None if video is None else video.average_rate or video.guessed_rate
        return MediaInfo(
            video=video is not None,
            audio=audio is not None,
            duration=duration,
            fps=float(rate) if rate else None,
            width=video.width if video is not None else None,
            height=video.height if video is not None else None,
            sample_rate=audio.rate if audio is not None else None,
        )
