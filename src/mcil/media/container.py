"""Opening a media file with FFmpeg, so that all that can go wrong becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from mcil.errors import MediaError

# Files end a frame or a codec delay before or after what their header or an annotation says; a quarter of a
# second covers that and still shows that a download broke off.
SLACK = 0.25

# Containers with exact time stamps, whose header (save for wav) states how long the file is. The duration of the
# others (mp3, ogg, mpeg-ts) is reckoned from what is there, so that nothing can be said about what is missing.
_EXACT = {"mov", "matroska", "wav", "flac", "avi"}


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open ``path`` for demuxing and decoding; FFmpeg's errors inside the block become :class:`MediaError`.

    Only local files are ever opened, even where a playlist names others, and nothing is printed.
    """
    try:
        # "file:" keeps a colon in the name from being read as a protocol.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        if isinstance(error, FileNotFoundError):
            raise MediaError(f"{path}: no such file; check the path") from None
        raise MediaError(f"{path}: cannot be decoded ({error.strerror}); replace or remove this file") from error


def find_video(container: InputContainer) -> VideoStream | None:
    """The first video stream that moves (the cover picture of a song does not count), or None."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    return None


def find_audio(container: InputContainer) -> AudioStream | None:
    """The first audio stream, or None."""
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            return stream
    return None


def origin(container: InputContainer) -> float:
    """The time stamp, in seconds, at which the file begins: zero for most, not for cut broadcasts."""
    start: int | None = container.start_time
    return 0.0 if start is None else start / av.time_base


def is_exact(container: InputContainer) -> bool:
    """Whether the container's time stamps can be sought exactly and its stated duration can be relied upon."""
    return bool(_EXACT.intersection(container.format.name.split(",")))


def seconds_held(path: Path) -> float:
    """Seconds from the file's beginning to the end of its last packet of any stream; nothing is decoded."""
    end = 0.0
    with open_media(path) as container:
        zero = origin(container)
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                last = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end = max(end, last - zero)
    return end


def check_whole(path: Path, container: InputContainer, reached: float) -> None:
    """Raise :class:`MediaError` if the file was cut off: decoding ended at ``reached`` seconds, too early."""
    if container.duration is None or not is_exact(container):
        return
    promised = container.duration / av.time_base
    # The sound may be longer than the picture, or the reverse; only if both end early is the file cut off.
    if reached < promised - SLACK and (held := seconds_held(path)) < promised - SLACK:
        raise MediaError(
            f"{path}: cut off: it holds {held:.1f} of the {promised:.1f} s that its header says; "
            "replace or remove this file"
        )


def check_span(path: Path, start: float | None, end: float | None) -> None:
    """Raise :class:`MediaError` unless ``start`` and ``end`` (seconds) are a stretch of time."""
    if not 0.0 <= (start or 0.0) < (float("inf") if end is None else end):
        raise MediaError(f"{path}: the clip's start ({start} s) must be at least 0 and before its end ({end} s)")


def check_reach(path: Path, start: float | None, end: float | None, duration: float) -> None:
    """Raise :class:`MediaError` if ``start`` or ``end`` lies beyond a file of ``duration`` seconds."""
    if start is not None and start >= duration:
        name, time = "start", start
    elif end is not None and end > duration + SLACK:
        name, time = "end", end
    else:
        return
    raise MediaError(
        f"{path}: the clip's {name} ({time:g} s) lies beyond the file, which is {duration:.2f} s long; correct it"
    )
