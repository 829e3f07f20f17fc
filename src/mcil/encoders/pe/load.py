"""Perception Encoders from their published files; all sizes of the picture tower are read off the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mcil.encoders.clip.load import count, find_file, part, plan, with_weights
from mcil.encoders.pe.tower import PeTower
from mcil.encoders.weights import Weights, find_weights, read_state, silent_transformers
from mcil.errors import McilError

HEAD_WIDTH = 64  # of every published size but G, which has 16 heads; the weights do not tell
GIANT, GIANT_HEADS = 1536, 16
INSIDE = ("", "audio_encoder.", "audio_model.audio_encoder.", "audio_video_encoder.embedder.audio_encoder.")
"""Where the sound encoder stands in files of transformers: alone, in PE-A(-Frame), in PE-AV under either name."""


def find_tower(weights: str, revision: str | None) -> Weights:
    """Find a file of PE-Core: a file, a folder that holds one, or a name on the hub, whose file bears that name.

    Raises:
        McilError: there is none, or a folder holds several.
    """
    published = f"{weights.rsplit('/', 1)[-1]}.pt"
    return find_file("pe", weights) or find_weights("pe", weights, revision, formats=(published, "model.safetensors"))


def tower_state(where: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of ``state`` that is a picture tower, its prefix cut.

    Files hold it as ``visual.`` (PE-Core), ``audio_visual_model.visual_model.pe_encoder.`` (PE-AV's branch
    perception_models) or ``vision_encoder.model.visual.`` (SAM-Audio).

    Raises:
        McilError: there is none, or more than one.
    """
    mark = "attn_pool.probe"
    prefixes = [name.removesuffix(mark) for name in state if name.endswith(mark)]
    if len(prefixes) != 1:
        what = "no picture tower of PE-Core (attn_pool.probe)" if not prefixes else f"{len(prefixes)} picture towers"
        raise McilError(f"{where} holds {what}; give PE-Core weights such as PE-Core-L14-336.pt")
    return part(state, prefixes[0])


def plan_tower(where: str, state: Mapping[str, Tensor]) -> PeTower:
    """Make the tower that ``state`` is of, on the meta device: sizes without weights; ``where`` begins the errors.

    Raises:
        McilError: ``state`` holds no tower of PE-Core; those of PE-Lang and PE-Spatial lack its pooling.
    """
    own = tower_state(where, state)
    return plan(where, lambda: _tower(own))


def build_tower(where: str, state: Mapping[str, Tensor]) -> PeTower:
    """Make the tower with its weights, float32 and frozen; see :func:`plan_tower`."""
    own = {name: value.float() for name, value in tower_state(where, state).items()}
    return with_weights(where, plan(where, lambda: _tower(own)), own)


def _tower(state: Mapping[str, Tensor]) -> PeTower:
    width, _, patch, _ = state["conv1.weight"].shape
    class_token = "class_embedding" in state
    side = math.isqrt(len(state["positional_embedding"]) - class_token)
    return PeTower(
        side * patch,
        patch,
        width,
        count(state, "transformer.resblocks."),
        GIANT_HEADS if width == GIANT else max(width // HEAD_WIDTH, 1),
        len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
        state["proj"].shape[1],
        class_token,
    )


def read_sound_config(weights: Weights) -> Any:
    """Read the ``PeAudioEncoderConfig`` out of the config.json beside ``weights``.

    Raises:
        McilError: there is none, or it is not of PE-AV, PE-A or PE-A-Frame as transformers writes them.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import PeAudioEncoderConfig

    path, config_class = weights.folder / "config.json", PeAudioEncoderConfig
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("audio_video_config", config)
        config = config.get("audio_config", config)
        if config["model_type"] != config_class.model_type:
            raise ValueError(config["model_type"])
        with silent_transformers():
            return config_class.from_dict(config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise McilError(
            f"pe: {path} is no config of PE-AV or PE-A-Frame; give a folder as `hf download facebook/pe-a-frame-base` "
            "leaves it"
        ) from error


def build_sound(weights: Weights, config: Any) -> Any:
    """Make the ``PeAudioEncoder`` of transformers with its weights, frozen, and nothing else of the model.

    Raises:
        McilError: the file cannot be read, holds no such encoder, or one of other sizes.
    """
    from transformers import PeAudioEncoder

    state = read_state("pe", weights.file)
    prefix = next((prefix for prefix in INSIDE if f"{prefix}embedder.dac_encoder.conv1.weight" in state), None)
    if prefix is None:
        raise McilError(f"pe: {weights.file} holds no sound encoder of PE-AV or PE-A-Frame; give one that does")
    with silent_transformers():
        encoder = PeAudioEncoder(config)
    own = {name: value.float() for name, value in part(state, prefix).items()}
    return with_weights(f"pe: {weights.file}", encoder, own)
