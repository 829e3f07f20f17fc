"""Kaldi's filter bank: against plain loops, and against numbers that must not drift."""

import math

import numpy as np
import pytest

from mcil.encoders.fbank import KALDI_FLOOR, kaldi_fbank, mel_filters


def naive_fbank(samples, rate, bands, shift_ms=10.0):
    """The recipe sample by sample, in double precision, with a discrete Fourier transform written out."""
    window, shift = int(rate * 0.025), int(rate * shift_ms / 1000)
    size = 1
    while size < window:
        size *= 2

    def to_mel(hertz):
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    low, high = to_mel(20.0), to_mel(rate / 2)
    step = (high - low) / (bands + 1)
    rows = []
    for start in range(0, len(samples) - window + 1, shift):
        frame = [float(s) for s in samples[start : start + window]]
        mean = sum(frame) / window
        frame = [s - mean for s in frame]
        frame = [s - 0.97 * frame[max(i - 1, 0)] for i, s in enumerate(frame)]
        frame = [s * (0.5 - 0.5 * math.cos(2 * math.pi * i / (window - 1))) for i, s in enumerate(frame)]
        power = []
        for k in range(size // 2):
            turn = np.exp(-2j * np.pi * k * np.arange(window) / size)
            power.append(abs(np.dot(frame, turn)) ** 2)
        row = []
        for band in range(bands):
            left, centre, right = (low + (band + i) * step for i in range(3))
            energy = 0.0
            for k in range(size // 2):
                place = to_mel(k * rate / size)
                if left < place < right:
                    up, down = (place - left) / (centre - left), (right - place) / (right - centre)
                    energy += power[k] * min(up, down)
            row.append(math.log(max(energy, KALDI_FLOOR)))
        rows.append(row)
    return np.array(rows)


def chirp(rate, seconds=0.12):
    time = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(3).normal(0, 0.01, len(time))
    return (0.4 * np.sin(2 * np.pi * (200 + 9000 * time) * time) + 0.05 + noise).astype(np.float32)


@pytest.mark.parametrize(("rate", "bands", "shift"), [(16000, 128, 10.0), (11430, 128, 10.0), (8000, 23, 20.0)])
def test_equals_plain_loops(rate, bands, shift):
    samples = chirp(rate)
    expected = naive_fbank(samples, rate, bands, shift)
    result = kaldi_fbank(samples, rate, bands, shift_ms=shift)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=2e-3)
    assert np.abs(result - expected).mean() < 1e-5


def test_values_are_pinned():
    index = np.arange(16000)
    samples = ((index * index % 1009) / 1009 - 0.5).astype(np.float32)  # broad-band, and the same everywhere
    bands = [0, 25, 60, 90, 127]
    for rate, pinned in ((16000, PINNED_16K), (11430, PINNED_11K)):
        np.testing.assert_allclose(kaldi_fbank(samples, rate, 128)[10, bands], pinned, atol=1e-3)


PINNED_16K = [-6.7505, -1.7775, 0.7136, 2.1173, 4.5128]
PINNED_11K = [-8.7294, -0.6145, 1.9235, 2.55, 3.1729]


def test_frames_are_counted_as_kaldi_does():
    for samples, frames in ((399, 0), (400, 1), (559, 1), (560, 2), (16000, 98)):
        assert kaldi_fbank(np.zeros(samples, np.float32)).shape == (frames, 128)


def test_silence_is_the_floor():
    np.testing.assert_allclose(kaldi_fbank(np.zeros(800, np.float32)), math.log(KALDI_FLOOR), rtol=1e-6)
    np.testing.assert_allclose(kaldi_fbank(np.full(800, 0.25, np.float32)), math.log(KALDI_FLOOR), rtol=1e-6)


def test_filters_overlap_to_one_between_the_outer_centres():
    filters = mel_filters(16000, 20, 512)
    assert filters.shape == (20, 257)
    assert (filters >= 0).all()
    assert not filters[:, -1].any()
    peaks = filters.argmax(axis=1)
    np.testing.assert_allclose(filters[:, peaks[0] + 1 : peaks[-1]].sum(axis=0), 1.0, atol=1e-5)
