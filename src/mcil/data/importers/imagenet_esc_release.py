"""ImageNet-ESC in the layout of the code of MCIL-AudioCLIP (Chen et al., 2025)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import files_of, finish, folders_of, tell_classes, with_validation
from mcil.data.importers.pairs import Pairs
from mcil.data.trimodal import PairedClass, imagenet_esc_classes
from mcil.errors import McilError
from mcil.types import Split

logger = logging.getLogger(__name__)

_FOLDERS = ("imagenet19", "imagenet27")
_SPLITS: tuple[Split, ...] = ("train", "test")


@IMPORTERS.register("imagenet-esc-release")
def import_imagenet_esc_release(
    root: Path, out: Path = Path("manifest.csv"), validation: float = 0.1, seed: int = 0
) -> Path:
    """Write a manifest of ``image/{train,test}/<wnid>/*`` with ``audio/{train,test}/<wnid>/*``.

    Whether it is ImageNet-ESC-19 or -27 is seen from the class folders. In sorted order, pictures are paired with the
    sounds of their class and split in turn. There is no validation split: it is taken from train, and clips of one
    sound stay together.

    In the older layout ``audio/<wnid>.wav`` is the sound of all pictures of a class, to train and to test. It is
    taken, and said, because then the sound alone gives the class away; pictures are drawn to validate on.

    Args:
        root: the folder ``imagenet19`` or ``imagenet27``, or the folder that has one of them in it.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        validation: share of the training clips that is moved to val.
        seed: decides which.

    Returns:
        ``out``.

    Raises:
        McilError: the layout is another, or no class has pictures and sounds.
    """
    root, out = _data_folder(Path(root)), Path(out)
    found = {name for split in _SPLITS for name in folders_of(root / "image" / split)}
    only_of_27 = {paired.wnid for paired in imagenet_esc_classes(27) if not paired.of_19}
    classes = imagenet_esc_classes(27 if found & only_of_27 else 19)
    tell_classes(root, [paired.wnid for paired in classes], found)
    shared = not any((root / "audio" / split).is_dir() for split in _SPLITS)
    pairs = Pairs(out, root / "image", root / "audio")
    for paired in classes:
        pictures = {split: files_of(root / "image" / split / paired.wnid, "image") for split in _SPLITS}
        pairs.add(paired.name, pictures, _sounds(root / "audio", paired, shared))
    if not pairs.records:
        raise McilError(f"{root}: no class has pictures in 'image' and sounds in 'audio'; check the folder")
    if not shared:
        pairs.tell()
        return finish(out, with_validation(pairs.records, validation, seed))
    logger.warning("%s: all clips of a class have one sound, to train and to test: it gives the class away", root)
    # By picture: by sound, all clips of a class would stay in train.
    divided = with_validation([replace(record, source=None) for record in pairs.records], validation, seed)
    sources = (record.source for record in pairs.records)
    return finish(out, [replace(record, source=source) for record, source in zip(divided, sources, strict=True)])


def _data_folder(root: Path) -> Path:
    """Return the folder that has ``image`` and ``audio``: ``root`` or the only one below it."""
    held = [folder for folder in (root, *(root / name for name in _FOLDERS)) if (folder / "image").is_dir()]
    if not held:
        raise McilError(f"{root}: there is no folder 'image' here, nor in {' or '.join(_FOLDERS)}; check the path")
    if len(held) > 1:
        raise McilError(f"{root}: it has both {' and '.join(_FOLDERS)}; name one of these folders")
    return held[0]


def _sounds(audio: Path, paired: PairedClass, shared: bool) -> Mapping[Split, Sequence[Path]]:
    if not shared:
        return {split: files_of(audio / split / paired.wnid, "audio") for split in _SPLITS}
    sound = audio / f"{paired.wnid}.wav"
    return {split: [sound] if sound.is_file() else [] for split in _SPLITS}
