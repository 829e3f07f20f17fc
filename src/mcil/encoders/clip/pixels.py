"""What CLIP's image towers read."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def normalise(pixels: Tensor) -> Tensor:
    """Turn pixels uint8 (...,3,H,W) on any device into what image towers read: float32, CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, DEVIATION))
    return (pixels.float() / 255 - mean) / deviation
