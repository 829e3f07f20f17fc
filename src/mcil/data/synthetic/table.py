"""Which look goes with which sound.

Classes come in blocks of four, of three looks and three sounds: two classes share their sound and differ in look, two
share their look and differ in sound. With the default 12 classes:

=====  ==========================  =========================
block  one sound, two looks        one look, two sounds
=====  ==========================  =========================
1      disc-hum, brick-hum         kite-chirp, kite-rattle
2      ring-whistle, star-whistle  cross-clicks, cross-hiss
3      moon-bell, block-bell       tent-siren, tent-buzz
=====  ==========================  =========================

More classes go around again: the looks of a block with the sounds of the next block, so that a look or a sound is
shared by ever more classes.

The silent objects of a clip are looks that never make its sound. So the sound says which looks to search for, and one
of them is on screen: together they give the class. The sound alone leaves two classes in half of the cases; the
picture alone, full of objects any of which might be the one that sounds, leaves several.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcil.errors import McilError

LOOKS = ("disc", "brick", "kite", "ring", "star", "cross", "moon", "block", "tent")
SOUNDS = ("hum", "chirp", "rattle", "whistle", "clicks", "hiss", "bell", "siren", "buzz")

# Look and sound of the four classes of a block, counted within it.
_BLOCK = ((0, 0), (1, 0), (2, 1), (2, 2))
_BLOCKS = 3
MIN_CLASSES = 3  # fewer would leave no silent objects
MAX_CLASSES = len(_BLOCK) * _BLOCKS * _BLOCKS


@dataclass(frozen=True)
class MadeClass:
    """A class of made clips: what sounds, how, and which looks lie silently about."""

    look: str
    sound: str
    distractors: tuple[str, ...]

    @property
    def name(self) -> str:
        """The class's label."""
        return f"{self.look}-{self.sound}"


def class_table(classes: int) -> list[MadeClass]:
    """The first ``classes`` classes.

    Raises:
        McilError: ``classes`` is not between ``MIN_CLASSES`` and ``MAX_CLASSES``.
    """
    if not MIN_CLASSES <= classes <= MAX_CLASSES:
        raise McilError(f"cannot make {classes} classes of clips; choose {MIN_CLASSES} to {MAX_CLASSES}")
    pairs = []
    for number in range(classes):
        block, place = divmod(number, len(_BLOCK))
        around, block = divmod(block, _BLOCKS)
        look, sound = _BLOCK[place]
        pairs.append((3 * block + look, 3 * ((block + around) % _BLOCKS) + sound))
    used = sorted({look for look, _ in pairs})
    table = []
    for look, sound in pairs:
        makers = {other for other, its_sound in pairs if its_sound == sound}
        silent = tuple(LOOKS[other] for other in used if other not in makers)
        table.append(MadeClass(LOOKS[look], SOUNDS[sound], silent))
    return table
