"""AudioCLIP's learnable spectrogram: frames of sound times complex frequency B-spline wavelets.

Guzhov et al., "ESResNe(X)t-fbsp: Learning Robust Time-Frequency Transformation of Audio", IJCNN 2021.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

EPSILON = 1e-8
TINY = 1e-30  # stands for a wavelet's zero, whose logarithm would be infinite


def split_frames(waveforms: Tensor, length: int, hop: int) -> Tensor:
    """Cut waveforms (B,N) into frames (B,T,length), ``hop`` samples apart.

    T = 1 + ceil((N - length) / hop), and 1 where N <= length. Zeros fill the frames: half of them, rounded down, before
    the sound, the others behind it.
    """
    samples = waveforms.shape[1]
    steps = max(math.ceil((samples - length) / hop), 0)
    missing = steps * hop + length - samples
    padded = nn.functional.pad(waveforms, (missing // 2, missing - missing // 2))
    return padded.unfold(1, length, hop)


def blackman_harris(length: int) -> Tensor:
    """The periodic four-term Blackman-Harris window, float32 (length,); Harris 1978, table 1 (minimum, 4 terms)."""
    turns = np.arange(length) / length * 2 * np.pi
    terms = (0.35875, -0.48829, 0.14128, -0.01168)
    window = sum(term * np.cos(k * turns) for k, term in enumerate(terms))
    return torch.from_numpy(np.asarray(window, np.float32))


class FBSP(nn.Module):
    """Frequency B-spline wavelets in place of a Fourier transform's waves.

    Wavelet k at the times t: sqrt(fb) sinc(fb t / m)^m exp(-i fc t) / sqrt(length), with order m, bandwidth fb and
    frequency fc of its own. It begins as the Fourier transform: m = 0, fb = 1, fc = k.
    """

    def __init__(self, wavelets: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.m = nn.Parameter(torch.zeros(wavelets))
        self.fb = nn.Parameter(torch.ones(wavelets))
        self.fc = nn.Parameter(torch.arange(wavelets, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(0))  # the published files have this name, with nothing in it

    def wavelets(self) -> Tensor:
        """The real and imaginary parts, float32 (wavelets, length, 2)."""
        times = torch.pi * torch.linspace(-1, 1, self.length, device=self.m.device) + EPSILON
        m, fb, fc = (parameter[:, None] for parameter in (self.m, self.fb, self.fc))
        z = fb * times / (m + EPSILON)
        zero = z == 0
        nonzero = torch.where(zero, 1, z)
        spline = torch.where(zero, 1, torch.sin(nonzero) / nonzero)
        # A negative number to a power that is not whole is complex: its angle, pi, is multiplied by the power.
        size = torch.sqrt(fb) / self.length**0.5 * spline.abs().clamp_min(TINY) ** m
        angle = torch.where(spline < 0, torch.pi, 0.0) * m
        spline_re, spline_im = size * torch.cos(angle), size * torch.sin(angle)
        wave_re, wave_im = torch.cos(fc * times), -torch.sin(fc * times)
        return torch.stack(
            [spline_re * wave_re - spline_im * wave_im, spline_re * wave_im + spline_im * wave_re], dim=-1
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Transform frames (B,T,length) to real and imaginary parts (B, T, wavelets, 2)."""
        return torch.einsum("btn,knc->btkc", frames, self.wavelets())
