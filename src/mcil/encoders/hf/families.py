"""The families of models that have a name of their own, and ``hf`` for every other one."""

from __future__ import annotations

from typing import Any

from mcil.encoders.base import ENCODERS, FACTS, Device, Encoder, Facts
from mcil.encoders.hf.model import CLAP, COMPANIONS, NAFLEX, Source, read_source, reads, stated_licence
from mcil.encoders.hf.pictures import HfVisual
from mcil.encoders.hf.sounds import AST, HfAudio
from mcil.encoders.weights import find_weights
from mcil.errors import McilError

UNKNOWN_LICENCE = "unknown: read the model card"


def _source(name: str, weights: str, revision: str | None, kinds: tuple[str, ...] = ()) -> Source:
    """Find a model; McilError where its type is none of ``kinds``, if any are named."""
    source = read_source(name, find_weights(name, weights, revision, COMPANIONS))
    if kinds and source.kind not in kinds:
        raise source.fail(f"not {' or '.join(kinds)}; write 'hf:{weights}' for other models")
    return source


def _licence(source: Source) -> str:
    """Return what the model card says, or what is known of the family."""
    return stated_licence(source.weights.folder) or FACTS[source.name][0].licence


def _visual(
    source: Source,
    frames: int | None,
    seconds: float,
    grid: int | None,
    layers: list[int] | None,
    device: Device,
    options: Any,
) -> list[Encoder]:
    options |= {"frames": frames, "seconds": seconds, "grid": grid, "layers": layers}
    return [HfVisual(source, _licence(source), frames, seconds, grid, layers, device, options)]


def _audio(
    source: Source, seconds: float, steps: int, layers: list[int] | None, device: Device, options: Any
) -> list[Encoder]:
    options |= {"seconds": seconds, "steps": steps, "layers": layers}
    return [HfAudio(source, _licence(source), seconds, steps, layers, device, options)]


FACTS["ast"] = (Facts("audio", (16, 768), 86.2, "weights: BSD-3-Clause", "MIT/ast-finetuned-audioset-10-10-0.4593"),)
FACTS["clap"] = (Facts("audio", (16, 768), 27.5, "weights: Apache-2.0", "laion/clap-htsat-unfused"),)
FACTS["dinov2"] = (Facts("visual", (8, 16, 768), 86.6, "weights: Apache-2.0", "facebook/dinov2-base"),)
FACTS["siglip2"] = (Facts("visual", (8, 16, 768), 92.9, "weights: Apache-2.0", "google/siglip2-base-patch16-224"),)
FACTS["vjepa2"] = (Facts("visual", (8, 16, 1024), 326.0, "weights: MIT", "facebook/vjepa2-vitl-fpc64-256"),)
FACTS["hf"] = (
    Facts("audio", None, None, UNKNOWN_LICENCE),
    Facts("visual", None, None, UNKNOWN_LICENCE),
)


