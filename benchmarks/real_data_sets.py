"""Real data sets, from the files that they come in to feature stores, by the ways that a user has."""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from mcil.cli import main as mcil
from mcil.data.importers.arrays import import_arrays
from mcil.data.store import FeatureStore
from mcil.encoders import create_encoders
from mcil.encoders.builtin import BuiltinAudio, BuiltinVisual
from mcil.files import atomic_path, write_text
from mcil.types import Modality

Array = npt.NDArray[Any]

LOGMEL_COLUMN = 0.0202  # seconds a column of esc_tin24_raw's spectrograms
LOGMEL_FLOOR = -80.0  # dB of the value 0; 255 is 0 dB
AV_MNIST_RATE = 8000


@dataclass(frozen=True)
class Prepared:
    """A feature store, and its classes in the order in which they arrive."""

    store: Path
    class_order: list[str]


@dataclass(frozen=True)
class RealData:
    """A data set: how its store is made of the files in a folder, and the scenario over it.

    ``prepare(data, store, work)`` reads below ``data``, writes the store, and keeps other files below ``work``. What
    is there already is not made again.
    """

    prepare: Callable[[Path, Path, Path], Prepared]
    tasks: int
    memory: int
    modalities: tuple[Modality, ...] = ("audio", "visual", "audio-visual")


def prepare_yt8m(data: Path, store: Path, work: Path) -> Prepared:
    """Features of YouTube-8M videos that exist already: ``mcil data import arrays``."""
    file = data / "yt8m_av30.npz"
    return Prepared(import_arrays(file, store), ordered(file))


def prepare_esc_tin24(data: Path, store: Path, work: Path) -> Prepared:
    """ESC-50 sounds and Tiny-ImageNet pictures paired by class: decoded data through the built-in encoder."""
    pairs_file, raw_file = data / "esc_tin24.npz", data / "esc_tin24_raw.npz"
    order = ordered(pairs_file)
    if (store / "card.json").exists():
        return Prepared(store, order)
    with np.load(pairs_file, allow_pickle=False) as pairs, np.load(raw_file, allow_pickle=False) as raw:
        names, classes, keys = pairs["class_names"], pairs["audio_y"], pairs["audio_key"]
        rows, splits = split_esc_tin24(pairs)
        logmel, image = raw["logmel"], raw["image"]
    # One picture of 64 pixels a side: 4 x 4 patches of 16 pixels, as they are.
    sound, look = builtin(frames=1, grid=4)
    audio = np.stack([sound.encode_logmel(decibels(spectrogram), LOGMEL_COLUMN) for spectrogram in logmel])
    visual = np.stack([look.encode_pictures(picture[None]) for picture in image]).astype(np.float16)
    FeatureStore.write(
        store,
        labels=[str(names[label]) for label in classes[rows[:, 0]]],
        splits=splits,
        audio=audio[rows[:, 0]],
        visual=visual[rows[:, 1]],
        ids=[f"{keys[first]}+{second}" for first, second in rows],
        card={"encoders": {encoder.modality: encoder.card() for encoder in (sound, look)}},
    )
    return Prepared(store, order)


def prepare_esc_tin24_pretrained(data: Path, store: Path, work: Path) -> Prepared:
    """The same pairs and splits with the features of pretrained networks that come with them."""
    file = data / "esc_tin24.npz"
    if not (store / "card.json").exists():
        with np.load(file, allow_pickle=False) as pairs:
            names, classes, keys = pairs["class_names"], pairs["audio_y"], pairs["audio_key"]
            audio, visual = pairs["audio"], pairs["visual"]
            rows, splits = split_esc_tin24(pairs)
        FeatureStore.write(
            store,
            labels=[str(names[label]) for label in classes[rows[:, 0]]],
            splits=splits,
            audio=audio[rows[:, 0]],
            visual=visual[rows[:, 1]][:, None, None],
            ids=[f"{keys[first]}+{second}" for first, second in rows],
            card={"encoders": {"audio": {"name": "YAMNet, log-mel picture"}, "visual": {"name": "MobileNetV2"}}},
        )
    return Prepared(store, ordered(file))


