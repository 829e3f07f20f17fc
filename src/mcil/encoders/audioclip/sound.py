"""From sounds to what AudioCLIP's audio tower reads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE = 44100
SAMPLES = 5 * RATE  # of the clips that AudioCLIP was trained on


def sixteen_bit(waveform: npt.NDArray[np.float32], samples: int = SAMPLES) -> npt.NDArray[np.int16]:
    """Turn a waveform (n,) in [-1, 1] into 16-bit samples, cut to ``samples`` or padded with zeros behind: (samples,).

    Cast to float32 they are what :class:`ESResNeXt` reads.
    """
    scaled = np.clip(np.round(waveform[:samples] * 32768.0), -32768, 32767).astype(np.int16)
    return np.pad(scaled, (0, samples - len(scaled)))
