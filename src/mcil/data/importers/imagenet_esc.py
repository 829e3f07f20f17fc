"""ImageNet-ESC: pictures of ImageNet with sounds of ESC-50.

Lin et al., "Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal Models", CVPR 2023.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import files_of, finish, list_missing, tell_classes
from mcil.data.importers.pairs import Pairs
from mcil.data.importers.videos import read_rows
from mcil.data.splitting import stratified_split
from mcil.data.trimodal import imagenet_esc_classes
from mcil.errors import McilError, did_you_mean
from mcil.types import SPLITS, Split

_FOLDS = (1, 2, 3, 4, 5)
_COLUMNS = ("filename", "fold", "category")

# The sounds of one class by fold, each in the order of the list.
Sounds = Mapping[int, Sequence[Path]]


@IMPORTERS.register("imagenet-esc")
def import_imagenet_esc(
    imagenet: Path,
    esc50: Path,
    out: Path = Path("manifest.csv"),
    classes: Literal[19, 27] = 27,
    fold: int = 1,
    shots: Literal[1, 2, 4] | None = None,
    images: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a manifest of pictures of ImageNet, each with a sound of ESC-50 of its class.

    Sounds are divided by the folds of ESC-50, so that no recording is in two splits: the fold ``fold`` is tested on,
    the next one (after 5 comes 1) validates, and the other three are trained on. Pictures are divided too: 60 % train,
    20 % val, 20 % test, or, where ``imagenet`` has the folders ``train`` and ``val``, three quarters of ``train`` to
    train and one to validate, and all of ``val`` to test. Within class and split, pictures in random order are paired
    with the sounds, also in random order, in turn.

    With ``shots`` it is the few-shot protocol of Lin et al.: of the sounds of each class in the fold ``fold``, the
    first n train and the next n validate, in the order of the list, and those of the other four folds are tested on; n
    pictures train, n validate, and the others, or all of ``val``, are tested on. Which pictures these are is decided by
    ``seed``, not by their lists.

    Args:
        imagenet: the folder of ImageNet, ``<wnid>/*``, or ``train/<wnid>/*`` and ``val/<wnid>/*``.
        esc50: the folder of ESC-50, with ``audio/*.wav`` and ``meta/esc50.csv``.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        classes: 19 or 27.
        fold: of ESC-50, 1 to 5, that is held out, or with ``shots`` trained on.
        shots: clips of each class to train on, and as many to validate on; all by default.
        images: pictures of each class in each split at most; all by default.
        seed: decides which pictures go where, and what they are paired with.

    Returns:
        ``out``.

    Raises:
        McilError: an option is out of its range, the list is missing or damaged, or no class has pictures and sounds.
    """
    imagenet, esc50, out = Path(imagenet), Path(esc50), Path(out)
    wanted = imagenet_esc_classes(classes)
    if fold not in _FOLDS:
        raise McilError(f"ESC-50 has the folds 1 to 5; there is no fold {fold}")
    if (images is not None and images < 1) or (shots is not None and shots not in (1, 2, 4)):
        raise McilError(f"images must be 1 or more, and shots 1, 2 or 4, not {images} and {shots}")
    if not imagenet.is_dir():
        raise McilError(f"{imagenet}: no such folder; check the path")
    sounds, missing = _read_sounds(esc50, {paired.esc50 for paired in wanted})
    pairs = Pairs(out, imagenet, esc50 / "audio")
    for paired in wanted:
        # Of its own, so that a class is divided in the same way whichever other classes are there.
        generator = np.random.default_rng([seed, paired.imagenet_id])
        pictures, by_fold = _pictures(imagenet, paired.wnid, shots, generator), sounds[paired.esc50]
        heard = _held_out(by_fold, fold) if shots is None else _few(by_fold, fold, shots)
        heard = {split: _shuffled(held, generator) for split, held in heard.items()}
        pairs.add(paired.name, {split: seen[:images] for split, seen in pictures.items()}, heard)
    if not pairs.records:
        raise McilError(
            f"{imagenet}: not one of the {classes} classes, such as {wanted[0].wnid}, has pictures here and sounds in "
            f"{esc50}; check both folders"
        )
    pairs.tell()
    tell_classes(imagenet, [paired.name for paired in wanted], [record.label for record in pairs.records])
    finish(out, pairs.records)
    there = sum(len(held) for by_fold in sounds.values() for held in by_fold.values())
    list_missing(out, there + len(missing), missing, "sounds")
    return out


