"""Models of transformers: which class reads a folder, what comes out of it, and its weights.

A folder is one that ``save_pretrained`` writes: config.json, the weights, and the constants of preprocessing. What a
model gives is found by running it without its weights (on torch's meta device), so that shapes are known, and
mistakes said, before anything is computed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from mcil.encoders.weights import Weights, load_pretrained, silent_transformers
from mcil.errors import McilError

Reads = Literal["pictures", "videos", "sounds"]

CLAP, NAFLEX = "clap_audio_model", "siglip2_vision_model"
EXTRA: dict[str, dict[str, Any]] = {"vjepa2": {"skip_predictor": True}, NAFLEX: {"pixel_attention_mask": None}}
COMPANIONS = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "README.md",
)
# What a network that transformers did not make for this, or that lacks a library, may answer.
UNFIT = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ImportError,
    OSError,
    AssertionError,
    ZeroDivisionError,
    StrictDataclassError,
)


@dataclass(frozen=True)
class Source:
    """A model of transformers in a folder, or the one of its towers that reads pictures or sounds.

    Attributes:
        name: of the encoder, for errors.
        weights: where it lies.
        whole: configuration of the model.
        config: configuration of the tower; ``whole`` where there is only one.
    """

    name: str
    weights: Weights
    whole: Any
    config: Any

    @property
    def kind(self) -> str:
        """The tower's ``model_type``."""
        return str(self.config.model_type)

    def fail(self, what: str) -> McilError:
        """Return the error that says what is wrong with this model."""
        return McilError(f"{self.name}: {self.weights.folder} holds a model of type '{self.kind}', {what}")


def read_source(name: str, weights: Weights) -> Source:
    """Read the configuration in the folder of ``weights``.

    Raises:
        McilError: there is none, or transformers does not know its type.
    """
    from transformers import AutoConfig

    try:
        if not (weights.folder / "config.json").is_file():
            raise ValueError
        with silent_transformers():
            whole: Any = AutoConfig.from_pretrained(weights.folder, local_files_only=True)
    except UNFIT as error:
        raise McilError(
            f"{name}: {weights.folder} lacks a readable config.json of a model that transformers knows; give a folder "
            "as `hf download` or save_pretrained leaves it"
        ) from error
    towers = (getattr(whole, part, None) for part in ("vision_config", "audio_config"))
    config = next((tower for tower in towers if hasattr(tower, "model_type")), whole)
    return Source(name, weights, whole, config)


def model_class(source: Source) -> Any:
    """Return the class of transformers that has the tower's tokens.

    Raises:
        McilError: there is none.
    """
    from transformers import MODEL_MAPPING, ClapAudioModelWithProjection

    if source.kind == CLAP:
        return ClapAudioModelWithProjection
    try:
        found: Any = MODEL_MAPPING[type(source.config)]
    except KeyError as error:
        raise source.fail("for which transformers has no model that gives tokens") from error
    return found[0] if isinstance(found, tuple) else found


def input_name(source: Source) -> str:
    """Return what the tower is given: "pixel_values", "input_values", ...; speech models are asked by their encoder."""
    return str(model_class(source).main_input_name)


def sketch(source: Source) -> nn.Module:
    """Make the tower without weights, on the meta device."""
    with torch.device("meta"):
        return _tower(source, model_class(source)(source.config)).eval()


def load(source: Source) -> nn.Module:
    """Make the tower with its weights; see :func:`load_pretrained` for errors."""
    config = None if source.config is source.whole else source.config
    model = load_pretrained(source.name, source.weights, model_class(source), config, source.kind)
    return _tower(source, model)


def _tower(source: Source, model: Any) -> nn.Module:
    tower: nn.Module = model
    if source.kind == CLAP:
        tower = model.audio_model
    elif getattr(source.config, "is_encoder_decoder", False):
        tower = model.get_encoder()
    return tower


def states(source: Source, model: nn.Module, inputs: Mapping[str, Tensor], several: bool) -> list[Tensor]:
    """Return what the last block says, after the final norm, if any; with ``several``, what all blocks say."""
    extra = EXTRA.get(source.kind, {})
    output = model(**inputs, **extra, output_hidden_states=several)
    last: Tensor = output.last_hidden_state
    return [*output.hidden_states[1:-1], last] if several else [last]


def stored_settings(folder: Path) -> dict[str, Any] | None:
    """Return the constants of preprocessing that stand in ``folder``, None where there are none.

    Raises:
        ValueError: they cannot be read.
    """
    for name in COMPANIONS[1:4]:
        if (folder / name).is_file():
            found: Any = json.loads((folder / name).read_text())
            if name == "processor_config.json":
                found = found.get("image_processor") or found.get("video_processor")
            if found:
                return dict(found)
    return None


def stated_licence(folder: Path) -> str | None:
    """Return the licence that the model card in ``folder`` (README.md) names; None where it names none."""
    try:
        _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
        stated = yaml.safe_load(front)
        licence = stated["license"] if stated["license"] != "other" else stated.get("license_name", "other")
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None
    return f"weights: {licence}, says their model card"


def reads(source: Source) -> Reads:
    """Say what the tower reads.

    Raises:
        McilError: neither pictures nor sounds.
    """
    given = input_name(source)
    if given.startswith("pixel_values"):
        several = given == "pixel_values_videos" or hasattr(source.config, "num_frames")
        return "videos" if several else "pictures"
    if given in ("input_values", "input_features"):
        return "sounds"
    raise source.fail(f"which reads {given}; give one that reads pictures or sounds")


def leading(source: Source, tokens: int, side: int) -> int:
    """Return how many of the ``tokens`` of a picture of ``side`` pixels stand before its patches.

    Raises:
        McilError: the rest is no square.
    """
    patch = getattr(source.config, "patch_size", None)
    size = patch if isinstance(patch, int) else next(iter(patch or ()), side)
    cells = (side // size) ** 2
    if cells in (1, 0) or cells > tokens:  # stages that merge patches
        cells = math.isqrt(tokens) ** 2
    first = tokens - cells
    if first not in (0, 1, 2, 1 + (getattr(source.config, "num_register_tokens", None) or 0)):
        raise source.fail(f"whose {tokens} tokens are no square of patches; give one that keeps places apart")
    return first
