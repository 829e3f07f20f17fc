"""Hand-made descriptors of sounds: statistics of a log-mel spectrogram. No weights.

A sound's values depend on nothing but itself; silence gives zeros; a change of loudness changes nothing as long as
the peak stays above -60 dB of full scale.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mcil.encoders.fbank import mel_filters, split_frames

Floats = npt.NDArray[np.float32]

COLUMN = 0.02  # seconds from one column of a spectrogram to the next
WINDOW = 0.04  # seconds that one column sees
BANDS = 40
RANGE = 80.0  # dB below a clip's peak that are looked at
FAINT = -60.0  # dB of full scale: a clip whose peak is fainter is not turned up any more
FLOOR = 1e-14  # power that stands for none: -140 dB
GROUPS = 8  # of neighbouring bands, for the modulation spectrum
MODULATION = (0.7, 1.5, 3.0, 6.0, 12.0, 25.0)  # Hz, edges of the modulation bands
STRETCH = 1.28  # seconds of one modulation spectrum
CEPSTRA = 20

WIDTH = 5 * BANDS - 1 + GROUPS * (len(MODULATION) - 1) + 2 * CEPSTRA


def logmel(waveform: Floats, rate: int) -> Floats:
    """Return the log-mel spectrogram of a mono waveform (n,) in dB of full scale, float32 (BANDS, columns).

    A sound shorter than one window is padded with zeros to one column.
    """
    window, shift = int(rate * WINDOW), int(rate * COLUMN)
    missing = max(window - len(waveform), 0)
    frames = split_frames(np.pad(waveform, (0, missing)), window, shift)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(window).astype(np.float32)
    size = 1 << (window - 1).bit_length()
    # A full-scale sine has the power 1: its peak bin is a quarter of the squared window's sum.
    power = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2 * (16 / window**2)
    bands = power.astype(np.float32) @ mel_filters(rate, BANDS, size).T
    decibels: Floats = np.float32(10) * np.log10(np.maximum(bands.T, np.float32(FLOOR)))
    return decibels


def to_bands(values: Floats, bands: int = BANDS) -> Floats:
    """Average (or interpolate, where there are fewer) rows of (n, columns) to (bands, columns)."""
    rows = len(values)
    if rows == bands:
        return values
    # Integrate the rows as a step function and read the integral at the new edges.
    sums = np.concatenate([np.zeros((1, values.shape[1]), np.float64), np.cumsum(values, axis=0, dtype=np.float64)])
    edges = np.linspace(0, rows, bands + 1)
    low = np.minimum(edges.astype(np.int64), rows - 1)
    integral = sums[low] + (edges - low)[:, None] * (sums[low + 1] - sums[low])
    means: Floats = (np.diff(integral, axis=0) * (bands / rows)).astype(np.float32)
    return means


def modulation(levels: Floats, column: float) -> Floats:
    """Share of each modulation band (0.7 to 25 Hz) in the movement of each group of bands: (GROUPS * 5,).

    Mean power spectrum of half-overlapping stretches of 1.28 s; a shorter clip is one stretch.
    """
    length = max(round(STRETCH / column), 8)
    groups = levels.reshape(GROUPS, -1, levels.shape[1]).mean(axis=1)
    if groups.shape[1] < length:
        groups = np.pad(groups, ((0, 0), (0, length - groups.shape[1])), mode="edge")
    stretches = np.lib.stride_tricks.sliding_window_view(groups, length, axis=1)[:, :: length // 2]
    stretches = (stretches - stretches.mean(axis=-1, keepdims=True)) * np.hanning(length)
    power = (np.abs(np.fft.rfft(stretches, axis=-1)) ** 2).mean(axis=1)
    rates = np.fft.rfftfreq(length, column)
    inside = [(rates >= low) & (rates < high) for low, high in pairwise(MODULATION)]
    bands = np.stack([power[:, chosen].sum(axis=1) for chosen in inside], axis=1)
    shares: Floats = np.sqrt(bands / (bands.sum(axis=1, keepdims=True) + 0.05)).ravel().astype(np.float32)
    return shares


def _cosines() -> Floats:
    """Orthonormal cosine transform over the bands: (CEPSTRA, BANDS)."""
    waves = np.cos(np.pi * np.arange(CEPSTRA)[:, None] * (np.arange(BANDS) + 0.5) / BANDS) * (2 / BANDS) ** 0.5
    waves[0] /= 2**0.5
    cosines: Floats = waves.astype(np.float32)
    return cosines


_COSINES = _cosines()


def _difference(values: Floats, lag: int) -> Floats:
    """Change over ``lag`` columns (fewer in a short clip; one column of zeros where there is only one)."""
    lag = min(lag, values.shape[1] - 1)
    return values[:, lag:] - values[:, :-lag] if lag else np.zeros((len(values), 1), np.float32)


def describe(logmel_db: Floats, column: float = COLUMN) -> Floats:
    """Describe a log-mel spectrogram in dB (bands, columns): float32 (WIDTH,).

    Levels are 0..1 for 80 dB below the clip's peak .. the peak. In order: per band the mean, the 90th percentile, the
    maximum, the change over 80 ms (root mean square) and the roughness (mean step to the next band); modulation
    spectrum; deviations of the cepstra and of their change over 40 ms.
    """
    peak = max(float(logmel_db.max()), FAINT)
    levels = np.clip((to_bands(logmel_db.astype(np.float32)) - peak + RANGE) / RANGE, 0, 1)
    change = _difference(levels, max(round(0.08 / column), 1))
    cepstra = _COSINES @ levels
    parts = [
        levels.mean(axis=1),
        np.quantile(levels, 0.9, axis=1),
        levels.max(axis=1),
        3 * np.sqrt((change**2).mean(axis=1)),
        3 * np.abs(np.diff(levels, axis=0)).mean(axis=1),
        modulation(levels, column),
        cepstra.std(axis=1),
        _difference(cepstra, max(round(0.04 / column), 1)).std(axis=1),
    ]
    return np.concatenate(parts, dtype=np.float32)
