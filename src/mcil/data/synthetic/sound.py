"""The sounds of made clips: ten timbres, with jitter, onset, loudness and background noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

RATE = 16000

Wave = npt.NDArray[np.float64]
Timbre = Callable[[np.random.Generator, Wave], Wave]  # (generator, times in seconds) -> samples


def _tone(frequency: Wave | float, time: Wave) -> Wave:
    """A sine of a frequency (Hz) that may change with time."""
    phase: Wave = np.cumsum(np.broadcast_to(frequency, time.shape)) * (2 * np.pi / RATE)
    return np.sin(phase)


def _hum(rng: np.random.Generator, time: Wave) -> Wave:
    pitch = rng.uniform(95.0, 150.0)
    return sum((_tone(pitch * k, time) / k for k in range(1, 7)), np.zeros_like(time))


def _chirp(rng: np.random.Generator, time: Wave) -> Wave:
    sweep = (time * rng.uniform(3.0, 5.0)) % 1.0
    return _tone(rng.uniform(450.0, 650.0) * 4.0**sweep, time) * np.sin(np.pi * sweep)


def _rattle(rng: np.random.Generator, time: Wave) -> Wave:
    beat = (time * rng.uniform(8.0, 12.0)) % 1.0
    return rng.standard_normal(len(time)) * (beat < 0.45)


def _whistle(rng: np.random.Generator, time: Wave) -> Wave:
    pitch = rng.uniform(1000.0, 1500.0)
    return _tone(pitch * (1.0 + 0.02 * np.sin(2 * np.pi * rng.uniform(4.0, 6.0) * time)), time)


def _clicks(rng: np.random.Generator, time: Wave) -> Wave:
    since = (time % (1.0 / rng.uniform(14.0, 20.0))) / 0.004
    return 4.0 * np.exp(-since) * np.sin(2 * np.pi * 2500.0 * since * 0.004)


def _hiss(rng: np.random.Generator, time: Wave) -> Wave:
    noise = rng.standard_normal(len(time))
    return np.diff(np.diff(noise, prepend=0.0), prepend=0.0) * 0.4


def _bell(rng: np.random.Generator, time: Wave) -> Wave:
    since = time % (1.0 / rng.uniform(1.5, 2.5))
    pitch = rng.uniform(380.0, 520.0)
    return np.exp(-5.0 * since) * sum((_tone(pitch * k, time) for k in (1.0, 2.76, 5.4)), np.zeros_like(time))


def _siren(rng: np.random.Generator, time: Wave) -> Wave:
    return _tone(700.0 + 350.0 * np.sin(2 * np.pi * rng.uniform(0.8, 1.3) * time), time)


def _buzz(rng: np.random.Generator, time: Wave) -> Wave:
    square = np.sign(_tone(rng.uniform(170.0, 240.0), time))
    return square * (1.0 + np.sin(2 * np.pi * rng.uniform(28.0, 36.0) * time)) / 2


TIMBRES: dict[str, Timbre] = {
    "hum": _hum,
    "chirp": _chirp,
    "rattle": _rattle,
    "whistle": _whistle,
    "clicks": _clicks,
    "hiss": _hiss,
    "bell": _bell,
    "siren": _siren,
    "buzz": _buzz,
}


def synthesise(rng: np.random.Generator, sound: str, seconds: float) -> npt.NDArray[np.float32]:
    """Make the sound with a random onset and loudness, over coloured noise: float32 (n,) in [-1, 1] at ``RATE``."""
    time = np.arange(round(seconds * RATE)) / RATE
    onset = rng.uniform(0.0, 0.25) * seconds
    wave = TIMBRES[sound](rng, time) * np.clip((time - onset) / 0.02, 0.0, 1.0)
    wave /= np.sqrt(np.mean(wave**2)) + 1e-9
    white = rng.standard_normal(len(time))
    # Between white noise and a low rumble.
    brown = np.convolve(white, np.exp(-np.arange(200) / rng.uniform(2.0, 40.0)), mode="same")
    noise = white / white.std() * 0.3 + brown / brown.std()
    ratio = 10.0 ** (-rng.uniform(-6.0, 12.0) / 20.0)
    mixed = wave + ratio * noise
    loudness = 10.0 ** (-rng.uniform(3.0, 25.0) / 20.0)
    samples: npt.NDArray[np.float32] = (mixed * (loudness / np.abs(mixed).max())).astype(np.float32)
    return samples
