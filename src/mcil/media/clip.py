"""A clip of a manifest, ready to be read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mcil.errors import MediaError
from mcil.media.audio import read_audio
from mcil.media.container import check_reach, check_span
from mcil.media.image import read_image
from mcil.media.probe import MediaInfo, probe
from mcil.media.video import read_frames
from mcil.types import ClipRecord


class Clip:
    """A manifest's record with the folder that its relative paths start from: what encoders read."""

    def __init__(self, record: ClipRecord, root: Path) -> None:
        self.record = record
        self.root = root

    @property
    def has_audio(self) -> bool:
        """Whether the record names a file for the sound."""
        return self.record.audio is not None

    @property
    def has_visual(self) -> bool:
        """Whether the record names a video or an image."""
        return self.record.video is not None or self.record.image is not None

    @property
    def visual_duration(self) -> float:
        """Seconds of the clip's video; 0.0 for a still image.

        Raises:
            MediaError: the video cannot be opened, or the clip's start or end lies beyond it.
        """
        if self.record.video is None:
            return 0.0
        path, duration = self._path(self.record.video), self._video.duration or 0.0
        check_span(path, self.record.start, self.record.end)
        check_reach(path, self.record.start, self.record.end, duration)
        return min(duration, self.record.end or duration) - (self.record.start or 0.0)

    @property
    def frame_rate(self) -> float:
        """Frames a second of the clip's video; 0.0 for a still image."""
        return 0.0 if self.record.video is None else self._video.fps or 0.0

    def waveform(self, rate: int | None = None) -> tuple[npt.NDArray[np.float32], int]:
        """The clip's sound as float32 (n,) in [-1, 1], and its rate; see :func:`mcil.media.read_audio`."""
        if self.record.audio is None:
            raise MediaError(f"clip {self.record.id}: no sound is given for it; add a path under audio")
        return read_audio(self._path(self.record.audio), rate, self.record.start, self.record.end)

    def frames(self, times: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
        """Frames at ``times`` (seconds from the clip's start) as uint8 (len(times), H, W, 3).

        Times outside the clip show its first or last frame; an image is shown at all times.
        """
        if self.record.video is None:
            if self.record.image is None:
                raise MediaError(f"clip {self.record.id}: no picture is given for it; add a path under video or image")
            picture = read_image(self._path(self.record.image))
            return np.repeat(picture[None], len(times), axis=0)
        # The frame that begins at the clip's very end is no longer part of it.
        inside = np.clip(np.asarray(times, np.float64), 0.0, max(self.visual_duration - 2e-3, 0.0))
        return read_frames(self._path(self.record.video), inside + (self.record.start or 0.0))

    def _path(self, name: str) -> Path:
        return self.root / name

    @cached_property
    def _video(self) -> MediaInfo:
        path = self._path(str(self.record.video))
        info = probe(path)
        if not info.video:
            raise MediaError(f"{path}: has no video; give the clip another video file or an image")
        return info
