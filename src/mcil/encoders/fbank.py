"""Mel filter banks in numpy: frames, power spectra, triangular filters, Kaldi's log-mel recipe."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

KALDI_FLOOR = 1.1920928955078125e-07  # float32's machine epsilon: Kaldi's floor below the logarithm
LOWEST_HZ = 20.0
PREEMPHASIS = 0.97


def mel(hertz: npt.ArrayLike) -> Doubles:
    """Return Kaldi's (and HTK's) mel scale: ``1127 ln(1 + f / 700)``."""
    return 1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0)


@lru_cache(maxsize=16)
def mel_filters(rate: int, bands: int, fft_size: int) -> Floats:
    """Return triangular filters (bands, fft_size // 2 + 1) from 20 Hz to ``rate / 2``.

    The triangles are straight on the mel axis and equally spaced there, each reaching to its neighbours'
    peaks; the bin at the Nyquist frequency gets no weight, as in Kaldi.
    """
    edges = np.linspace(mel(LOWEST_HZ), mel(rate / 2), bands + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = mel(np.arange(fft_size // 2) * (rate / fft_size))[None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return np.pad(filters, ((0, 0), (0, 1))).astype(np.float32)


def split_frames(waveform: Floats, window: int, shift: int) -> Floats:
    """Return every whole frame of a waveform (n,): shape (1 + (n - window) // shift, window), or (0, window)."""
    if len(waveform) < window:
        return np.zeros((0, window), np.float32)
    return np.lib.stride_tricks.sliding_window_view(waveform, window)[::shift]


def kaldi_fbank(
    waveform: Floats, rate: int = 16000, bands: int = 128, window_ms: float = 25.0, shift_ms: float = 10.0
) -> Floats:
    """Return Kaldi's log-mel filter bank energies of a mono waveform.

    Whole frames only (``snip_edges``); each has its mean removed, is pre-emphasised by 0.97 (its first sample
    stands for the one before it) and weighted with a symmetric Hann window; power spectrum of the next power of
    two; natural logarithm. No dither, no energy column.

    Args:
        waveform: float32 (n,); values are taken as they are (Kaldi itself reads 16-bit integers).
        rate: samples a second; window and shift are rounded down to whole samples.
        bands: number of mel bands, from 20 Hz to ``rate / 2``.
        window_ms: length of a frame in milliseconds.
        shift_ms: step between frames in milliseconds.

    Returns:
        float32 (frames, bands); no frames when the waveform is shorter than one window.
    """
    window, shift = int(rate * window_ms / 1000), int(rate * shift_ms / 1000)
    frames = split_frames(np.ascontiguousarray(waveform, dtype=np.float32), window, shift)
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames * np.hanning(window).astype(np.float32)
    fft_size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, fft_size, axis=1)) ** 2
    energies = power.astype(np.float32) @ mel_filters(rate, bands, fft_size).T
    logs: Floats = np.log(np.maximum(energies, np.float32(KALDI_FLOOR)))
    return logs
