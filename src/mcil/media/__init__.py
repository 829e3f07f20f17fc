"""Decoding of video, sound and pictures; nothing else in mcil touches a codec."""

from mcil.media.audio import read_audio
from mcil.media.clip import Clip
from mcil.media.image import read_image
from mcil.media.probe import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    MediaInfo,
    kind_of,
    probe,
)
from mcil.media.video import read_frames

__all__ = [
    "AUDIO_SUFFIXES",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Clip",
    "MediaInfo",
    "kind_of",
    "probe",
    "read_audio",
    "read_frames",
    "read_image",
]