def split_esc_tin24(pairs: Mapping[str, Array]) -> tuple[Array, list[str]]:
    """Return the pairs (N,2), rows of audio and of visual, and the split of each.

    Fold 5 is tested on. Validation pairs are those of an eighth of the other folds' recordings.
    """
    train, test = pairs["pairs_train_f5"], pairs["pairs_test_f5"]
    # A name is fold-recording-part-class: parts of one recording stay together.
    recordings = np.array([str(key).split("-")[1] for key in pairs["audio_key"]])
    held = hold_out(recordings[train[:, 0]], pairs["audio_y"][train[:, 0]], share=1 / 8, seed=0)
    splits = ["train"] * int((~held).sum()) + ["val"] * int(held.sum()) + ["test"] * len(test)
    return np.concatenate([train[~held], train[held], test]), splits


def prepare_scenes(data: Path, store: Path, work: Path) -> Prepared:
    """Real sounds with scenes of eight real pictures, one of which sounds: 4 frames of 4x4 patches."""
    file = data / "esc_tin24_scenes.npz"
    if not (store / "card.json").exists():
        with np.load(file, allow_pickle=False) as arrays:
            names, labels = arrays["class_names"], arrays["scene_label"]
            splits = np.array(["train", "val", "test"])[arrays["scene_split"]]
            patches = arrays["tokens"][arrays["scene_images"]]  # (N, frames, quadrants, patches, D)
            sounds = arrays["audio"][arrays["scene_audio"]]
        # Quadrants and their patches are both row by row; a frame's patches become one grid, row by row.
        count, frames, _, _, width = patches.shape
        grid = patches.reshape(count, frames, 2, 2, 2, 2, width).transpose(0, 1, 2, 4, 3, 5, 6)
        FeatureStore.write(
            store,
            labels=[str(names[label]) for label in labels],
            splits=splits.tolist(),
            audio=sounds,
            visual=grid.reshape(count, frames, 16, width),
            card={"encoders": {"visual": {"name": "MobileNetV2, 2x2 patches a picture, PCA", "grid": [4, 4]}}},
        )
    return Prepared(store, ordered(file))


def prepare_av_mnist(data: Path, store: Path, work: Path, clips: tuple[int, int, int] = (200, 30, 100)) -> Prepared:
    """Spoken and written digits, both degraded, as .wav and .png files: import, check and extract them.

    Args:
        data: folder of ``av_mnist.npz``.
        store: the store to write.
        work: folder for the files and their manifest.
        clips: of each class to take for train, val and test. Those of val have recordings of their own.
    """
    file = data / "av_mnist.npz"
    with np.load(file, allow_pickle=False) as arrays:
        names, classes, keys = arrays["class_names"], arrays["audio_y"], arrays["audio_key"]
        train, test = arrays["pairs_train"], arrays["pairs_test"]
        sounds, pictures = arrays["wav_noisy"], arrays["image_hard"]
    held = hold_out(keys[train[:, 0]], classes[train[:, 0]], share=clips[1] / sum(clips[:2]), seed=0)
    table: list[dict[str, str]] = []
    for split, pairs, count in zip(("train", "val", "test"), (train[~held], train[held], test), clips, strict=True):
        for place in pick(classes[pairs[:, 0]], count, seed=1):
            sound, picture = (int(row) for row in pairs[place])
            key = str(keys[sound])
            row = {"audio": f"sounds/{key}.wav", "image": f"pictures/{picture:05d}.png"}
            write_wav(work / row["audio"], sounds[sound], AV_MNIST_RATE)
            write_png(work / row["image"], pictures[picture])
            label = str(names[classes[sound]])
            table.append({"id": f"{key}+{picture:05d}", "label": label, "split": split, **row, "source": key})
    # The encoder hears what there is below half the files' rate; a still picture needs one moment.
    from_files(table, store, work, f"{{builtin: {{frames: 1, grid: 4, rate: {AV_MNIST_RATE}}}}}")
    return Prepared(store, ordered(file))


