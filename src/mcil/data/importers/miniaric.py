"""miniARIC, classroom pictures with sound, in the layout of the code of MCIL-AudioCLIP (Chen et al., 2025)."""

from __future__ import annotations

from pathlib import Path

from mcil.data.importers import IMPORTERS
from mcil.data.importers.common import (
    files_of,
    finish,
    folders_of,
    list_missing,
    path_from,
    tell_classes,
    with_validation,
)
from mcil.data.trimodal import CLASSROOM
from mcil.errors import McilError
from mcil.types import ClipRecord, Split

_SPLITS: tuple[Split, ...] = ("train", "test")
_FOLDER = "classroom_data"


@IMPORTERS.register("miniaric")
def import_miniaric(root: Path, out: Path = Path("manifest.csv"), validation: float = 0.1, seed: int = 0) -> Path:
    """Write a manifest of ``image/{train,test}/<class>/*`` with the sounds in ``audio``.

    The sound of the picture ``a_b_c_d.jpg`` is ``wav_c_d.wav``. Pictures whose sound is not there are left out, and
    listed beside the manifest. There is no validation split: it is taken from train, and clips of one sound stay
    together.

    Args:
        root: the folder ``classroom_data``, or the folder that has it in it.
        out: the manifest to write, ``.csv`` or ``.parquet``.
        validation: share of the training clips that is moved to val.
        seed: decides which.

    Returns:
        ``out``.

    Raises:
        McilError: the layout is another, or no picture of the 33 classes has its sound.
    """
    root, out = Path(root), Path(out)
    root = root if (root / "image").is_dir() else root / _FOLDER
    for name in ("image", "audio"):
        if not (root / name).is_dir():
            raise McilError(f"{root}: there is no folder '{name}' here; check the path")
    tell_classes(root, CLASSROOM, {name for split in _SPLITS for name in folders_of(root / "image" / split)})
    there = {path.name for path in files_of(root / "audio", "audio")}
    records: list[ClipRecord] = []
    missing = []
    for split in _SPLITS:
        for label in CLASSROOM:
            for picture in files_of(root / "image" / split / label, "image"):
                name, sound = f"{split}/{label}/{picture.name}", sound_of(picture.stem)
                if sound not in there:
                    missing.append({"id": name, "label": label, "split": split, "audio": sound})
                    continue
                audio, image = path_from(out.parent, root / "audio" / sound), path_from(out.parent, picture)
                records.append(ClipRecord(name, label, split, audio=audio, image=image, source=sound))
    if not records:
        raise McilError(
            f"{root}: no picture of the {len(CLASSROOM)} classes has its sound in 'audio'; check the folder"
        )
    finish(out, with_validation(records, validation, seed))
    list_missing(out, len(records) + len(missing), missing, "sounds of pictures")
    return out


def sound_of(stem: str) -> str:
    """Return the name of the sound of a picture: ``a_b_c_d`` has ``wav_c_d.wav``."""
    return f"wav_{'_'.join(stem.split('_')[2:])}.wav"
