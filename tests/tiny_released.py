"""What the method mcil-audioclip-released reads, tiny: weights of CLIP with a vocabulary, and clips with text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import tiny
import tiny_towers
from mcil.data.class_text import describe_store
from mcil.data.store import FeatureStore
from mcil.encoders import TextEncoder, create_encoders
from mcil.encoders.prompts import prompts_for
from mcil.types import Batch

AUDIO, SIDE, DOMAIN = 1024, tiny_towers.SIZE, "released-imagenet-esc"


def weights(folder: Path, layers: int = 2) -> Path:
    """Write weights of a small CLIP, and the vocabulary beside them; return the folder, the method's ``weights``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tiny_towers.state(tiny_towers.vision(layers), tiny_towers.text(layers)), folder / "clip.safetensors")
    tiny_towers.write_vocabulary(folder)
    return folder


def arrays(numbers: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sounds (N,1024) and pixels (N,1,64*64,3): noise on a colour of each class's own."""
    places, noise = np.random.default_rng(0), np.random.default_rng(seed)
    sounds, colours = places.normal(size=(tiny.CLASSES, AUDIO)), places.uniform(0, 255, (tiny.CLASSES, 3))
    audio = sounds[numbers] + 0.5 * noise.normal(size=(len(numbers), AUDIO))
    pixels = colours[numbers][:, None, None] + 20 * noise.normal(size=(len(numbers), 1, SIDE * SIDE, 3))
    return audio.astype(np.float32), pixels.clip(0, 255).astype(np.uint8)


def clips(first: int, last: int, count: int = 8, seed: int = 1) -> Batch:
    """Return ``count`` clips of each of the classes ``first .. last - 1``."""
    labels = np.repeat(np.arange(first, last), count)
    audio, pixels = arrays(labels, seed)
    return Batch(torch.from_numpy(audio), torch.from_numpy(pixels), torch.from_numpy(labels))


def text_encoder(folder: Path) -> TextEncoder:
    """Return the encoder of token ids with the vocabulary in ``folder``."""
    (encoder,) = create_encoders({"clip-tokens": {"weights": str(folder)}})
    assert isinstance(encoder, TextEncoder)
    return encoder


def text(folder: Path) -> Tensor:
    """Return token ids (6,36,77) of the classes a..f, by the vocabulary in ``folder``."""
    encoder = text_encoder(folder)
    return torch.stack([torch.from_numpy(encoder.encode(row)) for row in prompts_for("abcdef", DOMAIN)])


def make_store(path: Path, folder: Path, counts: dict[str, int] | None = None, seed: int = 0) -> FeatureStore:
    """Write a store like that of :func:`tiny.make_store`, with text made by the vocabulary in ``folder``."""
    counts = tiny.COUNTS if counts is None else counts
    numbers = np.array([number for number in range(tiny.CLASSES) for _ in range(sum(counts.values()))])
    splits = [split for _ in range(tiny.CLASSES) for split, count in counts.items() for _ in range(count)]
    audio, pixels = arrays(numbers, seed)
    labels = ["abcdef"[number] for number in numbers]
    store = FeatureStore.write(path, labels=labels, splits=splits, audio=audio, visual=pixels)
    describe_store(store, text_encoder(folder), DOMAIN)
    return store
