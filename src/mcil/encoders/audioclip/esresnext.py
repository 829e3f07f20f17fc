"""ESResNeXt-fbsp: a ResNeXt with attention over a learnable spectrogram (Guzhov et al., IJCNN 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, max_pool2d, relu

from mcil.encoders.audioclip.fbsp import FBSP, blackman_harris, split_frames
from mcil.encoders.tower import Adapt, Tower, adapt_stage

BANDS = 3  # of the spectrum, which stand where a picture has red, green and blue
SILENCE = 1e-18  # power that stands for none
KERNELS = ((3, 1), (1, 5), (3, 1), (1, 5), (3, 5))  # of the attention: along frequency, along time, ..., both


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 with the stride, 1x1; the shortcut is a 1x1 with the stride where shapes change."""

    def __init__(self, inputs: int, middle: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B, outputs, H / stride, W / stride)."""
        update = relu(self.bn1(self.conv1(z)))
        update = self.bn3(self.conv3(relu(self.bn2(self.conv2(update)))))
        return relu(update + (z if self.downsample is None else self.downsample(z)))


class StageAttention(nn.Module):
    """How much of each channel and place of a stage's output counts, 0 to 1, judged from the stage's input."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(inputs, inputs, kernel, padding=padding, groups=inputs)
        self.conv_point = nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Judge the stage's input (B,C,H,W): shares (B, outputs, *size)."""
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(adaptive_max_pool2d(z, size)))))


class ESResNeXt(Tower):
    """Waveforms (B,N) to embeddings (B,E): a place for adapters after each of the four stages and its attention.

    Waveforms are sound at 44.1 kHz in the scale of 16-bit integers, -32768 to 32767; values in [-1, 1] are 90 dB too
    quiet. The tower was trained on 5 seconds, but takes any length.

    Args:
        layers: blocks of each stage.
        width: channels of the stem; stage s gives ``4 * width * 2**s``.
        groups: of the 3x3 convolutions.
        embed: E.
        length: samples of a frame's transform; of its length / 2 + 1 wavelets the last that do not fill 3 bands are
            left aside.
        window: samples of a frame that are not zeros.
        hop: samples from a frame to the next.
    """

    window: Tensor

    def __init__(
        self,
        layers: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 32,
        embed: int = 1024,
        length: int = 2048,
        window: int = 1654,
        hop: int = 561,
    ) -> None:
        super().__init__()
        self.hop, self.width = hop, embed
        self.widths = tuple(4 * width * 2**stage for stage in range(4))
        inputs = (width, *self.widths)
        self.register_buffer("window", blackman_harris(window))
        self.fbsp = FBSP(length // 2 + 1, length)
        self.conv1, self.bn1 = nn.Conv2d(BANDS, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                Bottleneck(inputs[stage], inputs[stage + 1] // 2, inputs[stage + 1], groups, 1 if stage == 0 else 2),
                *(
                    Bottleneck(inputs[stage + 1], inputs[stage + 1] // 2, inputs[stage + 1], groups, 1)
                    for _ in range(layers[stage] - 1)
                ),
            )
            for stage in range(4)
        )
        self.att1, self.att2, self.att3, self.att4, self.att5 = (
            StageAttention(inputs[stage], inputs[min(stage + 1, 4)], KERNELS[stage]) for stage in range(5)
        )
        self.fc = nn.Linear(inputs[-1], embed)

    def spectrogram(self, waveforms: Tensor) -> Tensor:
        """Levels in dB of waveforms (B,N): float32 (B, 3 bands, frequencies, T), lowest frequencies first."""
        # Exactly these steps in float32, in any precision of the rest: their rounding is part of what was trained.
        with torch.autocast(waveforms.device.type, enabled=False):
            scaled = ((waveforms.float() + 32768) * 2) / 65535 + (-1)
            missing = self.fbsp.length - len(self.window)
            frames = split_frames(scaled, len(self.window), self.hop) * self.window
            spectra = self.fbsp(nn.functional.pad(frames, (missing // 2, missing - missing // 2)))
            power = spectra.square().sum(dim=-1)
            levels = 10 * torch.log10(power.masked_fill(power <= 0, SILENCE))
        batch, columns, wavelets = levels.shape
        frequencies = wavelets // BANDS
        return levels[..., : BANDS * frequencies].transpose(1, 2).reshape(batch, BANDS, frequencies, columns)

    def below(self, inputs: Tensor, place: int) -> Tensor:
        """Return what enters stage ``place``: (B,C,H,W), H frequencies and W times."""
        z = max_pool2d(relu(self.bn1(self.conv1(self.spectrogram(inputs)))), 3, stride=2, padding=1)
        for layer, attention in self._stages()[:place]:
            z = _attended(z, layer, attention)
        return z

    def above(self, hidden: Tensor, place: int, adapt: Adapt | None = None) -> Tensor:
        """See :meth:`Tower.above`; the summary is the mean token."""
        z = hidden
        for stage, (layer, attention) in enumerate(self._stages()[place:], place):
            z = adapt_stage(_attended(z, layer, attention), stage, adapt)
        pooled = z.mean(dim=(2, 3)) * self.att5(z, (1, 1)).flatten(1)
        embedding: Tensor = self.fc(pooled)
        return embedding

    def _stages(self) -> list[tuple[nn.Sequential, StageAttention]]:
        return [
            (self.layer1, self.att1),
            (self.layer2, self.att2),
            (self.layer3, self.att3),
            (self.layer4, self.att4),
        ]


def _attended(z: Tensor, layer: nn.Sequential, attention: StageAttention) -> Tensor:
    output: Tensor = layer(z)
    shares: Tensor = attention(z, (output.shape[2], output.shape[3]))
    return output * shares
