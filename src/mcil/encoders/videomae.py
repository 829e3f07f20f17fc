"""VideoMAE: a vision transformer over 16 frames; a grid of tokens for every two of them.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners", NeurIPS 2022; model and preprocessing are
those of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from mcil.encoders.base import ENCODERS, FACTS, Device, Encoder, Facts, Floats, segment_centres
from mcil.encoders.weights import TorchEncoder, Weights, find_weights, load_pretrained
from mcil.errors import McilError

if TYPE_CHECKING:
    from mcil.media import Clip

HUB = "MCG-NJU/videomae-base"
LICENCE = "weights: CC BY-NC 4.0 (non-commercial)"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS = ("default", "published")


def published_frames(dumped: int, count: int = 16) -> npt.NDArray[np.int64]:
    """Which of ``dumped`` frames (1-based) the published extraction took: ``count`` numbers.

    The first, ``1 + int((i + 1) * n / (count - 1) + 0.5)`` for i = 0 .. count - 3, and the last. With seven frames or
    fewer the formula points beyond the end: then the last frame stands in.
    """
    steps = np.arange(1, count - 1)
    between = 1 + (steps * dumped / (count - 1) + 0.5).astype(np.int64)
    return np.concatenate([[1], np.minimum(between, dumped), [dumped]])


class VideoMAEEncoder(TorchEncoder):
    """VideoMAE behind the encoder interface."""

    name = "videomae"
    modality = "visual"

    def __init__(self, weights: Weights, preset: str, fps: float, device: Device, options: dict[str, Any]) -> None:
        from transformers import VideoMAEConfig

        super().__init__(device)
        self.weights, self.preset, self.fps = weights, preset, fps
        self._options = options
        try:
            if not (weights.folder / "config.json").is_file():  # transformers would take its defaults instead
                raise ValueError
            config: Any = VideoMAEConfig.from_pretrained(weights.folder)
            self._processor = _processor_options(weights, config.image_size)
            cropped = [self._processor["crop_size"][side] for side in ("height", "width")]
            if config.model_type != "videomae" or cropped != [config.image_size] * 2:
                raise ValueError
        except (OSError, ValueError) as error:
            raise McilError(
                f"videomae: {weights.folder} lacks a readable config.json of a VideoMAE model (and processor); "
                "give a folder as `hf download` or save_pretrained leaves it"
            ) from error
        self.count, self.tubelet, self.side = config.num_frames, config.tubelet_size, config.image_size
        self.cells = self.side // config.patch_size
        self.shape = (self.count // self.tubelet, self.cells**2, config.hidden_size)

    def card(self) -> dict[str, Any]:
        """See :meth:`Encoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self.weights.revision,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {
                "frames": self.count,
                "sampling": "published" if self.preset == "published" else "centres of equal segments",
                "dump_fps": self.fps if self.preset == "published" else None,
                **self._processor,
            },
            "shape": list(self.shape),
            "grid": [self.cells, self.cells],
            "view": "centre",
        }

    def sample_times(self, duration: float) -> npt.NDArray[np.float64]:
        """When the input frames are taken, in seconds: shape (frames,)."""
        if self.preset == "published":
            dumped = max(int(duration * self.fps + 0.5), 1)
            return (published_frames(dumped, self.count) - 1).astype(np.float64) / self.fps
        return segment_centres(duration, self.count)

    def frame_times(self, duration: float) -> npt.NDArray[np.float64]:
        """Mean time of the frames that each output frame sees, shape (L,)."""
        times: npt.NDArray[np.float64] = self.sample_times(duration).reshape(-1, self.tubelet).mean(axis=1)
        return times

    def prepare(self, clip: Clip) -> npt.NDArray[np.uint8]:
        """The clip's frames, short side resized, centre cropped: uint8 (frames, 3, side, side)."""
        from transformers import VideoMAEImageProcessorPil

        frames = clip.frames(self.sample_times(clip.visual_duration))
        processor = VideoMAEImageProcessorPil(**self._processor)
        # Scaling and normalising wait until encode: bytes travel four times faster between processes.
        cropped = processor(list(frames), do_rescale=False, do_normalize=False, return_tensors="np")
        pixels: npt.NDArray[np.uint8] = cropped["pixel_values"][0]
        return pixels

    def encode(self, prepared: npt.NDArray[Any]) -> Floats:
        """Encode frames uint8 (B, frames, 3, side, side) to the last hidden state, float32 (B,L,S,D)."""
        tower, device = self.tower()
        mean, std = (
            torch.tensor(self._processor[name], device=device)[:, None, None] for name in ("image_mean", "image_std")
        )
        with torch.inference_mode():
            pixels = (torch.from_numpy(prepared).to(device) / 255 - mean) / std
            features: Floats = tower(pixels).last_hidden_state.cpu().numpy()
        return features.reshape(len(prepared), *self.shape)

    def load(self) -> nn.Module:
        """See :meth:`TorchEncoder.load`."""
        from transformers import VideoMAEModel

        tower: nn.Module = load_pretrained(self.name, self.weights, VideoMAEModel, what="VideoMAE")
        return tower


def _processor_options(weights: Weights, side: int) -> dict[str, Any]:
    """Options of the frame processor: the weights' own file's, or VideoMAE's published ones for ``side`` pixels."""
    from transformers import VideoMAEImageProcessorPil

    options: dict[str, Any] = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "resample": 2,  # Pillow's bilinear
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    if (weights.folder / "preprocessor_config.json").is_file():
        options = VideoMAEImageProcessorPil.from_pretrained(weights.folder).to_dict()
    return {
        "size": dict(options["size"]),
        "crop_size": dict(options["crop_size"]),
        "resample": int(options["resample"]),
        "image_mean": list(options["image_mean"]),
        "image_std": list(options["image_std"]),
    }


@ENCODERS.register("videomae")
def videomae(
    *,
    weights: str = HUB,
    revision: str | None = None,
    preset: Literal["default", "published"] = "default",
    fps: float = 10.0,
    device: Device = "auto",
) -> list[Encoder]:
    """VideoMAE (base: 8 frames x 14 x 14 patches x 768 values of the centre crop).

    Args:
        weights: folder with config.json and the weights, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        preset: which frames: "default" takes the centres of 16 equal segments; "published" follows the published
            AV-CIL extraction (frames dumped at ``fps``, then its formula).
        fps: frames a second of the dump that "published" imitates: 10 for AVE, 8 for the others.
        device: where the transformer runs.
    """
    if preset not in PRESETS:
        raise McilError(f"videomae: there is no preset '{preset}'; choose one of: {', '.join(PRESETS)}")
    if not fps > 0:
        raise McilError("videomae: fps must be above 0")
    options = {"weights": weights, "revision": revision, "preset": preset, "fps": fps}
    found = find_weights("videomae", weights, revision, ("config.json", "preprocessor_config.json"))
    return [VideoMAEEncoder(found, preset, fps, device, options)]


FACTS["videomae"] = (Facts("visual", (8, 196, 768), 86.2, LICENCE, HUB),)
