"""What encoders there are, and whether their weights are on this machine."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mcil.encoders.base import ENCODERS, FACTS, Facts


def describe_encoders() -> list[dict[str, Any]]:
    """Return a JSON object for each encoder and modality, with default options and without loading anything.

    Keys: ``name``; ``reads``, the modality; ``shape``, ``width`` (D) and ``tokens`` of one clip or prompt;
    ``parameters`` in millions; ``licence``; ``weights``, the default ones; ``here``, whether these are on this machine
    ("yes", "no", or "none needed"). What the weights decide is None.
    """
    return [
        {
            "name": name,
            "reads": facts.modality,
            "shape": list(facts.shape) if facts.shape else None,
            "width": facts.shape[-1] if facts.shape else None,
            "tokens": math.prod(facts.shape[:-1]) if facts.shape else None,
            "parameters": facts.parameters,
            "licence": facts.licence.removeprefix("weights: "),
            "weights": facts.weights,
            "here": _here(facts),
        }
        for name in ENCODERS.names()
        for facts in FACTS.get(name, ())
    ]


def _here(facts: Facts) -> Literal["yes", "no", "none needed"] | None:
    """Say whether the default weights are in the hub's cache, in an installed package, or a file here."""
    from huggingface_hub import try_to_load_from_cache

    if facts.weights is None:
        return "none needed" if facts.parameters == 0 else None
    if facts.package is not None and find_spec(facts.package) is not None:
        return "yes"
    if "/" not in facts.weights:
        return "yes" if Path(facts.weights).exists() else "no"
    found = (try_to_load_from_cache(facts.weights, name) for name in facts.formats)
    return "yes" if any(isinstance(path, str) for path in found) else "no"
