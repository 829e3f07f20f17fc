"""From the arrays of a feature store to what a network reads."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mcil.errors import McilError
from mcil.models.tokens import present_unless_all

Normalize = Literal["first-task", "none"]

# A channel that varies less than this share of the median channel counts as varying that much.
_FLOOR = 0.01
# Elements that are turned to float32 at once while the statistics are gathered (64 MiB).
_CHUNK = 1 << 24


class InputScaler(nn.Module):
    """Standardise each modality per channel, so that one network and learning rate fit any encoders.

    Encoders differ by orders of magnitude in scale, and by what each channel's mean is. With
    ``normalize="first-task"`` every channel gets mean 0 and standard deviation 1 over the training clips of the
    *first* task. With "none" features are left as they are.

    Only the first task, because a learner must not see later tasks' data early: statistics over everything
    would leak it, and statistics that follow the tasks would move old classes' features under a network that has
    already learnt them. Later tasks are seen through the same buffers, which are saved with the network.

    Tokens that a clip does not have, all of whose numbers are 0 (:mod:`mcil.models.tokens`), are left out of the
    statistics and stay 0. A sound (N,D) and pictures of one vector each, (N,1,1,D), are no tokens: zeros count there.

    Args:
        audio: channels of the audio features, None without audio.
        visual: channels of the visual features, None without visual.
        normalize: "first-task" or "none".
    """

    def __init__(self, audio: int | None, visual: int | None, normalize: Normalize = "first-task") -> None:
        super().__init__()
        if normalize not in get_args(Normalize):
            raise McilError(f"normalize must be one of {', '.join(get_args(Normalize))}, not '{normalize}'")
        self.channels = {name: n for name, n in (("audio", audio), ("visual", visual)) if n is not None}
        if not self.channels:
            raise ValueError("a scaler needs the channels of at least one modality")
        self.normalize = normalize
        # Until it is fitted the scale is not a number, so that a forgotten fit cannot pass unnoticed.
        scale = math.nan if normalize == "first-task" else 1.0
        for name, channels in self.channels.items():
            self.register_buffer(f"{name}_mean", torch.zeros(channels))
            self.register_buffer(f"{name}_scale", torch.full((channels,), scale))

    def fit(self, audio: Tensor | None = None, visual: Tensor | None = None) -> None:
        """Take the statistics from the first task's training clips: ``audio`` (N,D) or (N,T,D), ``visual`` (N,L,S,D).

        Both in the dtype they are stored in; only a chunk at a time becomes float32. With "none" this does
        nothing, and a modality that the scaler does not have is ignored.

        Raises:
            McilError: a feature is not finite, or is no feature but raw input (whole numbers).
            ValueError: a modality of the scaler is missing, has another number of channels, or has no clips.
        """
        if self.normalize == "none":
            return
        for name, features in (("audio", audio), ("visual", visual)):
            if name not in self.channels:
                continue
            if features is None or not len(features) or features.shape[-1] != self.channels[name]:
                raise ValueError(f"fitting needs {name} features of {self.channels[name]} channels")
            if not features.is_floating_point():
                raise McilError(
                    f"the store holds raw input ({name}), and features are needed; encode the clips with another "
                    "encoder than 'raw', or choose a method that trains inside an encoder"
                )
            mean, deviation = _statistics(features)
            if not (mean.isfinite().all() and deviation.isfinite().all()):
                raise McilError(f"the first task's {name} features are not all finite; extract them again")
            varying = deviation[deviation > 0]
            typical = float(varying.median()) if len(varying) else 1.0
            self.get_buffer(f"{name}_mean").copy_(mean)
            self.get_buffer(f"{name}_scale").copy_(1 / deviation.clamp_min(_FLOOR * typical))

    def forward(self, audio: Tensor | None = None, visual: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return float32 ``audio`` (B,D_a) or (B,T,D_a), ``visual`` (B,L,S,D_v) of features of any float dtype.

        What is None stays None. Where nothing is scaled, whole numbers (samples, pixels) stay as they are stored.

        Raises:
            ValueError: features have another number of channels than the scaler was made for.
        """
        return self._scaled("audio", audio), self._scaled("visual", visual)

    def _scaled(self, name: str, features: Tensor | None) -> Tensor | None:
        if features is None:
            return None
        channels = self.channels.get(name, 0)
        if features.shape[-1] != channels:
            raise ValueError(f"{name} features must have {channels} channels, not {features.shape[-1]}")
        if self.normalize == "none" and not features.is_floating_point():
            return features
        # Type promotion widens while it subtracts: no float32 copy of the stored features comes first.
        scaled = (features - self.get_buffer(f"{name}_mean")).mul_(self.get_buffer(f"{name}_scale")).float()
        if self.normalize != "none" and (there := present_unless_all(features)) is not None:
            scaled.masked_fill_(~there[..., None], 0)
        return scaled


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation (D,) of features (N,...,D) that are there, in float64 on the CPU.

    Chunk by chunk, each in float32 around its own mean; the update of Chan, Golub and LeVeque joins them.
    """
    channels = features.shape[-1]
    mean, squares = torch.zeros(2, channels, dtype=torch.float64)
    count = 0
    clips = max(1, _CHUNK // features[0].numel())
    for start in range(0, len(features), clips):
        chunk = features[start : start + clips]
        there = present_unless_all(chunk)
        rows = (chunk.reshape(-1, channels) if there is None else chunk[there]).float()
        if not len(rows):
            continue
        variance, centre = (value.cpu().double() for value in torch.var_mean(rows, dim=0, correction=0))
        shift, total = centre - mean, count + len(rows)
        squares += variance * len(rows) + shift**2 * (count * len(rows) / total)
        mean += shift * (len(rows) / total)
        count = total
    return mean, (squares / max(1, count)).sqrt()
