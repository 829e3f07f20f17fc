"""CLIP's towers from its published files: the archive of OpenAI, or a plain table of tensors with the same names."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mcil.encoders.clip.resnet import ResNet
from mcil.encoders.clip.text import TextTransformer
from mcil.encoders.clip.tokenizer import Tokenizer, find_vocabulary
from mcil.encoders.clip.vision import VisionTransformer
from mcil.encoders.weights import UNREADABLE, Weights, find_weights, read_state
from mcil.errors import McilError
from mcil.files import sha256

ImageTower = VisionTransformer | ResNet
AnyTower = TypeVar("AnyTower", bound=nn.Module)

DEFAULT = "timm/vit_base_patch16_clip_224.openai"
ON_HUB = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SUFFIXES = (".pt", ".bin", ".safetensors")
HEAD_WIDTH = 64  # of every published size; the weights do not tell it
SIZES = ("input_resolution", "context_length", "vocab_size")  # numbers that stand among OpenAI's tensors


@dataclass(frozen=True)
class ClipTowers:
    """CLIP, frozen and in eval mode.

    Attributes:
        visual: pictures (B,3,H,W), H = W = ``visual.size``, turned by :func:`normalise`, to (B,E).
        text: token ids to (B,E).
        tokenizer: texts to token ids.
        scale: what CLIP multiplies cosines by before the softmax.
        sha256: of the file of weights.
    """

    visual: ImageTower
    text: TextTransformer
    tokenizer: Tokenizer
    scale: float
    sha256: str


def load_clip(weights: str | Path = DEFAULT, revision: str | None = None) -> ClipTowers:
    """Load CLIP of any published size with 64 channels a head; sizes are read off the weights.

    Args:
        weights: OpenAI's archive such as ``ViT-B-16.pt``, or a file of tensors with the same names; a folder that holds
            one such file; or a name on the Hugging Face hub with ``open_clip_model.safetensors``. The vocabulary lies
            beside it.
        revision: branch, tag or commit on the hub.

    Raises:
        McilError: there is no such file, it cannot be read or is no CLIP, or the vocabulary is missing or another's.
    """
    found = find_clip("clip", str(weights), revision)
    state, where = read_clip_state("clip", found.file), f"clip: {found.file}"
    visual, text = build_visual(where, state), build_text(where, state)
    tokenizer = read_tokenizer("clip", found.folder, text)
    return ClipTowers(visual, text, tokenizer, read_scale(where, state, "logit_scale"), sha256(found.file))


def find_clip(owner: str, weights: str, revision: str | None) -> Weights:
    """Find a file of weights that is on this machine, or on the hub; see :func:`load_clip`."""
    return find_file(owner, weights) or find_weights(owner, weights, revision, ("merges.txt",), ON_HUB)


def find_file(owner: str, weights: str) -> Weights | None:
    """Return the file that ``weights`` names, or the one in the folder that it names; None if it is neither.

    Raises:
        McilError: the folder holds no file of weights, or several.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        files = [path / name for name in ON_HUB if (path / name).is_file()][:1]
        files = files or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(files) != 1:
            what = f"several files of weights ({', '.join(file.name for file in files)})" if files else "no weights"
            raise McilError(f"{owner}: {path} holds {what}; give one file ending in {', '.join(SUFFIXES)}")
        path = files[0]
    return Weights(path.parent, path, f"sha256:{sha256(path)[:16]}") if path.is_file() else None


def read_clip_state(owner: str, file: Path) -> dict[str, Tensor]:
    """Read tensors by name, float32 where they are floating: of a TorchScript archive (no code in it is run), or of
    what :func:`read_state` reads.
    """
    if _is_script(file):
        try:
            jit: Any = torch.jit
            with warnings.catch_warnings():  # TorchScript is deprecated, but OpenAI's files are written in it
                warnings.simplefilter("ignore", DeprecationWarning)
                state: Mapping[str, Tensor] = jit.load(file, map_location="cpu").state_dict()
        except UNREADABLE as error:
            raise McilError(f"{owner}: {file} cannot be read as weights (damaged); download it again") from error
    else:
        state = read_state(owner, file)
    return {
        name: value.detach().float() if value.is_floating_point() else value
        for name, value in state.items()
        if name not in SIZES
    }