@ENCODERS.register("ast")
def ast(
    *,
    weights: str = "MIT/ast-finetuned-audioset-10-10-0.4593",
    revision: str | None = None,
    seconds: float = 10.0,
    steps: int = 16,
    layers: list[int] | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """Audio Spectrogram Transformer (16 steps x 768 values): a step is the mean of its bands of frequencies.

    Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021.

    Args:
        weights: folder as save_pretrained leaves it, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        seconds: of a sound that are read; at most 10.24.
        steps: tokens a clip (T); a sound that covers fewer keeps them.
        layers: blocks whose tokens stand side by side, counted from 1, or from the end; the last.
        device: where the transformer runs.
    """
    return _audio(
        _source("ast", weights, revision, (AST,)),
        seconds,
        steps,
        layers,
        device,
        {"weights": weights, "revision": revision},
    )


@ENCODERS.register("clap")
def clap(
    *,
    weights: str = "laion/clap-htsat-unfused",
    revision: str | None = None,
    seconds: float = 10.0,
    steps: int = 16,
    layers: list[int] | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """CLAP's sounds (16 steps x 768 values): a step is the mean of its bands of frequencies.

    Wu et al., "Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption
    Augmentation", ICASSP 2023.

    Args:
        weights: folder as save_pretrained leaves it, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        seconds: of a sound that are read; at most 10.
        steps: tokens a clip (T), of 32 there are in 10 seconds; a sound that covers fewer keeps them.
        layers: stages whose tokens stand side by side, counted from 1, or from the end; the last.
        device: where the transformer runs.
    """
    return _audio(
        _source("clap", weights, revision, (CLAP,)),
        seconds,
        steps,
        layers,
        device,
        {"weights": weights, "revision": revision},
    )


@ENCODERS.register("dinov2")
def dinov2(
    *,
    weights: str = "facebook/dinov2-base",
    revision: str | None = None,
    frames: int = 8,
    seconds: float = 10.0,
    grid: int | None = 4,
    layers: list[int] | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """DINOv2 (base: 8 frames x 4x4 patches x 768 values of the centre crop).

    Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024.

    Args:
        weights: folder as save_pretrained leaves it, or a name on the Hugging Face hub; with or without registers.
        revision: branch, tag or commit on the hub.
        frames: moments of a clip (L), evenly spread.
        seconds: of a clip that are read.
        grid: rows and columns that the patches are averaged to; null leaves them.
        layers: blocks whose tokens stand side by side, counted from 1, or from the end; the last.
        device: where the transformer runs.
    """
    source = _source("dinov2", weights, revision, ("dinov2", "dinov2_with_registers"))
    return _visual(source, frames, seconds, grid, layers, device, {"weights": weights, "revision": revision})


@ENCODERS.register("siglip2")
def siglip2(
    *,
    weights: str = "google/siglip2-base-patch16-224",
    revision: str | None = None,
    frames: int = 8,
    seconds: float = 10.0,
    grid: int | None = 4,
    layers: list[int] | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """SigLIP 2, or SigLIP (base: 8 frames x 4x4 patches x 768 values of the whole picture).

    Tschannen et al., "SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding,
    Localization, and Dense Features", 2025. Pictures are squeezed into a square, by NaFlex weights too.

    Args:
        weights: folder as save_pretrained leaves it, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        frames: moments of a clip (L), evenly spread.
        seconds: of a clip that are read.
        grid: rows and columns that the patches are averaged to; null leaves them.
        layers: blocks whose tokens stand side by side, counted from 1, or from the end; the last.
        device: where the transformer runs.
    """
    source = _source("siglip2", weights, revision, ("siglip_vision_model", NAFLEX))
    return _visual(source, frames, seconds, grid, layers, device, {"weights": weights, "revision": revision})


@ENCODERS.register("vjepa2")
def vjepa2(
    *,
    weights: str = "facebook/vjepa2-vitl-fpc64-256",
    revision: str | None = None,
    frames: int = 16,
    seconds: float = 10.0,
    grid: int | None = 4,
    layers: list[int] | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """V-JEPA 2 (large: 8 moments of two frames x 4x4 patches x 1024 values of the centre crop).

    Assran et al., "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning", 2025.

    Args:
        weights: folder as save_pretrained leaves it, or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
        frames: that are read of a clip, evenly spread: an even number; two make a moment (L).
        seconds: of a clip that are read.
        grid: rows and columns that the patches are averaged to; null leaves them.
        layers: blocks whose tokens stand side by side, counted from 1, or from the end; the last.
        device: where the transformer runs.
    """
    source = _source("vjepa2", weights, revision, ("vjepa2",))
    return _visual(source, frames, seconds, grid, layers, device, {"weights": weights, "revision": revision})


@ENCODERS.register("hf")
def hf(
    *,
    weights: str = "",
    revision: str | None = None,
    frames: int | None = None,
    grid: int | None = 4,
    seconds: float = 10.0,
    steps: int = 16,
    layers: list[int] | None = None,
    device: Device = "auto",
) -> list[Encoder]:
    """Any model of transformers that gives tokens of pictures, videos or sounds; written ``hf:NAME``.

    Args:
        weights: folder as save_pretrained leaves it, or a name on the Hugging Face hub: what stands behind "hf:".
        revision: branch, tag or commit on the hub.
        frames: that are read of a clip, evenly spread; 8 pictures, or as many as a video model was made for.
        grid: of pictures: rows and columns that the patches are averaged to; null leaves them.
        seconds: of a clip that are read.
        steps: of a sound: tokens a clip (T).
        layers: blocks whose tokens stand side by side, counted from 1, or from the end; the last.
        device: where the model runs.
    """
    if not weights:
        raise McilError("hf: which model? Write 'hf:NAME', with a folder or a name on the hub (owner/name)")
    source = _source("hf", weights, revision)
    options: dict[str, Any] = {"weights": weights, "revision": revision}
    if reads(source) == "sounds":
        return _audio(source, seconds, steps, layers, device, options)
    return _visual(source, frames, seconds, grid, layers, device, options)