def prepare_esc10(data: Path, store: Path, work: Path) -> Prepared:
    """ESC-10's sound files where they are: folds 1 to 3 to train on, 4 to validate, 5 to test."""
    splits = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test"}
    table: list[dict[str, str]] = []
    order: list[str] = []
    for folder in sorted(path for path in (data / "esc10").iterdir() if path.is_dir()):
        label = folder.name.partition(" - ")[2]
        order.append(label)
        for file in sorted(folder.glob("*.ogg")):
            fold, recording, _ = file.stem.split("-")
            clip = {"id": file.stem, "label": label, "split": splits[fold]}
            table.append({**clip, "audio": str(file.absolute()), "source": recording})
    from_files(table, store, work, "builtin")
    return Prepared(store, order)


def from_files(table: Sequence[dict[str, str]], store: Path, work: Path, encoders: str) -> None:
    """Write ``table`` as CSV and type ``mcil``'s commands: import, check (which ends at an error), extract."""
    source, manifest = work / "clips.csv", work / "manifest.csv"
    write_text(source, pl.DataFrame(table).write_csv())
    mcil(["data", "import", "table", str(source), "--out", str(manifest)])
    mcil(["data", "check", str(manifest)])
    mcil(["extract", str(manifest), "--out", str(store), "--encoders", encoders])


def ordered(file: Path) -> list[str]:
    """Return the class names of an archive in its first order of arrival."""
    with np.load(file, allow_pickle=False) as arrays:
        return [str(name) for name in arrays["class_names"][arrays["class_orders"][0]]]


def hold_out(groups: Array, classes: Array, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which of N items are held out: in each class all items of about ``share`` of its groups."""
    generator = np.random.default_rng(seed)
    held = np.zeros(len(groups), dtype=np.bool_)
    for label in np.unique(classes):
        own = np.unique(groups[classes == label])
        chosen = generator.choice(own, max(1, round(share * len(own))), replace=False)
        held |= (classes == label) & np.isin(groups, chosen)
    return held


def pick(classes: Array, count: int, seed: int) -> Iterator[int]:
    """Yield the places of ``count`` items of each class, or of all where there are fewer, in order."""
    generator = np.random.default_rng(seed)
    for label in np.unique(classes):
        own = np.flatnonzero(classes == label)
        yield from sorted(generator.choice(own, min(count, len(own)), replace=False).tolist())


def builtin(**options: int) -> tuple[BuiltinAudio, BuiltinVisual]:
    """Return the built-in encoders of sounds and of pictures."""
    sound, look = create_encoders({"builtin": options})
    assert isinstance(sound, BuiltinAudio)
    assert isinstance(look, BuiltinVisual)
    return sound, look


def decibels(spectrogram: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the levels that 0 .. 255 stand for: -80 .. 0 dB."""
    return (LOGMEL_FLOOR * (1.0 - spectrogram / 255.0)).astype(np.float32)


def write_wav(path: Path, samples: npt.NDArray[np.int16], rate: int) -> None:
    """Write one channel of 16 bits to a file that is not there yet."""
    if not path.exists():
        with atomic_path(path) as temporary, wave.open(str(temporary), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.astype("<i2").tobytes())


def write_png(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write a grey picture (H,W) to a file that is not there yet."""
    if not path.exists():
        with atomic_path(path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


REAL_DATA = {
    "yt8m-av30": RealData(prepare_yt8m, tasks=5, memory=180),
    "esc-tin24": RealData(prepare_esc_tin24, tasks=6, memory=240),
    "av-mnist": RealData(prepare_av_mnist, tasks=5, memory=100),
    "esc10": RealData(prepare_esc10, tasks=5, memory=50, modalities=("audio",)),
}

# What the comparison of all methods runs on: the features that come with a set, where there are good ones.
COMPARED = {
    "yt8m-av30": REAL_DATA["yt8m-av30"],
    "esc-tin24-pretrained": RealData(prepare_esc_tin24_pretrained, tasks=6, memory=240),
    "esc-tin24-scenes": RealData(prepare_scenes, tasks=6, memory=240),
    "av-mnist": REAL_DATA["av-mnist"],
    "esc10": REAL_DATA["esc10"],
}