def _read_sounds(esc50: Path, categories: set[str]) -> tuple[Mapping[str, Sounds], list[dict[str, str]]]:
    """Return the sounds of ``categories`` that are there, and what the list says of those that are not."""
    file = esc50 / "meta" / "esc50.csv"
    header, *rows = read_rows(file, columns=1) or [[]]
    for column in _COLUMNS:
        if column not in header:
            raise McilError(f"{file}: column '{column}' is missing.{did_you_mean(column, header)} Check the file")
    sounds: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    missing = []
    for number, row in enumerate(rows, start=1):
        if len(row) < len(header):
            raise McilError(f"{file}: row {number} has {len(row)} cells, but {len(header)} are needed; check the file")
        name, fold, category = (row[header.index(column)] for column in _COLUMNS)
        if fold not in map(str, _FOLDS):
            raise McilError(f"{file}: row {number}: there is no fold '{fold}', only 1 to 5; check the file")
        if category not in categories:
            continue
        path = esc50 / "audio" / name
        if path.is_file():
            sounds[category][int(fold)].append(path)
        else:
            missing.append({"filename": name, "fold": fold, "category": category})
    if not sounds:
        raise McilError(
            f"{esc50}: not one of the {len(missing)} sounds that {file} lists for these classes is in 'audio'; check it"
        )
    return sounds, missing


def _held_out(sounds: Sounds, fold: int) -> dict[Split, list[Path]]:
    """Divide sounds: ``fold`` is tested on, the next one validates."""
    split_of: dict[int, Split] = {fold: "test", fold % len(_FOLDS) + 1: "val"}
    heard: dict[Split, list[Path]] = {split: [] for split in SPLITS}
    for number in _FOLDS:
        heard[split_of.get(number, "train")] += sounds.get(number, [])
    return heard


def _few(sounds: Sounds, fold: int, shots: int) -> dict[Split, list[Path]]:
    """Divide sounds: the first of ``fold`` are trained on, as many more validate, the other folds are tested on."""
    pool = list(sounds.get(fold, []))
    others = [sound for number in _FOLDS if number != fold for sound in sounds.get(number, [])]
    return {"train": pool[:shots], "val": pool[shots : 2 * shots], "test": others}


def _pictures(imagenet: Path, wnid: str, shots: int | None, generator: np.random.Generator) -> dict[Split, list[Path]]:
    """Return the pictures of a class by split, in random order."""
    train, val = imagenet / "train", imagenet / "val"
    divided = train.is_dir() and val.is_dir()
    found = _shuffled(files_of((train if divided else imagenet) / wnid, "image"), generator)
    if shots is None:
        fractions = (0.75, 0.25, 0.0) if divided else (0.6, 0.2, 0.2)
        splits = stratified_split([wnid] * len(found), [None] * len(found), fractions)
        seen = {split: [found[n] for n, other in enumerate(splits) if other == split] for split in SPLITS}
    else:
        seen = {"train": found[:shots], "val": found[shots : 2 * shots], "test": found[2 * shots :]}
    return seen | {"test": _shuffled(files_of(val / wnid, "image"), generator)} if divided else seen


def _shuffled(paths: Sequence[Path], generator: np.random.Generator) -> list[Path]:
    return [paths[place] for place in generator.permutation(len(paths))]
