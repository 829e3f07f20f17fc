"""Weights of frozen encoders: finding them on the machine or the hub, reading them, and running them lazily."""

from __future__ import annotations

import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mcil.encoders.base import Device, Encoder, TextEncoder
from mcil.errors import McilError, reason
from mcil.files import sha256

FORMATS = ("model.safetensors", "pytorch_model.bin")
# Parts that no token comes from: checkpoints of other tasks leave them out.
UNUSED = re.compile(r"(^|\.)(pooler\.|mask_token$|masked_spec_embed$)")
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Weights:
    """Where weights lie: their folder, the file of tensors in it, and what identifies them."""

    folder: Path
    file: Path
    revision: str


def find_weights(
    encoder: str,
    weights: str,
    revision: str | None,
    companions: tuple[str, ...] = (),
    formats: tuple[str, ...] = FORMATS,
) -> Weights:
    """Find weights in a local folder, in the hub's cache, or on the hub (then they are downloaded).

    Args:
        encoder: name of the encoder, for errors.
        weights: path of a folder, or a name on the Hugging Face hub such as "MCG-NJU/videomae-base".
        revision: branch, tag or commit on the hub; None for the newest (what is in the cache comes first).
        companions: other files that are fetched from the hub where they exist there and it can be reached.
        formats: names of the file of tensors, the best first.

    Raises:
        McilError: the weights are neither on this machine nor reachable.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        for name in formats:
            if (folder / name).is_file():
                return Weights(folder, folder / name, f"sha256:{sha256(folder / name)[:16]}")
        raise McilError(f"{encoder}: {folder} {_lacks(formats)}; give the folder that does")
    if weights.startswith((".", "/", "~")) or weights.count("/") != 1:
        raise McilError(
            f"{encoder}: there is no folder {weights}; give one that exists, or a name on the hub (owner/name)"
        )
    file = _from_hub(encoder, weights, revision, companions, formats)
    return Weights(file.parent, file, file.parent.name)


def _from_hub(
    encoder: str, weights: str, revision: str | None, companions: tuple[str, ...], formats: tuple[str, ...]
) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    for name in formats:
        cached = try_to_load_from_cache(weights, name, revision=revision)
        if isinstance(cached, str):
            _fetch_companions(weights, Path(cached).parent.name, companions)
            return Path(cached)
    try:
        with quiet(logging):
            found = None
            for name in (*companions, *formats):
                if name in formats and found:
                    break
                try:
                    path = Path(hf_hub_download(weights, name, revision=revision))
                except LocalEntryNotFoundError:
                    raise
                except EntryNotFoundError:
                    continue
                found = path if name in formats else found
    except (OSError, HFValidationError) as error:
        raise McilError(
            f"{encoder}: there is no folder {weights}, no weights of that name are on this machine, and they cannot be "
            f"had from the hub ({reason(error)}); where there is a network run `hf download {weights} --local-dir "
            "FOLDER`, and give weights=FOLDER"
        ) from error
    if found is None:
        raise McilError(f"{encoder}: '{weights}' on the hub {_lacks(formats)}; choose another name")
    return found


def _fetch_companions(weights: str, commit: str, companions: tuple[str, ...]) -> None:
    """Put the companions of weights in the hub's cache beside them, where they can be had: others made do without."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    with quiet(logging):
        for name in companions:
            if try_to_load_from_cache(weights, name, revision=commit) is not None:
                continue  # there, or known not to be on the hub
            try:
                hf_hub_download(weights, name, revision=commit)
            except LocalEntryNotFoundError:
                return  # no network
            except EntryNotFoundError:
                continue
            except OSError:
                return


def _lacks(formats: tuple[str, ...]) -> str:
    return f"holds no {formats[0]}" if len(formats) == 1 else f"holds neither {' nor '.join(formats)}"


@contextmanager
def quiet(logs: Any) -> Iterator[None]:
    """Keep all but errors of a library's ``logging`` off the terminal: where it matters, one line of ours says it."""
    before = logs.get_verbosity()
    logs.set_verbosity(logs.ERROR)
    try:
        yield
    finally:
        logs.set_verbosity(before)


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Keep transformers' progress bar and its table of weights that it does not use off the terminal."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet(logging):
            yield
    finally:
        if bar:
            logging.enable_progress_bar()


def load_pretrained(encoder: str, weights: Weights, model_class: Any, config: Any = None, what: str = "other") -> Any:
    """Load a model of transformers from a local folder: float32, quietly, with no weight left as it was drawn.

    Args:
        encoder: name of the encoder, for errors.
        weights: where the model lies.
        model_class: a class of transformers; tensors that it has no place for are left aside.
        config: of ``model_class``, where it is a part of the one in the folder.
        what: which weights to give instead, for errors.

    Raises:
        McilError: the weights cannot be read, do not fit the configuration, or lack something that tokens come from.
    """
    options = {} if config is None else {"config": config}
    try:
        with silent_transformers():
            model, report = model_class.from_pretrained(
                weights.folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, **options
            )
    except UNREADABLE as error:
        raise McilError(
            f"{encoder}: {weights.file} cannot be read as weights ({reason(error)}); download it again"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not UNUSED.search(name))
    if missing:
        raise McilError(f"{encoder}: {weights.file} lacks {missing[0]}; give {what} weights")
    return model


def read_state(encoder: str, file: Path) -> dict[str, Tensor]:
    """Read a file of tensors, memory-mapped; of a pickle, tensors and plain containers only.

    Raises:
        McilError: the file is damaged, or holds anything else.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise McilError(
            f"{encoder}: {file} cannot be read as weights (damaged or not tensors); download it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise McilError(f"{encoder}: {file} is not a plain table of tensors; give the published file")
    return dict(state)


class LazyTower(ABC):
    """What runs a frozen torch module, which is loaded on first use and left behind by pickling."""

    name: str

    def __init__(self, device: Device) -> None:
        self._device = device
        self._tower: nn.Module | None = None

    @abstractmethod
    def load(self) -> nn.Module:
        """Build the module with its weights, on the CPU."""

    def tower(self) -> tuple[nn.Module, torch.device]:
        """The loaded module and its device.

        Raises:
            McilError: the weights cannot be read or do not fit; or there is no such device.
        """
        device = pick_device(self.name, self._device)
        if self._tower is None:
            self._tower = self.load().eval().requires_grad_(False).to(device)
        return self._tower, device

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tower": None}


class TorchEncoder(LazyTower, Encoder):
    """An encoder of clips whose ``encode`` runs a frozen torch module."""


class TorchTextEncoder(LazyTower, TextEncoder):
    """A text encoder whose ``encode`` runs a frozen torch module."""


def pick_device(encoder: str, device: Device) -> torch.device:
    """The device meant by "auto" (the GPU where there is one), "cpu" or "cuda"."""
    if device == "cuda" and not torch.cuda.is_available():
        raise McilError(f"{encoder}: device cuda was asked for, but torch sees no GPU; use device=auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
