"""Hand-made descriptors of square patches of pictures: colour, texture, orientation, motion. No weights.

Every function is vectorised over pictures and depends on nothing but the picture (and its neighbour, for motion).
Pictures are float32 (n,H,W), H = W = grid * PATCH; results are (n, grid*grid, K), patches row-major, with values
of roughly unit range, and zeros where there is nothing to measure (no texture, no edges, no motion).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

PATCH = 16  # pixels a side of a patch at the working resolution
DIRECTIONS = 8
LUMINANCES = 5
BLOCK = 4  # pixels a side of the blocks whose cosine transform tells the texture

_SATURATED = 0.25  # chroma (0 to 0.82) from which on a pixel counts as fully coloured
_FLAT = 0.02  # mean gradient magnitude at which an orientation histogram has half its height
_STILL = 0.05  # luminance change at which a pixel counts as half moving

COLOUR, TEXTURE, ORIENTATION, MOTION = 6 + LUMINANCES + DIRECTIONS, 4 * 15, 2 * (DIRECTIONS + 1), DIRECTIONS + 6
WIDTH = COLOUR + TEXTURE + ORIENTATION + MOTION


def working_pictures(frames: npt.NDArray[np.uint8], grid: int) -> Floats:
    """Resize uint8 (n,H,W,3) to squares of ``grid * PATCH`` pixels (the full view), in opponent colours.

    Returns:
        float32 (3, n, side, side): luminance 0..1, red-green and yellow-blue -0.8..0.8.
    """
    side = grid * PATCH
    if frames.shape[1:3] != (side, side):
        resized = [Image.fromarray(f).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0) for f in frames]
        frames = np.stack([np.asarray(picture) for picture in resized])
    red, green, blue = np.moveaxis(frames.astype(np.float32) / 255, -1, 0)
    return np.stack([(red + green + blue) / 3, (red - green) / 2**0.5, (red + green - 2 * blue) / 6**0.5])


def patch_means(values: Floats, patch: int = PATCH) -> Floats:
    """Mean over the patches of (n,H,W): (n, S)."""
    n, height, width = values.shape
    rows: Floats = values.reshape(n, height // patch, patch, width).sum(axis=2)
    cells: Floats = rows.reshape(n, height // patch, width // patch, patch).sum(axis=3)
    return cells.reshape(n, -1) / np.float32(patch**2)


def soft_histogram(position: Floats, weight: Floats, bins: int, circular: bool, patch: int) -> Floats:
    """Histogram over each patch of ``position`` (n,H,W; in bins), shared between the two nearest bins.

    Returns:
        float32 (n, S, bins): the mean over the patch's pixels of the weight that falls into each bin.
    """
    n, height, width = position.shape
    rows, columns = np.arange(height) // patch, np.arange(width) // patch
    cell = (rows[:, None] * (width // patch) + columns) * bins
    cells = (height // patch) * (width // patch) * bins
    index = cell + (np.arange(n) * cells)[:, None, None]
    low = np.floor(position)
    share = position - low
    first = low.astype(np.int64)
    second = first + 1
    if circular:
        first, second = first % bins, second % bins
    else:
        first, second = np.clip(first, 0, bins - 1), np.clip(second, 0, bins - 1)
    total = np.bincount((index + first).ravel(), (weight * (1 - share)).ravel(), n * cells)
    total += np.bincount((index + second).ravel(), (weight * share).ravel(), n * cells)
    return (total / patch**2).reshape(n, -1, bins).astype(np.float32)


def colour(pictures: Floats) -> Floats:
    """Mean and deviation of the opponent colours; soft histograms of grey levels and of hues.

    The histograms are taken at half resolution, as video stores its chroma. A pixel gives its weight to a hue as
    far as it is saturated, and to a grey level for the rest. Square roots of the histograms make their
    Euclidean distance Hellinger's.
    """
    means = np.stack([patch_means(channel) for channel in pictures], axis=-1)
    squares = np.stack([patch_means(channel**2) for channel in pictures], axis=-1)
    deviations = np.sqrt(np.maximum(squares - means**2, 0))
    luminance, red_green, yellow_blue = halve(pictures)
    saturation = np.minimum(np.hypot(red_green, yellow_blue) / _SATURATED, 1)
    hue = np.arctan2(yellow_blue, red_green) * (DIRECTIONS / (2 * np.pi))
    hues = soft_histogram(hue, saturation, DIRECTIONS, True, PATCH // 2)
    greys = soft_histogram(luminance * (LUMINANCES - 1), 1 - saturation, LUMINANCES, False, PATCH // 2)
    scaled = [means * [1, 2, 2], deviations * [2, 4, 4]]
    return np.concatenate([*scaled, np.sqrt(hues), np.sqrt(greys)], -1, dtype=np.float32)


def gradients(picture: Floats) -> tuple[Floats, Floats]:
    """Horizontal and vertical central differences of (n,H,W), the border repeated."""
    padded = np.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
    half = np.float32(0.5)
    return half * (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]), half * (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])


def halve(picture: Floats) -> Floats:
    """Mean of every 2x2 pixels of (..., H, W)."""
    rows = picture[..., ::2, :] + picture[..., 1::2, :]
    return np.float32(0.25) * (rows[..., ::2] + rows[..., 1::2])


def orientation(luminance: Floats) -> Floats:
    """Histograms of gradient directions at two scales, normalised, with the energy of each."""
    picture: Floats = np.sqrt(luminance)
    patch = PATCH
    parts: list[Floats] = []
    for _ in range(2):
        across, down = gradients(picture)
        angle: Floats = np.arctan2(down, across) * np.float32(DIRECTIONS / (2 * np.pi))
        histogram = soft_histogram(angle, np.hypot(across, down), DIRECTIONS, True, patch)
        energy = histogram.sum(-1, keepdims=True)
        parts += [np.sqrt(histogram / (energy + _FLAT)), 2 * np.sqrt(energy)]
        picture, patch = halve(picture), patch // 2
    return np.concatenate(parts, -1)


def _cosines() -> Floats:
    """Orthonormal cosine transform of a 4x4 block without its mean: (16 pixels, 15 patterns)."""
    waves = np.cos(np.pi * np.arange(BLOCK)[:, None] * (np.arange(BLOCK) + 0.5) / BLOCK) * (2 / BLOCK) ** 0.5
    waves[0] /= 2**0.5
    return np.kron(waves, waves)[1:].T.astype(np.float32)


_COSINES = _cosines()


def block_energies(picture: Floats, patch: int) -> Floats:
    """Log of the mean magnitude of each cosine pattern over a patch's 4x4 blocks (plain and shifted by 2)."""
    n, height, width = picture.shape
    shifted = np.pad(picture, ((0, 0), (0, BLOCK // 2), (0, BLOCK // 2)), mode="edge")[:, BLOCK // 2 :, BLOCK // 2 :]
    total = np.zeros((n, (height // patch) * (width // patch), 15), np.float32)
    for image in (picture, shifted):
        blocks = image.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(2, 3)
        magnitudes = np.abs(blocks.reshape(-1, BLOCK**2) @ _COSINES)
        side = patch // BLOCK
        cells = magnitudes.reshape(n, height // patch, side, width // patch, side, 15).sum(axis=2)
        total += cells.sum(axis=3).reshape(total.shape) / (2 * side**2)
    energies: Floats = np.log1p(total * 100) / np.float32(np.log(101))
    return energies


def texture(pictures: Floats) -> Floats:
    """Cosine-transform energies: of the three opponent colours, and of the luminance at half resolution."""
    luminance, *chroma = pictures
    parts = [block_energies(luminance, PATCH), block_energies(halve(luminance), PATCH // 2)]
    # Chroma varies far less than luminance.
    return np.concatenate([*parts, *(block_energies(4 * channel, PATCH) for channel in chroma)], -1)


def motion(before: Floats, after: Floats) -> Floats:
    """What changes from pictures (3,n,H,W) to their neighbours a short time later.

    Directions of the normal flow weighted by the luminance change, normalised; mean change of luminance and of
    chroma; share of moving pixels; the patch's least-squares flow (Lucas and Kanade) across, down and its speed.
    All at half resolution.
    """
    before, after, patch = halve(before), halve(after), PATCH // 2

    def means(values: Floats) -> Floats:
        return patch_means(values, patch)

    change = after[0] - before[0]
    across, down = gradients((before[0] + after[0]) / 2)
    size = np.abs(change)
    angle = np.arctan2(-change * down, -change * across) * (DIRECTIONS / (2 * np.pi))
    histogram = soft_histogram(angle, size, DIRECTIONS, True, patch)
    amount = means(size)
    chroma = means(np.abs(after[1] - before[1]) + np.abs(after[2] - before[2]))
    moving = means(change**2 / (change**2 + _STILL**2))
    xx, xy, yy = means(across**2), means(across * down), means(down**2)
    xt, yt = means(across * change), means(down * change)
    ridge = 1e-4
    determinant = (xx + ridge) * (yy + ridge) - xy**2
    right = (xy * yt - (yy + ridge) * xt) / determinant
    downwards = (xy * xt - (xx + ridge) * yt) / determinant
    flow = np.tanh(np.stack([right, downwards, np.hypot(right, downwards)], -1) / 2)
    histogram = np.sqrt(histogram / (amount[..., None] + _FLAT))
    changes = np.sqrt(np.stack([amount, chroma, moving], -1))
    return np.concatenate([histogram, changes, flow], -1, dtype=np.float32)
