"""Pictures and videos through models of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mcil.encoders.base import Device
from mcil.encoders.dense import DenseVisual, Origin, Pixels, chosen_layers
from mcil.encoders.hf.model import (
    NAFLEX,
    UNFIT,
    Source,
    input_name,
    leading,
    load,
    read_source,
    reads,
    sketch,
    states,
    stored_settings,
)
from mcil.encoders.pictures import Resample
from mcil.errors import McilError, reason

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RESAMPLING: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
# What was published with the weights, for folders that hold no file of it.
PUBLISHED: dict[str, dict[str, Any]] = {
    "dinov2": {"crop_size": 224, "image_mean": IMAGENET[0], "image_std": IMAGENET[1], "resample": 3},
    "dinov2_with_registers": {"crop_size": 224, "image_mean": IMAGENET[0], "image_std": IMAGENET[1], "resample": 3},
    "siglip_vision_model": {"do_center_crop": False, "image_mean": HALVES[0], "image_std": HALVES[1], "resample": 2},
    NAFLEX: {"do_center_crop": False, "image_mean": HALVES[0], "image_std": HALVES[1], "resample": 2},
    "vjepa2": {"image_mean": IMAGENET[0], "image_std": IMAGENET[1], "resample": 2},
}
VIDEO_FRAMES = 16  # that are read of a video where positions are not learnt


class PictureTower(nn.Module):
    """A model's patch tokens: pixels (n,3,H,W) to (n,S,D), or (n,frames,3,H,W) to (n,L,S,D); layers side by side."""

    def __init__(self, source: Source, model: nn.Module, blocks: tuple[int, ...], depth: int) -> None:
        super().__init__()
        self.model, self._source, self._blocks = model, source, blocks
        self._several = blocks != (depth,)
        self._video = reads(source) == "videos"

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        found = states(self._source, self.model, picture_inputs(self._source, pixels), self._several)
        if self._several:
            found = [found[block - 1] for block in self._blocks]
        tokens = torch.cat([self._patches(state, pixels.shape[-1]) for state in found], dim=-1)
        if not self._video:
            return tokens
        return tokens.reshape(len(pixels), pixels.shape[1] // tubelet(self._source), -1, tokens.shape[-1])

    def _patches(self, state: Tensor, side: int) -> Tensor:
        if state.ndim == 4:  # a map (n,D,rows,columns)
            return state.flatten(2).transpose(1, 2)
        if self._video:
            return state
        return state[:, leading(self._source, state.shape[1], side) :]


class HfVisual(DenseVisual):
    """A model of transformers that reads pictures or videos, behind the encoder interface.

    Args:
        source: the model.
        licence: of its weights.
        frames: moments that are read; None for 8 pictures, or as many as a video model was made for.
        seconds, grid, layers, device, options: see :class:`DenseVisual` and :func:`chosen_layers`.
    """

    def __init__(
        self,
        source: Source,
        licence: str,
        frames: int | None,
        seconds: float,
        grid: int | None,
        layers: list[int] | None,
        device: Device,
        options: dict[str, Any],
    ) -> None:
        video = reads(source) == "videos"
        if frames is None:
            frames = (getattr(source.config, "num_frames", None) or VIDEO_FRAMES) if video else 8
        moments = frames
        if video:
            moments, rest = divmod(frames, tubelet(source))
            if rest or moments < 1:
                raise McilError(f"{source.name}: frames must be a multiple of {tubelet(source)}, and not {frames}")
        elif frames < 1:
            raise McilError(f"{source.name}: frames must be at least 1")
        pixels = read_pixels(source)
        native, widths = _measure(source, pixels.side, frames, moments, video)
        self.blocks, self.depth = chosen_layers(source.name, layers, len(widths)), len(widths)
        unlike = [block for block in self.blocks if widths[block - 1] is None]
        if unlike:
            raise source.fail(f"whose block {unlike[0]} has another grid than the last; leave it out of layers")
        width = sum(widths[block - 1] or 0 for block in self.blocks)
        says = f"patch tokens of block {', '.join(map(str, self.blocks))} of {self.depth}"
        origin = Origin(source.name, str(options["weights"]), source.weights.revision, licence, says)
        super().__init__(origin, pixels, frames, seconds, native, grid, width, device, options, moments, video)
        self.weights = source.weights

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        source = read_source(self.name, self.weights)
        return PictureTower(source, load(source), self.blocks, self.depth)


def picture_inputs(source: Source, pixels: Tensor) -> dict[str, Tensor]:
    """Return what the model is called with for pixels (n,[frames,]3,H,W)."""
    given = input_name(source)
    if source.kind != NAFLEX:
        return {given: pixels}
    patch = source.config.patch_size
    cells = pixels.shape[-1] // patch
    patches = pixels.reshape(len(pixels), 3, cells, patch, cells, patch).permute(0, 2, 4, 3, 5, 1)
    # Numbers of rows and columns are read by the host: they stay there.
    shapes = torch.full((len(pixels), 2), cells)
    # The mask is of padding, and there is none.
    return {given: patches.flatten(3).flatten(1, 2), "spatial_shapes": shapes}


def tubelet(source: Source) -> int:
    """Return how many frames of a video one moment of tokens is made of.

    Raises:
        McilError: it is not known how the tokens of this model lie.
    """
    if source.kind in ("vjepa2", "videomae"):
        return int(source.config.tubelet_size)
    raise source.fail("the order of whose tokens is not known here; give VideoMAE or V-JEPA 2, or a model of pictures")


def read_pixels(source: Source) -> Pixels:
    """Read how pictures are prepared off the folder, or take what was published with this type of model.

    The square is cut from the whole shorter side, where processors leave a margin.

    Raises:
        McilError: there is no such file, or it cannot be understood.
    """
    try:
        settings = stored_settings(source.weights.folder) or PUBLISHED.get(source.kind)
        if settings is None:
            raise McilError(
                f"{source.name}: {source.weights.folder} lacks preprocessor_config.json, and nothing is known here of "
                f"models of type '{source.kind}'; give the folder that it was published in"
            )
        scale = 255 * float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 255.0
        shift = 1.0 if settings.get("offset") else 0.0
        mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if settings.get("do_normalize", True):
            mean, deviation = _three(settings["image_mean"]), _three(settings["image_std"])
        side, fit = _size(source, settings)
        return Pixels(
            side,
            "crop" if fit else "squash",
            _three([(value + shift) / scale for value in mean]),
            _three([value / scale for value in deviation]),
            RESAMPLING.get(settings.get("resample", 3), "bicubic"),
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise McilError(
            f"{source.name}: {source.weights.folder / 'preprocessor_config.json'} does not say how square pictures of "
            "three channels are prepared; give the file that was published with the weights"
        ) from error


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def _size(source: Source, settings: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the side of the square, and whether it is cut out."""
    if source.kind == NAFLEX:
        return math.isqrt(source.config.num_patches) * int(source.config.patch_size), False
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    size = crop or settings.get("size") or getattr(source.config, "image_size", None) or source.config.crop_size
    if isinstance(size, Mapping):
        sides = {int(side) for side in size.values()}
        if len(sides) != 1:
            raise ValueError
        return sides.pop(), crop is not None or "height" not in size
    return int(size), crop is not None or settings.get("do_center_crop", True)


def _measure(
    source: Source, side: int, frames: int, moments: int, video: bool
) -> tuple[tuple[int, int], list[int | None]]:
    """Return the rows and columns of the last block's tokens, and the width of each block, None with another grid."""
    shape = (1, frames, 3, side, side) if video else (1, 3, side, side)
    try:
        with torch.inference_mode():
            inputs = picture_inputs(source, torch.empty(shape, device="meta"))
            found = [tuple(state.shape) for state in states(source, sketch(source), inputs, several=True)]
    except UNFIT as error:
        raise source.fail(f"which gives no tokens for {frames} pictures of {side} pixels ({reason(error)})") from error
    last = found[-1]
    if len(last) == 4:
        return (last[2], last[3]), [shape[1] if shape[2:] == last[2:] else None for shape in found]
    cells = last[1] // moments if video else last[1] - leading(source, last[1], side)
    rows = math.isqrt(cells)
    if len(last) != 3 or (video and rows**2 * moments != last[1]):
        raise source.fail(f"whose tokens {last[1:]} are no square of patches; give one that keeps places apart")
    return (rows, rows), [shape[-1] if shape[:-1] == last[:-1] else None for shape in found]
