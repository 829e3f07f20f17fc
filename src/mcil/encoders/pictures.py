"""From decoded pictures to the square that an image tower reads."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Resample = Literal["bilinear", "bicubic", "lanczos"]


def squash(picture: npt.NDArray[np.uint8], side: int, resample: Resample = "bicubic") -> npt.NDArray[np.uint8]:
    """Resize a whole picture (H,W,3) to a square, whatever its shape: uint8 (3, side, side)."""
    resized = Image.fromarray(picture).resize((side, side), Image.Resampling[resample.upper()])
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def square(picture: npt.NDArray[np.uint8], side: int, resample: Resample = "bicubic") -> npt.NDArray[np.uint8]:
    """Resize a picture (H,W,3) until its shorter side has ``side`` pixels, and cut out the centre.

    Returns:
        uint8 (3, side, side).
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    size = (side * width // short, side * height // short)
    resized = picture
    if size != (width, height):
        resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling[resample.upper()]))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return np.ascontiguousarray(resized[top : top + side, left : left + side].transpose(2, 0, 1))
