"""Sound of any format, as mono float32 samples."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from mcil.errors import MediaError
from mcil.media.container import (
    check_reach,
    check_span,
    check_whole,
    find_audio,
    is_exact,
    open_media,
    origin,
)

# Decoders of lossy formats need some packets before their output is right.
_WARM_UP = 0.5


def read_audio(
    path: Path, rate: int | None = None, start: float | None = None, end: float | None = None
) -> tuple[npt.NDArray[np.float32], int]:
    """Read the sound of an audio or video file, or of the stretch from ``start`` to ``end`` (seconds).

    Channels are averaged. Where the sound of a video begins after its picture, silence stands before it, so that
    both stay in step.

    Returns:
        The samples, float32 (n,) in [-1, 1], and their rate in Hz: ``rate``, or the file's own if that is None.

    Raises:
        MediaError: no such file, no media file, no sound in it, cut off, or ``start`` or ``end`` beyond its end.
    """
    check_span(path, start, end)
    begin = start or 0.0
    samples, first, rate = _decode(path, rate, begin, math.inf if end is None else end)
    if not len(samples):
        raise MediaError(f"{path}: holds no sound from {begin:g} s on; correct the clip's start or remove this file")
    check_reach(path, start, end, first + len(samples) / rate)
    shift = round((first - begin) * rate)
    samples = samples[-shift:] if shift < 0 else np.pad(samples, (shift, 0))
    if end is not None:
        samples = samples[: round((end - begin) * rate)]
    if not np.isfinite(samples).all():
        raise MediaError(f"{path}: its sound holds values that are no numbers; replace or remove this file")
    return samples.clip(-1.0, 1.0), rate


def _decode(
    path: Path, rate: int | None, begin: float, end: float, seek: bool = True
) -> tuple[npt.NDArray[np.float32], float, int]:
    """Decode packets that cover ``begin`` to ``end``: mono samples, the time of the first one, and their rate."""
    with open_media(path) as container:
        stream = find_audio(container)
        if stream is None:
            raise MediaError(f"{path}: has no sound; give the clip another audio file or none")
        zero, base = origin(container), stream.time_base
        sought = seek and base is not None and begin > 2 * _WARM_UP and is_exact(container)
        if base is not None and sought:
            with suppress(av.FFmpegError):  # without an index everything is decoded
                container.seek(int((begin - _WARM_UP + zero) / base), stream=stream)
        samples, first, rate = _decode_from_here(path, container, stream, rate, end)
        if sought and (not len(samples) or first > begin):
            return _decode(path, rate, begin, end, seek=False)  # sought too far, for want of a true index
        reached = first + len(samples) / rate
        if reached < end:
            check_whole(path, container, reached)
        return samples, first, rate


def _decode_from_here(
    path: Path, container: InputContainer, stream: AudioStream, rate: int | None, end: float
) -> tuple[npt.NDArray[np.float32], float, int]:
    """Decode up to ``end``; returns the same as :func:`_decode`."""
    zero = origin(container)
    resampler = AudioResampler(format="fltp", rate=rate)
    pieces: list[npt.NDArray[np.float32]] = []
    first: float | None = None
    for frame in container.decode(stream):
        time = 0.0 if frame.time is None else frame.time - zero
        if first is None:
            first = time
        if frame.pts is not None and time >= end:
            break
        try:
            pieces += [_mono(piece.to_ndarray()) for piece in resampler.resample(frame)]
        except ValueError as error:
            raise MediaError(f"{path}: its sound changes its format on the way; convert it to one format") from error
    # A resampler with nothing to do hands even the flushing None back.
    pieces += [_mono(piece.to_ndarray()) for piece in resampler.resample(None) if piece is not None]
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return samples, first or 0.0, resampler.rate or rate or stream.rate


def _mono(channels: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Average (channels, n)."""
    mean: npt.NDArray[np.float32] = channels.astype(np.float32, copy=False).mean(axis=0)
    return mean
