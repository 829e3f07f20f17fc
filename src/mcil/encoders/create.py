"""From what a user writes to encoder objects."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

import yaml

from mcil.encoders.base import ENCODERS, AnyEncoder
from mcil.errors import McilError, did_you_mean
from mcil.registry import checked_option


def create_encoders(wanted: str | Mapping[str, Mapping[str, Any] | None]) -> list[AnyEncoder]:
    """Make the encoders that ``wanted`` names, at most one for each modality.

    Args:
        wanted: names with options, ``{"videomae": {"weights": "folder"}, "audiomae": {}}``; or text: names with
            commas between them (``builtin``, ``videomae,audiomae``), or the mapping in YAML. Of encoders that read
            several modalities the option ``only`` takes one: ``{"raw": {"only": "visual"}}``; a factory with a
            parameter of that name sees it, and need not look for the weights of the other. ``hf:NAME`` is the encoder
            ``hf`` with ``weights`` NAME.

    Raises:
        McilError: an encoder or option is unknown (the nearest name is offered), a value has the wrong type, ``only``
            names a modality that the encoder does not read, or two read the same modality.
    """
    named = _parse(wanted)
    encoders = [encoder for name, options in named.items() for encoder in _create(name, options or {})]
    for modality in ("audio", "visual", "text"):
        same = [encoder.name for encoder in encoders if encoder.modality == modality]
        if len(same) > 1:
            raise McilError(
                f"the encoders {' and '.join(same)} both read {modality}; choose one for each modality, by the option "
                "'only' where an encoder reads several"
            )
    return encoders


def _parse(wanted: str | Mapping[str, Mapping[str, Any] | None]) -> Mapping[str, Mapping[str, Any] | None]:
    value: Any = wanted
    if isinstance(wanted, str):
        try:
            value = yaml.safe_load(wanted)
        except yaml.YAMLError:
            value = None
    if isinstance(value, str):
        value = {name.strip(): {} for name in value.split(",")}
    if not isinstance(value, Mapping) or not all(
        options is None or isinstance(options, Mapping) for options in value.values()
    ):
        raise McilError(
            f"cannot read the encoders '{wanted}'; write names with commas between them, or a YAML mapping such as "
            "'{videomae: {weights: FOLDER}, audiomae: {}}'"
        )
    return value


def _create(name: str, options: Mapping[str, Any]) -> list[AnyEncoder]:
    prefix, _, weights = name.partition(":")
    if prefix == "hf" and weights:
        if "weights" in options:
            raise McilError(f"'{name}' names its weights already; leave out the option 'weights'")
        name, options = prefix, {"weights": weights, **options}
    factory = ENCODERS[name]
    known = list(inspect.signature(factory).parameters)
    only = options.get("only")
    if only is None or "only" not in known:
        # Where a factory takes it itself, it does not look for weights that nobody asked for.
        options = {option: value for option, value in options.items() if option != "only"}
    types = get_type_hints(factory)
    values = {}
    for option, value in options.items():
        if option not in known:
            has = f"It has: {', '.join(known)}" if known else "It has no options"
            raise McilError(f"encoder '{name}' has no option '{option}'.{did_you_mean(option, known)} {has}")
        values[option] = checked_option(f"encoder '{name}': option '{option}'", value, types[option])
    made = list(factory(**values))
    if only is None or "only" in known:
        return made
    kept = [encoder for encoder in made if encoder.modality == only]
    if not kept:
        reads = ", ".join(encoder.modality for encoder in made)
        raise McilError(
            f"encoder '{name}': option 'only' must be a modality that it reads ({reads}), but it is {only!r}"
        )
    return kept
