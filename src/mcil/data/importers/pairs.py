"""What the importers of pictures and sounds have in common, which come apart and are paired into clips."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from mcil.data.importers.common import path_from
from mcil.types import SPLITS, ClipRecord, Split

logger = logging.getLogger(__name__)


class Pairs:
    """Clips of a picture and a sound of the same class and split.

    There are as many clips as pictures; sounds are repeated, each nearly as often as any other. Where there are fewer
    pictures than sounds the last sounds are not heard, and pictures without any sound are in no clip; both are counted.

    Attributes:
        records: the clips; ``id`` is the picture's place below its folder, ``source`` the sound's below its folder.
    """

    def __init__(self, out: Path, pictures: Path, sounds: Path) -> None:
        """Begin a manifest ``out`` with the folders of all pictures and of all sounds."""
        self.records: list[ClipRecord] = []
        self._folder, self._pictures, self._sounds = out.parent, pictures, sounds
        self._unheard = self._silent = 0

    def add(self, label: str, pictures: Mapping[Split, Sequence[Path]], sounds: Mapping[Split, Sequence[Path]]) -> None:
        """Pair picture k of a class with sound k, and begin with the sounds again where they end, split by split."""
        for split in SPLITS:
            seen, heard = pictures.get(split, ()), sounds.get(split, ())
            self._unheard += max(0, len(heard) - len(seen))
            self._silent += 0 if heard else len(seen)
            for picture, sound in zip(seen, cycle(heard), strict=False):
                self.records.append(self._clip(label, split, picture, sound))

    def tell(self) -> None:
        """Say what is in no clip."""
        if self._unheard:
            logger.warning("%d sounds are in no clip: there are fewer pictures of their classes", self._unheard)
        if self._silent:
            logger.warning("%d pictures are in no clip: there is no sound of their class in their split", self._silent)

    def _clip(self, label: str, split: Split, picture: Path, sound: Path) -> ClipRecord:
        return ClipRecord(
            id=picture.relative_to(self._pictures).as_posix(),
            label=label,
            split=split,
            audio=path_from(self._folder, sound),
            image=path_from(self._folder, picture),
            source=sound.relative_to(self._sounds).as_posix(),
        )
