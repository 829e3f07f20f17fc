"""CLIP's byte-pair tokens: Sennrich et al. 2016 over bytes, as in Radford et al., "Learning Transferable Visual Models
From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

import gzip
import html
import logging
import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from mcil.errors import McilError
from mcil.files import sha256

logger = logging.getLogger(__name__)

VOCABULARIES = ("bpe_simple_vocab_16e6.txt.gz", "merges.txt")
PUBLISHED = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"  # sha256 of the first of these
MERGES = 48894  # that CLIP uses of the published file, which holds more
END_OF_WORD = "</w>"
CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)")
RUN = re.compile("L+|N|O+|S+")  # over the kinds of characters: letters, one number, others, space


class Tokenizer:
    """From texts to token ids, padded with 0.

    Ids are: 256 bytes, 256 bytes that end a word, the merges, start of text, end of text; so the end of text is the
    largest of all.

    Attributes:
        size: how many tokens there are (49408 with the published vocabulary).
        context: length of a text's ids (77).
        revision: what identifies the vocabulary.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], context: int = 77, revision: str = "") -> None:
        letters = list(_letters().values())
        tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges)]
        self._ids = {token: i for i, token in enumerate(tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.start, self.end = len(tokens), len(tokens) + 1
        self.size = len(tokens) + 2
        self.context = context
        self.revision = revision
        self._known: dict[str, list[int]] = {}

    @staticmethod
    def read(path: Path, context: int = 77) -> Tokenizer:
        """Read the published vocabulary: a header, then a merge of two symbols a line; gzip or plain text.

        A file that has its name and its size in tokens, but not its checksum, is said in one line of warning.

        Raises:
            McilError: the file cannot be read, or is something else.
        """
        try:
            raw = path.read_bytes()
            content = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise McilError(f"{path}: this vocabulary cannot be read ({error}); download it again") from error
        pairs = [tuple(line.split(" ")) for line in content.split("\n")[1 : MERGES + 1] if line]
        merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
        if not merges or len(merges) < len(pairs):
            raise McilError(f"{path}: is not CLIP's vocabulary (two symbols a line); give {VOCABULARIES[0]}")
        checksum = sha256(path)
        if path.name == VOCABULARIES[0] and len(merges) == MERGES and checksum != PUBLISHED:
            logger.warning(
                "%s: sha256 is %s..., and that of CLIP's published vocabulary is %s...; ids may differ from the "
                "published ones, so download it again unless that is meant",
                path,
                checksum[:16],
                PUBLISHED[:16],
            )
        return Tokenizer(merges, context, f"sha256:{checksum[:16]}")

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return ids int64 (n, context): start, text, end, then zeros.

        Of a longer text the beginning is kept, and the end token behind it. (The code of CLIP and of AudioCLIP refuses
        it, that of MCIL-AudioCLIP loses the end token.)
        """
        ids = torch.zeros(len(texts), self.context, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = [self.start, *self.encode(text)[: self.context - 2], self.end]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without start and end."""
        return [token for word in split_words(clean(text)) for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            letters = _letters()
            symbols = [letters[byte] for byte in word.encode()]
            symbols[-1] += END_OF_WORD
            self._known[word] = [self._ids[symbol] for symbol in self._merge(symbols)]
        return self._known[word]

    def _merge(self, symbols: list[str]) -> list[str]:
        """Join the neighbours whose merge comes first in the vocabulary, wherever they occur, until there are none."""
        while True:
            ranked = [pair for pair in pairwise(symbols) if pair in self._ranks]
            if not ranked:
                return symbols
            best = min(ranked, key=self._ranks.__getitem__)
            merged: list[str] = []
            for symbol in symbols:
                # What ends with a merged symbol cannot be merged once more in the same round, as it is longer.
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = merged


def find_vocabulary(owner: str, folder: Path) -> Path:
    """Return the vocabulary in ``folder``.

    Raises:
        McilError: there is none; ``owner`` is named.
    """
    for name in VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    raise McilError(
        f"{owner}: {folder} lacks the vocabulary {VOCABULARIES[0]} (or {VOCABULARIES[1]}), which texts need; "
        "copy it there from https://github.com/openai/CLIP/tree/main/clip"
    )


def clean(text: str) -> str:
    """Undo HTML escapes (twice, as they nest), compose accents, make every white space one blank, lower case.

    CLIP calls the package ftfy first, which also mends wrongly decoded text ("cafÃ©") and straightens quotation marks;
    here only its last step, Unicode's composition (NFC), is done.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(unicodedata.normalize("NFC", text)))).strip().lower()


def split_words(text: str) -> list[str]:
    """Split clean text into contractions ('s), runs of letters, single digits, and runs of other characters."""
    kinds = "".join(_kind(character) for character in text)
    words, at = [], 0
    while at < len(text):
        match = CONTRACTION.match(text, at) or RUN.match(kinds, at)
        end = match.end() if match else at + 1
        words.append(text[at:end])
        at = end
    return [word for word in words if not word.isspace()]


def _kind(character: str) -> str:
    if character.isspace():
        return "S"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


@lru_cache(maxsize=1)
def _letters() -> dict[int, str]:
    """A visible character for each byte, in the order of the ids: those that are visible themselves come first."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(others)}
