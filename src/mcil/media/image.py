"""Pictures, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mcil.errors import MediaError


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """Open ``path``, upright; whatever a broken picture makes Pillow raise becomes :class:`MediaError`."""
    try:
        with Image.open(path) as image:
            yield ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise MediaError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise MediaError(f"{path}: cannot be decoded ({reason}); replace or remove this file") from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture in pixels, as it is shown."""
    with _open_image(path) as image:
        return image.size


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture as RGB, uint8 (H,W,3), turned upright as its EXIF orientation says.

    Raises:
        MediaError: there is no such file, it is no picture, or it is cut off.
    """
    with _open_image(path) as image:
        if image.mode.startswith("I"):  # 16 bits a pixel: Pillow would cut the values off at 255
            grey = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        return np.array(image.convert("RGB"))