def _is_script(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def plan_visual(where: str, state: Mapping[str, Tensor]) -> ImageTower:
    """Make the image tower that ``state`` is of, on the meta device: sizes without weights."""
    if "visual.proj" in state:
        return plan(where, lambda: _vision_transformer(state))
    return plan(where, lambda: _resnet(state))


def plan_text(where: str, state: Mapping[str, Tensor]) -> TextTransformer:
    """Make the text tower that ``state`` is of, on the meta device: sizes without weights."""
    return plan(where, lambda: _text_transformer(state))


def build_visual(where: str, state: Mapping[str, Tensor]) -> ImageTower:
    """Make the image tower with its weights, frozen; ``where`` begins the errors."""
    return with_weights(where, plan_visual(where, state), part(state, "visual."))


def build_text(where: str, state: Mapping[str, Tensor]) -> TextTransformer:
    """Make the text tower, whose names have no prefix, with its weights, frozen; ``where`` begins the errors."""
    others = ("visual.", "audio.", "logit_scale")
    own = {name: value for name, value in state.items() if not name.startswith(others)}
    return with_weights(where, plan_text(where, state), own)


def read_tokenizer(owner: str, folder: Path, text: TextTransformer) -> Tokenizer:
    """Read the vocabulary in ``folder``.

    Raises:
        McilError: there is none, or it has another number of tokens than the tower.
    """
    path = find_vocabulary(owner, folder)
    tokenizer = Tokenizer.read(path, text.context)
    if tokenizer.size != text.vocabulary:
        raise McilError(
            f"{owner}: {path} has {tokenizer.size} tokens, but the weights {text.vocabulary}; "
            "give the vocabulary that belongs to them"
        )
    return tokenizer


def read_scale(where: str, state: Mapping[str, Tensor], name: str) -> float:
    """Return the factor whose logarithm is called ``name``."""
    if name not in state:
        raise McilError(f"{where} lacks {name}; give one of the published files")
    return math.exp(float(state[name]))


def plan(where: str, make: Callable[[], AnyTower]) -> AnyTower:
    """Call ``make`` for a tower on the meta device; what it misses or cannot use of the weights is a McilError."""
    try:
        with torch.device("meta"):
            return make()
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"lacks {error.args[0]}" if isinstance(error, KeyError) else "has sizes that do not fit"
        raise McilError(f"{where} {what}; give one of the published files") from error


def with_weights(where: str, tower: AnyTower, state: Mapping[str, Tensor]) -> AnyTower:
    """Give a tower its weights, all of them, and freeze it: eval mode, no gradients of its own.

    Raises:
        McilError: a name is missing, or one too many, or a shape is another.
    """
    try:
        missing, unexpected = tower.load_state_dict(dict(state), strict=False, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise McilError(f"{where} does not fit: {reason}") from error
    if missing or unexpected:
        lacks, holds = (f"{names[0]} and {len(names) - 1} more" if names else "" for names in (missing, unexpected))
        what = " and ".join([f"lacks {lacks}"] * bool(missing) + [f"holds {holds}, unknown here,"] * bool(unexpected))
        raise McilError(f"{where} {what}; give one of the published files")
    tower.eval().requires_grad_(False)
    return tower


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return what begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbered modules there are behind ``prefix``."""
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def stages(state: Mapping[str, Tensor], prefix: str) -> tuple[int, int, int, int]:
    """Return the blocks in each of the four stages of a residual network."""
    first, second, third, fourth = (count(state, f"{prefix}layer{stage}.") for stage in range(1, 5))
    return first, second, third, fourth


def _vision_transformer(state: Mapping[str, Tensor]) -> VisionTransformer:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
    layers = count(state, "visual.transformer.resblocks.")
    return VisionTransformer(
        grid * patch, patch, width, layers, max(width // HEAD_WIDTH, 1), state["visual.proj"].shape[1]
    )


def _resnet(state: Mapping[str, Tensor]) -> ResNet:
    width, final = len(state["visual.layer1.0.conv1.weight"]), state["visual.attnpool.c_proj.weight"]
    grid = math.isqrt(len(state["visual.attnpool.positional_embedding"]) - 1)
    return ResNet(32 * grid, stages(state, "visual."), width, max(final.shape[1] // HEAD_WIDTH, 1), final.shape[0])


def _text_transformer(state: Mapping[str, Tensor]) -> TextTransformer:
    vocabulary, width = state["token_embedding.weight"].shape
    return TextTransformer(
        vocabulary,
        len(state["positional_embedding"]),
        width,
        count(state, "transformer.resblocks."),
        max(width // HEAD_WIDTH, 1),
        state["text_projection"].shape[1],
    )
