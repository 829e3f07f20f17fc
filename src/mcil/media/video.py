"""Frames of a video at given times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from mcil.errors import MediaError
from mcil.media.container import check_whole, find_video, is_exact, open_media, origin

# Time stamps are rounded to the container's clock, at worst to milliseconds.
_TICK = 1e-3


def read_frames(path: Path, times: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Read the frames that are on screen at ``times`` (seconds from the file's beginning, in any order).

    One pass over the part of the file that holds them; only the frames asked for are kept. Before the first frame
    and after the last one, that frame stands still.

    Returns:
        uint8 (len(times), H, W, 3), RGB, turned upright where the file says how it was held.

    Raises:
        MediaError: no such file, no media file, no video in it, no frame in it, or cut off.
    """
    times = np.asarray(times, dtype=np.float64)
    order = np.argsort(times, kind="stable")
    with open_media(path) as container:
        stream = find_video(container)
        if stream is None:
            raise MediaError(f"{path}: has no video; give the clip another video file or an image")
        # One thread a file: clips are decoded in parallel by processes.
        stream.codec_context.thread_count = 1
        pictures: list[npt.NDArray[np.uint8]] = []
        shown: VideoFrame | None = None
        reached = 0.0
        size, reformatter = (stream.width, stream.height), VideoReformatter()
        for time, frame in _decode(path, container, stream, float(times.min()) if len(times) else 0.0):
            while shown is not None and len(pictures) < len(times) and times[order[len(pictures)]] < time - _TICK:
                pictures.append(_picture(shown, size, reformatter))
            if shown is not None and len(pictures) == len(times):
                break
            shown, reached = frame, time
        else:
            check_whole(path, container, reached)
        if shown is None:
            raise MediaError(f"{path}: no frame of its video can be decoded; replace or remove this file")
        last = _picture(shown, size, reformatter)
    pictures += [last] * (len(times) - len(pictures))
    result = np.empty((len(times), *last.shape), np.uint8)
    for place, picture in zip(order, pictures, strict=True):
        result[place] = picture
    return result


def _decode(
    path: Path, container: InputContainer, stream: VideoStream, first: float
) -> Iterator[tuple[float, VideoFrame]]:
    """Yield (time, frame) in order of time, from the last key frame before ``first`` (seconds)."""
    zero = origin(container)
    rate = float(stream.average_rate or 25)
    base = stream.time_base
    sought = base is not None and first > _TICK and is_exact(container)
    if base is not None and sought:
        with suppress(av.FFmpegError):  # without an index everything is decoded
            container.seek(int((first + zero) / base), stream=stream)
    time, begun = -1.0 / rate, False
    for frame in container.decode(stream):
        time = time + 1.0 / rate if frame.pts is None else frame.time - zero
        if sought and not begun and time > first + _TICK:
            break
        begun = True
        yield time, frame
    if sought and not begun:  # sought too far, for want of a true index: decode from the beginning
        with open_media(path) as whole:
            yield from _decode(path, whole, whole.streams.video[container.streams.video.index(stream)], 0.0)


def _picture(frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> npt.NDArray[np.uint8]:
    """The frame as RGB (H,W,3), upright; every frame in the size of the first, even if that changes on the way."""
    picture = reformatter.reformat(frame, *size, format="rgb24").to_ndarray().astype(np.uint8, copy=False)
    return np.rot90(picture, round(frame.rotation / 90))
