"""From pictures to what CLIP's image towers read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def square(picture: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Resize a picture (H,W,3) until its shorter side has ``side`` pixels (bicubic), and cut out the centre.

    Returns:
        uint8 (3, side, side).
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    size = (side * width // short, side * height // short)
    resized = picture
    if size != (width, height):
        resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    return np.ascontiguousarray(resized[top : top + side, left : left + side].transpose(2, 0, 1))


def normalise(pixels: Tensor) -> Tensor:
    """Turn pixels uint8 (...,3,H,W) on any device into what image towers read: float32, CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, DEVIATION))
    return (pixels.float() / 255 - mean) / deviation
