"""The pictures of made clips: objects of ten looks, moving over a noisy background."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Look:
    """How an object looks: the names of its shape, texture and movement, its hue in turns and its saturation."""

    shape: str
    texture: str
    movement: str
    hue: float
    saturation: float


# In an object's own coordinates, y downwards. A shape is negative inside and grows like the distance outside.
_SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "disc": lambda x, y: np.hypot(x, y) - 1.0,
    "brick": lambda x, y: np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.55),
    "block": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.85,
    "kite": lambda x, y: (np.abs(x) + np.abs(y) - 1.15) * 0.7,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.3,
    "star": lambda x, y: np.hypot(x, y) - (0.72 + 0.33 * np.cos(5.0 * np.arctan2(y, x))),
    "cross": lambda x, y: np.maximum(np.minimum(np.abs(x), np.abs(y)) - 0.36, np.maximum(np.abs(x), np.abs(y)) - 1.0),
    "moon": lambda x, y: np.maximum(np.hypot(x, y) - 1.0, 0.75 - np.hypot(x - 0.55, y)),
    "tent": lambda x, y: np.maximum(np.abs(x) * 0.87 - y * 0.5, y) - 0.5,
}

# From 0, dark, to 1.
_TEXTURES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "plain": lambda x, y: np.ones_like(x),
    "stripes": lambda x, y: (np.sin(9.0 * x) > 0).astype(np.float32),
    "checks": lambda x, y: (np.sin(7.0 * x) * np.sin(7.0 * y) > 0).astype(np.float32),
    "dots": lambda x, y: (np.cos(8.0 * x) * np.cos(8.0 * y) < 0.4).astype(np.float32),
    "shade": lambda x, y: np.clip(1.1 - np.hypot(x - 0.3, y + 0.3), 0.0, 1.0),
}

LOOKS: dict[str, Look] = {
    "disc": Look("disc", "shade", "drift", 0.00, 0.85),
    "brick": Look("brick", "stripes", "sway", 0.60, 0.85),
    "kite": Look("kite", "checks", "bounce", 0.33, 0.80),
    "ring": Look("ring", "plain", "circle", 0.14, 0.85),
    "star": Look("star", "plain", "spin", 0.83, 0.80),
    "cross": Look("cross", "plain", "shake", 0.48, 0.80),
    "moon": Look("moon", "plain", "sway", 0.60, 0.15),
    "block": Look("block", "dots", "drift", 0.07, 0.85),
    "tent": Look("tent", "plain", "bounce", 0.72, 0.75),
}


def render(rng: np.random.Generator, looks: list[str], frames: int, fps: int, size: int) -> npt.NDArray[np.uint8]:
    """Paint objects of the given looks at random places, in random order of depth.

    The first look is the one that sounds. As in clips that somebody took of it, it is nearer to the camera than the
    others as a rule, not always.

    Returns:
        uint8 (frames, size, size, 3).
    """
    canvas = np.repeat(_background(rng, size)[None], frames, axis=0)
    time = np.arange(frames, dtype=np.float32) / np.float32(fps)
    for index, centre in zip(rng.permutation(len(looks)), _places(rng, len(looks)), strict=True):
        radius = size * (rng.uniform(0.11, 0.19) if index == 0 else rng.uniform(0.08, 0.16))
        _paint(rng, canvas, LOOKS[looks[index]], centre * size, radius, time)
    canvas += rng.standard_normal(canvas.shape[:3], dtype=np.float32)[..., None] * rng.uniform(4.0, 16.0)
    canvas += rng.uniform(-20.0, 20.0)
    return np.asarray(canvas.clip(0.0, 255.0).astype(np.uint8))


def _background(rng: np.random.Generator, size: int) -> Floats:
    """A soft patchwork of dull colours, float32 (size, size, 3)."""
    coarse = rng.normal(110.0, 25.0, (5, 5, 1)) + rng.normal(0.0, 14.0, (5, 5, 3))
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _places(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Centres (count, 2) in [0.18, 0.82], as far apart as the best of some random tries."""
    tries = rng.uniform(0.18, 0.82, (20, count, 2))
    distances = np.linalg.norm(tries[:, :, None] - tries[:, None], axis=-1) + 9.0 * np.eye(count)
    best: npt.NDArray[np.float64] = tries[distances.min(axis=(1, 2)).argmax()]
    return best


def _path(
    rng: np.random.Generator, movement: str, time: Floats
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How an object moves: offsets (frames, 2) as fractions of the picture, and angles (frames,) in radians."""
    speed, phase = rng.uniform(0.5, 1.2), rng.uniform(0.0, 2 * np.pi)
    turn = 2 * np.pi * speed * time + phase
    offset = np.zeros((len(time), 2))
    angle = np.full(len(time), rng.uniform(-0.35, 0.35))
    if movement == "drift":
        heading = rng.uniform(0.0, 2 * np.pi)
        offset += np.outer(time - time.mean(), [np.cos(heading), np.sin(heading)]) * 0.12 * speed
    elif movement == "sway":
        offset[:, 0] = 0.09 * np.sin(turn)
    elif movement == "bounce":
        offset[:, 1] = 0.07 - 0.16 * np.abs(np.sin(turn))
    elif movement == "circle":
        offset += 0.06 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    elif movement == "shake":
        offset += rng.normal(0.0, 0.012, offset.shape)
    elif movement == "spin":
        angle = turn
    return offset, angle


def _paint(
    rng: np.random.Generator,
    canvas: Floats,
    look: Look,
    centre: npt.NDArray[np.float64],
    radius: float,
    time: Floats,
) -> None:
    """Paint one object into every frame of ``canvas`` (frames, size, size, 3)."""
    size = canvas.shape[1]
    hue = look.hue + rng.normal(0.0, 0.012)
    value = rng.uniform(0.65, 1.0)
    colour = 255.0 * np.array(
        colorsys.hsv_to_rgb(hue % 1.0, look.saturation * rng.uniform(0.8, 1.15), value), np.float32
    )
    offset, angle = _path(rng, look.movement, time)
    position = (centre + offset * size)[..., None, None]
    reach = int(np.ceil(radius * 1.2)) + 1
    corner = np.floor(position[:, :, 0, 0]).astype(int) - reach
    grid = np.arange(2 * reach + 1)
    dx = ((corner[:, 0, None, None] + grid[None, None, :]) - position[:, 0]) / radius
    dy = ((corner[:, 1, None, None] + grid[None, :, None]) - position[:, 1]) / radius
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x = (cos * dx + sin * dy).astype(np.float32)
    y = (cos * dy - sin * dx).astype(np.float32)
    alpha = np.clip(0.5 - _SHAPES[look.shape](x, y) * radius, 0.0, 1.0)[..., None]
    paint = (0.4 + 0.6 * _TEXTURES[look.texture](x, y))[..., None] * colour
    for frame, (left, top) in enumerate(corner):
        inside_x = slice(max(-left, 0), max(min(len(grid), size - left), 0))
        inside_y = slice(max(-top, 0), max(min(len(grid), size - top), 0))
        patch = canvas[frame, max(top, 0) : top + len(grid), max(left, 0) : left + len(grid)]
        shown = alpha[frame, inside_y, inside_x]
        patch += shown * (paint[frame, inside_y, inside_x] - patch)
