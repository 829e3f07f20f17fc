"""CLIP's token ids as text about classes, for methods that train inside its text tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mcil.encoders.base import ENCODERS, FACTS, AnyEncoder, Facts, TextEncoder
from mcil.encoders.clip.load import DEFAULT, ON_HUB, find_clip
from mcil.encoders.clip.tokenizer import Tokenizer, find_vocabulary

CONTEXT = 77
LICENCE = "vocabulary: MIT (OpenAI CLIP)"


class ClipTokens(TextEncoder):
    """The token ids of a text: start, text, end, zeros."""

    name = "clip-tokens"
    shape = (CONTEXT,)

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.read(find_vocabulary(self.name, folder), CONTEXT)
        self._options = options

    def card(self) -> dict[str, Any]:
        """See :meth:`TextEncoder.card`."""
        return {
            "name": self.name,
            "modality": self.modality,
            "revision": self._tokenizer.revision,
            "licence": LICENCE,
            "options": self._options,
            "preprocessing": {"context": CONTEXT},
            "shape": list(self.shape),
        }

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return ids int32 (n,77); of a longer text the beginning is kept, and the end token behind it."""
        ids: npt.NDArray[np.int32] = self._tokenizer(texts).numpy().astype(np.int32)
        return ids


@ENCODERS.register("clip-tokens")
def clip_tokens(*, weights: str = DEFAULT, revision: str | None = None) -> list[AnyEncoder]:
    """Token ids of CLIP and AudioCLIP, for methods that train inside the text tower.

    Args:
        weights: folder with the vocabulary, or a file beside it; or a name on the Hugging Face hub.
        revision: branch, tag or commit on the hub.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        folder = path
    else:
        folder = path.parent if path.is_file() else find_clip("clip-tokens", weights, revision).folder
    return [ClipTokens(folder, {"weights": weights, "revision": revision})]


FACTS["clip-tokens"] = (Facts("text", (CONTEXT,), 0, LICENCE, DEFAULT, ON_HUB),)
