"""Prompts: what text encoders read about a class. One set of templates for each domain.

The 35 templates of ``classroom`` and the prompts that ``released-*`` are evaluated with are those of MCIL-AudioCLIP,
Copyright (c) 2025 chen-yukun, MIT licence: see the file NOTICE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mcil.errors import McilError, did_you_mean

GENERAL = (
    "{}",
    "a photo of {}.",
    "a video of {}.",
    "a close-up photo of {}.",
    "a photo of {}, seen from afar.",
    "a blurry picture of {}.",
    "a dark picture of {}.",
    "a frame from a video that shows {}.",
    "a scene with {}.",
    "the sound of {}.",
    "a recording of {}.",
    "a noisy recording of {}.",
    "this is what {} looks like.",
    "this is what {} sounds like.",
    "a video in which {} can be seen and heard.",
)
SOUNDS = (
    "{}",
    "the sound of {}.",
    "a sound of {}.",
    "this is a sound of {}.",
    "a recording of {}.",
    "a clear recording of {}.",
    "a noisy recording of {}.",
    "a short recording of {}.",
    "the sound of {}, close by.",
    "the sound of {} in the distance.",
    "the sound of {} indoors.",
    "the sound of {} outdoors.",
    "the sound of {} in the background.",
    "{} can be heard.",
)
CLASSROOM = (
    "a photo of a person in a classroom who is {}.",
    "a bad photo of a person in a classroom who is {}.",
    "a photo of many people in a classroom who are {}.",
    "a low resolution photo of a person in a classroom who is {}.",
    "a rendering of a person in a classroom who is {}.",
    "a photo of a hard to see person in a classroom who is {}.",
    "a bright photo of a person in a classroom who is {}.",
    "a photo of a clean classroom where a person is {}.",
    "a photo of a dirty classroom where a person is {}.",
    "a dark photo of a person in a classroom who is {}.",
    "a drawing of a person in a classroom who is {}.",
    "a photo of my classroom where a person is {}.",
    "a photo of the cool classroom where a person is {}.",
    "a close-up photo of a person in a classroom who is {}.",
    "a black and white photo of a person in a classroom who is {}.",
    "a painting of a classroom scene where a person is {}.",
    "a pixelated photo of a person in a classroom who is {}.",
    "a bright photo of a classroom where a person is {}.",
    "a cropped photo of a person in a classroom who is {}.",
    "a photo of the dirty classroom where a person is {}.",
    "a jpeg corrupted photo of a person in a classroom who is {}.",
    "a blurry photo of a person in a classroom who is {}.",
    "a good photo of a person in a classroom who is {}.",
    "a photo of one person in a classroom who is {}.",
    "a close-up photo of the person in a classroom who is {}.",
    "a low resolution photo of a person in a classroom who is {}.",
    "a photo of the clean classroom where a person is {}.",
    "a photo of a large classroom where a person is {}.",
    "a photo of a nice classroom where a person is {}.",
    "a photo of a weird classroom where a person is {}.",
    "a blurry photo of a classroom where a person is {}.",
    "a cartoon of a classroom scene where a person is {}.",
    "art of a classroom scene where a person is {}.",
    "a sketch of a classroom scene where a person is {}.",
    "a pixelated photo of a classroom where a person is {}.",
)
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "general": GENERAL,
    "sounds": SOUNDS,
    "classroom": CLASSROOM,
    "released-imagenet-esc": (*CLASSROOM, "a bad photo of a {}."),
    "released-classroom": (*CLASSROOM, "a photo of a person who is {} in a classroom."),
}
_RELEASED = "released-"

_WORDNET = re.compile(r"[nvar]\d{8}")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def readable(name: str) -> str:
    """Return the name of a class as a person would write it: "blackboard_wiping" becomes "blackboard wiping".

    Underscores become spaces, CamelCase is taken apart, spaces are collapsed; WordNet numbers ("n01514668") and names
    of nothing but underscores stay as they are.
    """
    if _WORDNET.fullmatch(name):
        return name
    return " ".join(_WORDS.sub(" ", name.replace("_", " ")).split()) or name


def prompts_for(names: Sequence[str], domain: str) -> list[list[str]]:
    """Return P prompts for each of C classes.

    Args:
        names: of the classes.
        domain: "plain" (the name alone), "general" (pictures and sounds), "sounds", or "classroom" (what people in a
            classroom do; row 26 repeats row 4, as published), with :func:`readable` names; or "released-imagenet-esc"
            and "released-classroom", the 35 rows of "classroom" and, as the 36th, the prompt that the published code
            of MCIL-AudioCLIP is evaluated with, all with the names as they are.

    Raises:
        McilError: there is no such domain; the nearest one is offered.
    """
    if domain not in TEMPLATES:
        raise McilError(
            f"there are no prompts '{domain}'.{did_you_mean(domain, TEMPLATES)} Choose one of: {', '.join(TEMPLATES)}"
        )
    said = [name if domain.startswith(_RELEASED) else readable(name) for name in names]
    return [[template.format(name) for template in TEMPLATES[domain]] for name in said]
