"""Cutting and resizing pictures on the device they are on, to the values that Pillow gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mcil.models.backbone import as_pictures

_ATTEMPTS = 10
_SCALE = (0.9, 1.0)
_RATIO = (3 / 4, 4 / 3)


def random_boxes(count: int, side: int, device: torch.device) -> Tensor:
    """Draw a box (top, left, height, width) in each of ``count`` squares of ``side`` pixels: int64 (count,4).

    Its share of the area is uniform in 0.9 to 1, the logarithm of its width over its height uniform in that of 3/4 to
    4/3, its place uniform. Of ten draws the first that fits counts; where none does, the box is the whole square.
    That is torchvision's RandomResizedCrop with scale=(0.9, 1). PyTorch's generator on ``device`` is drawn from.
    """
    draws = torch.rand(2, count, _ATTEMPTS, device=device)
    area = side**2 * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * draws[0])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = torch.exp(low + (high - low) * draws[1])
    sizes = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()])
    fits = (sizes <= side).all(dim=0)
    first = fits.int().argmax(dim=1, keepdim=True)  # of equal values the first; 0 where none fits
    chosen = sizes.gather(2, first.expand(2, -1, -1)).squeeze(2).clamp_max(side)
    chosen = torch.where(fits.any(dim=1), chosen, float(side))
    room = side - chosen
    corner = torch.minimum((torch.rand(2, count, device=device) * (room + 1)).floor(), room)
    return torch.cat([corner, chosen]).T.long()


def resample(pictures: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut a box out of each picture and resize it: float32 (B,3,size,size) of whole numbers 0 to 255.

    Values are those of Pillow's ``crop(...).resize((size, size), BICUBIC)``, which smooths where it shrinks, and rounds
    after the rows and once more after the columns.

    Args:
        pictures: (B,3,H,W), values 0 to 255.
        boxes: (B,4) of top, left, height and width.
        size: pixels a side of what is returned.
    """
    top, left, height, width = boxes.T
    with torch.autocast(pictures.device.type, enabled=False):
        across = _weights(left, width, pictures.shape[3], size)
        down = _weights(top, height, pictures.shape[2], size)
        rows = (pictures.float() @ across[:, None].mT).round().clamp(0, 255)
        return (down[:, None] @ rows).round().clamp(0, 255)


def _weights(start: Tensor, length: Tensor, extent: int, size: int) -> Tensor:
    """Return how much each of ``extent`` pixels counts for each of ``size`` new ones: (B,size,extent), rows sum to 1.

    Bicubic with a = -1/2 (Keys 1981), widened by ``length / size`` where that shrinks; pixels outside
    ``start .. start + length`` count nothing.
    """
    new = torch.arange(size, device=start.device) + 0.5
    pixels = torch.arange(extent, device=start.device)
    step = (length / size)[:, None, None]
    distance = (pixels - start[:, None] + 0.5)[:, None] - new[:, None] * step
    x = (distance / step.clamp_min(1)).abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    weights = weights * inside[:, None]
    return weights / weights.sum(dim=2, keepdim=True)


class RandomCrops(nn.Module):
    """Replace each picture by a random box of it, resized: light augmentation, on the device."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixels uint8 (B,1,H*H,3), as a store holds them, of as many random boxes; see :func:`random_boxes`."""
        pictures = as_pictures(pixels)
        side = pictures.shape[-1]
        cut = resample(pictures, random_boxes(len(pictures), side, pixels.device), side)
        return cut.to(torch.uint8).permute(0, 2, 3, 1).reshape(pixels.shape)
