"""Which look goes with which sound.

Looks and sounds stand on a ring. The sound ``s`` is made by the looks ``s`` and ``s + 1`` (with more than twenty
classes also by ``s + 3``), so that every sound is shared by two classes that differ in look, and every look by two
classes that differ in sound. With the default 12 classes, six looks and six sounds:

===========  =====================  ===========
sound        made by                or by
===========  =====================  ===========
hum          disc                   brick
chirp        brick                  kite
rattle       kite                   ring
whistle      ring                   star
clicks       star                   cross
hiss         cross                  disc
===========  =====================  ===========

The silent objects of a clip are looks that never make its sound. So the sound says which two looks to search for,
and exactly one of them is on screen: together they give the class. The sound alone leaves two classes; the picture
alone, full of objects any of which might be the one that sounds, leaves two to six.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcil.errors import McilError

LOOKS = ("disc", "brick", "kite", "ring", "star", "cross", "moon", "block", "tent", "wheel")
SOUNDS = ("hum", "chirp", "rattle", "whistle", "clicks", "hiss", "bell", "siren", "buzz", "warble")

# How far around the ring from its sound a class's look stands: first round, second round, third round.
_STEPS = (0, 1, 3)
MAX_CLASSES = len(_STEPS) * len(SOUNDS)


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
        McilError: ``classes`` is not between 2 and ``MAX_CLASSES``.
    """
    if not 2 <= classes <= MAX_CLASSES:
        raise McilError(f"cannot make {classes} classes of clips; choose 2 to {MAX_CLASSES}")
    # Fewer than three looks on the ring would leave no silent ones.
    ring = min(max(3, (classes + 1) // 2), len(SOUNDS))
    pairs = [((k % ring + _STEPS[k // ring]) % ring, k % ring) for k in range(classes)]
    used = sorted({look for look, _ in pairs})
    table = []
    for look, sound in pairs:
        makers = {other for other, its_sound in pairs if its_sound == sound}
        silent = tuple(LOOKS[other] for other in used if other not in makers)
        table.append(MadeClass(LOOKS[look], SOUNDS[sound], silent))
    return table
