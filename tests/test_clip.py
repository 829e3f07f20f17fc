"""CLIP: tokens, pixels, files of weights, and the frozen encoders, on small random towers."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import tiny_towers
from mcil.encoders import ENCODERS, TextEncoder, create_encoders
from mcil.encoders.clip import Tokenizer, load_clip, normalise, square
from mcil.errors import McilError
from mcil.files import sha256
from test_encoders import brightening, check_contract, clip_of, write_video

GOLDEN = json.loads((Path(__file__).parent / "golden" / "clip.json").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of the archive made here
PAIRS = [tuple(line.split(" ")) for line in tiny_towers.MERGES]


# tokens


def published_tokenizer():
    """CLIP's, with blanks for the merges that the golden texts cannot meet."""
    merges = [("\n", str(i)) for i in range(48894)]
    for rank, line in GOLDEN["merges"].items():
        merges[int(rank)] = tuple(line.split(" "))
    return Tokenizer(merges)


@pytest.mark.parametrize("text", GOLDEN["tokens"])
def test_tokens_are_clips(text):
    tokenizer = published_tokenizer()
    assert (tokenizer.size, tokenizer.start, tokenizer.end) == (49408, 49406, 49407)
    expected = [49406, *GOLDEN["tokens"][text], 49407]
    assert tokenizer([text])[0].tolist() == expected + [0] * (77 - len(expected))


def naive_merges(word):
    """Byte-pair encoding from its definition: apply the merges one after another, each wherever it fits."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while True:
        for left, right in PAIRS:
            for i in range(len(symbols) - 1):
                if (symbols[i], symbols[i + 1]) == (left, right):
                    symbols[i : i + 2] = [left + right]
                    break
            else:
                continue
            break
        else:
            return symbols


@given(word=st.text("abcdgotf", min_size=1, max_size=14))
@settings(deadline=None)
def test_merges_follow_their_definition(word):
    tokenizer = Tokenizer(PAIRS)
    names = {token: i + 512 for i, token in enumerate(map("".join, PAIRS))}
    # a letter's id is its place among the visible characters, and 256 more at the end of a word
    for letter in "abcdgotf":
        names |= {letter: ord(letter) - 33, letter + "</w>": ord(letter) - 33 + 256}
    assert tokenizer.encode(word) == [names[symbol] for symbol in naive_merges(word)]


@given(text=st.text(max_size=60))
@settings(deadline=None)
def test_any_text_has_tokens_that_end_with_the_largest(text):
    tokenizer = Tokenizer(PAIRS, context=20)
    ids = tokenizer([text])[0]
    end = int(ids.argmax())
    assert ids[0] == tokenizer.start
    assert ids[end] == tokenizer.end == tokenizer.size - 1
    assert (ids[end + 1 :] == 0).all()


def test_texts_are_cleaned_as_clip_does():
    tokenizer = Tokenizer(PAIRS)
    plain = tokenizer.encode("the cat's dog & 12 cats")
    assert tokenizer.encode("  The\tCAT's \n dog &amp;amp; 12   cats ") == plain
    assert tokenizer.encode("cafe\u0301") == tokenizer.encode("café")
    # contractions, runs of letters, single digits, runs of others: no merge crosses them
    pieces = ["cat", "'s", "dog", "1", "2", "?!", "ca", "ñ²"]
    assert tokenizer.encode("cat's dog 12?! ca") == [t for piece in pieces[:7] for t in tokenizer.encode(piece)]
    assert tokenizer.encode("ñ²") == tokenizer.encode("ñ ²")


def test_a_long_text_keeps_its_end():
    tokenizer = Tokenizer(PAIRS, context=8)
    ids = tokenizer(["dog " * 50, "dog"])
    dog = tokenizer.encode("dog")
    assert ids[0].tolist() == [tokenizer.start, *dog * 6, tokenizer.end]
    assert ids[1].tolist() == [tokenizer.start, *dog, tokenizer.end, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["bpe_simple_vocab_16e6.txt.gz", "merges.txt"])
def test_a_vocabulary_is_read_zipped_or_plain(tmp_path, name):
    path = tiny_towers.write_vocabulary(tmp_path)
    if name == "merges.txt":
        (tmp_path / name).write_bytes(gzip.decompress(path.read_bytes()))
    tokenizer = Tokenizer.read(tmp_path / name)
    assert tokenizer.encode("dog cat") == Tokenizer(PAIRS).encode("dog cat")
    assert tokenizer.revision == f"sha256:{sha256(tmp_path / name)[:16]}"


def made_merges(count):
    """So many different merges, of the published form."""
    return [f"a{number} b" for number in range(count)]


@pytest.mark.parametrize("count", [48894, 48895])  # the published file holds more than are used
def test_a_vocabulary_of_the_published_size_and_name_that_is_another_is_said_in_one_line(tmp_path, caplog, count):
    path = tiny_towers.write_vocabulary(tmp_path, made_merges(count))
    assert Tokenizer.read(path).size == 49408
    (record,) = caplog.records
    assert (record.name.split(".")[0], record.levelname) == ("mcil", "WARNING")
    said = record.getMessage()
    assert f"{path}: sha256 is {sha256(path)[:16]}..." in said
    assert "CLIP's published vocabulary is 924691ac288e5440..." in said
    assert "ids may differ from the published ones" in said
    assert "\n" not in said


def test_the_published_checksum_another_size_or_another_name_say_nothing(tmp_path, caplog, monkeypatch):
    Tokenizer.read(tiny_towers.write_vocabulary(tmp_path))
    path = tiny_towers.write_vocabulary(tmp_path, made_merges(48893))
    Tokenizer.read(path)
    path = tiny_towers.write_vocabulary(tmp_path, made_merges(48894))
    (tmp_path / "merges.txt").write_bytes(gzip.decompress(path.read_bytes()))
    Tokenizer.read(tmp_path / "merges.txt")
    monkeypatch.setattr("mcil.encoders.clip.tokenizer.PUBLISHED", sha256(path))
    Tokenizer.read(path)
    assert not caplog.records


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"header\na b c\n"), gzip.compress(b""), b""])
def test_what_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(content)
    with pytest.raises(McilError, match="vocabulary") as caught:
        Tokenizer.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# pixels


@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_pictures_of_any_shape_become_squares(height, width, side):
    grey = square(np.full((height, width, 3), 77, np.uint8), side)
    assert grey.shape == (3, side, side)
    assert (grey == 77).all()


def test_the_centre_is_cut_out_after_resizing():
    picture = np.random.default_rng(0).integers(0, 256, (40, 81, 3), dtype=np.uint8)
    np.testing.assert_array_equal(square(picture, 40), picture[:, 20:60].transpose(2, 0, 1))
    tall = picture.transpose(1, 0, 2)
    resized = np.asarray(Image.fromarray(tall).resize((20, 40), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(square(tall, 20), resized[10:30].transpose(2, 0, 1))


def test_pixels_are_normalised_by_clips_mean_and_deviation():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 1, 1)
    expected = [[-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]]
    expected.append([(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711])
    torch.testing.assert_close(normalise(pixels)[0, :, :, 0, 0], torch.tensor(expected))


# files of weights


class Skeleton(nn.Module):
    """Modules that hold tensors by name, so that torch can compile them into an archive like OpenAI's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive(state) -> nn.Module:
    root = Skeleton()
    for name, value in state.items():
        *path, last = name.split(".")
        module = root
        for step in path:
            if step not in dict(module.named_children()):
                module.add_module(step, Skeleton())
            module = getattr(module, step)
        if value.is_floating_point():
            module.register_parameter(last, nn.Parameter(value))
        else:
            module.register_buffer(last, value)
    return torch.jit.script(root)


def write(folder: Path, state, form="ViT-B-16.pt") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / form
    if form.endswith(".safetensors"):
        save_file(state, path)
    elif form == "ViT-B-16.pt":
        sizes = {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77)}
        archive({**{k: v.half() if v.is_floating_point() else v for k, v in state.items()}, **sizes}).save(path)
    else:
        torch.save(state, path)
    tiny_towers.write_vocabulary(folder)
    return path


@pytest.fixture(scope="module")
def tiny():
    return tiny_towers.vision(), tiny_towers.text()


@pytest.mark.parametrize("form", ["ViT-B-16.pt", "plain.pt", "open_clip_model.safetensors"])
@pytest.mark.parametrize("visual", [tiny_towers.vision, tiny_towers.resnet])
def test_published_files_become_the_same_towers(tmp_path, form, visual):
    visual, text = visual(), tiny_towers.text()
    path = write(tmp_path, tiny_towers.state(visual, text), form)
    towers = load_clip(tmp_path)
    assert towers.sha256 == sha256(path)
    assert towers.scale == pytest.approx(np.exp(3.0))
    assert towers.tokenizer.size == tiny_towers.VOCABULARY
    images, ids = torch.rand(2, 3, 64, 64), towers.tokenizer(["a dog", "two cats of a dog"])
    for ours, loaded, inputs in ((visual, towers.visual, images), (text, towers.text, ids)):
        assert type(loaded) is type(ours)
        assert (loaded.width, loaded.widths) == (ours.width, ours.widths)
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.state_dict().values())
        tolerance = 2e-2 if form == "ViT-B-16.pt" else 1e-5  # the archive holds halves
        torch.testing.assert_close(loaded(inputs), ours(inputs), rtol=tolerance, atol=tolerance)
    assert towers.visual.size == 64


def broken(tiny, change):
    state = tiny_towers.state(*tiny)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), r"lacks ln_post.bias and 0 more; give"),
        (lambda s: s.pop("visual.conv1.weight"), "lacks visual.conv1.weight"),
        (lambda s: s.pop("text_projection"), "lacks text_projection"),
        (lambda s: s.pop("logit_scale"), "lacks logit_scale"),
        (lambda s: s.update({"decoder.weight": torch.ones(2)}), "holds decoder.weight and 0 more, unknown here"),
        (lambda s: s.update({"visual.ln_pre.bias": torch.ones(7)}), "size mismatch for ln_pre.bias"),
        (lambda s: s.update({"visual.proj": torch.ones(7)}), "sizes"),
        (lambda s: s.clear(), "lacks visual"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, tiny, change, message):
    path = write(tmp_path, broken(tiny, change), "clip.pt")
    with pytest.raises(McilError, match=message) as caught:
        load_clip(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut archive", "cut", "text"])
def test_damaged_files_are_refused(tmp_path, tiny, damage):
    path = write(tmp_path, tiny_towers.state(*tiny), "ViT-B-16.pt" if damage == "cut archive" else "clip.pt")
    path.write_bytes(b"hello" if damage == "text" else path.read_bytes()[:9000])
    with pytest.raises(McilError, match="cannot be read as weights") as caught:
        load_clip(path)
    assert "\n" not in str(caught.value)


def test_a_folder_must_say_which_weights(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(McilError, match="holds no weights"):
        load_clip(tmp_path)
    state = tiny_towers.state(*tiny)
    write(tmp_path, state, "a.pt")
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(McilError, match=r"several files of weights \(a.pt, b.pt\)"):
        load_clip(tmp_path)
    write(tmp_path, state, "open_clip_model.safetensors")  # as the hub's folders hold it, among others
    assert load_clip(tmp_path).visual.size == 64
    with pytest.raises(McilError, match="there is no folder /no/such"):
        load_clip("/no/such")


def test_the_vocabulary_must_be_there_and_fit(tmp_path, tiny):
    path = write(tmp_path, tiny_towers.state(*tiny), "clip.pt")
    tiny_towers.write_vocabulary(tmp_path, tiny_towers.MERGES[:3])
    with pytest.raises(McilError, match=f"has 517 tokens, but the weights {tiny_towers.VOCABULARY}"):
        load_clip(path)
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").unlink()
    with pytest.raises(McilError, match="lacks the vocabulary"):
        load_clip(path)


# frozen encoders


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tiny):
    return write(tmp_path_factory.mktemp("clip"), tiny_towers.state(*tiny), "clip.pt")


@pytest.mark.parametrize("frames", [1, 3])
def test_pictures_keep_the_contract(tmp_path, weights, tiny, frames):
    write_video(tmp_path / "v.mp4", brightening())
    visual, _ = ENCODERS["clip"](weights=str(weights), device="cpu", frames=frames)
    clip = clip_of(tmp_path, video="v.mp4")
    features = check_contract(visual, clip)
    assert features.shape == (frames, 1, tiny_towers.EMBED)
    pixels = torch.from_numpy(visual.prepare(clip))
    torch.testing.assert_close(torch.from_numpy(features[:, 0]), tiny[0](normalise(pixels)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [None, 2])
def test_patches_are_in_the_space_of_the_embedding(tmp_path, weights, tiny, grid):
    """The last layer norm and the projection, which the class token goes through, applied to every patch by hand."""
    write_video(tmp_path / "v.mp4", brightening())
    visual, text = ENCODERS["clip"](weights=str(weights), device="cpu", frames=2, tokens="patches", grid=grid)
    assert text.shape == (tiny_towers.EMBED,)
    clip = clip_of(tmp_path, video="v.mp4")
    features = check_contract(visual, clip)
    tower = tiny[0]
    pixels = normalise(torch.from_numpy(visual.prepare(clip)))
    with torch.no_grad():
        tokens = tower.below(pixels, 0)
        for block in tower.transformer.resblocks:
            tokens = block(block.attend(tokens))
        patches = torch.stack([tower.ln_post(tokens[:, place]) @ tower.proj for place in range(1, 17)], dim=1)
        first = tower.ln_post(tokens[:, 0]) @ tower.proj
        torch.testing.assert_close(first, tower(pixels), rtol=1e-4, atol=1e-4)
    if grid == 2:
        cells = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
        patches = torch.stack([patches[:, cell].mean(dim=1) for cell in cells], dim=1)
    torch.testing.assert_close(torch.from_numpy(features), patches, rtol=1e-4, atol=1e-4)


def test_a_resnet_has_no_patches(tmp_path, tiny):
    path = write(tmp_path, tiny_towers.state(tiny_towers.resnet(), tiny[1]), "RN50.pt")
    with pytest.raises(McilError, match="holds a ResNet, which has no patches"):
        ENCODERS["clip"](weights=str(path), tokens="patches")
    with pytest.raises(McilError, match="must be one of 'embedding', 'patches'"):
        create_encoders({"clip": {"weights": str(path), "tokens": "patch"}})


def test_texts_keep_the_contract(weights, tiny):
    encoder = ENCODERS["clip"](weights=str(weights), device="cpu")[1]
    assert isinstance(encoder, TextEncoder)
    card = encoder.card()
    assert json.loads(json.dumps(card)) == card
    assert {"name", "modality", "revision", "licence", "options", "preprocessing", "shape"} <= card.keys()
    assert ENCODERS["clip"](**card["options"])[1].card() == card
    assert card["shape"] == [tiny_towers.EMBED]
    texts = ["a photo of a cat", "dog", "a b " * 90]
    features = pickle.loads(pickle.dumps(encoder)).encode(texts)
    assert features.dtype == np.float32
    expected = tiny[1](Tokenizer(PAIRS)(texts))
    torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-4)
    assert len(pickle.dumps(encoder)) < 10_000
    assert encoder.encode([]).shape == (0, tiny_towers.EMBED)


def test_texts_alone_need_the_vocabulary(tmp_path, tiny):
    path = write(tmp_path, tiny_towers.state(*tiny), "clip.pt")
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").unlink()
    visual, text = create_encoders({"clip": {"weights": str(path), "device": "cpu"}})
    assert visual.card()["revision"] == f"sha256:{sha256(path)[:16]}"
    with pytest.raises(McilError, match="lacks the vocabulary"):
        text.encode(["dog"])


def test_senseless_options_are_refused(weights):
    with pytest.raises(McilError, match="frames must be at least 1"):
        ENCODERS["clip"](weights=str(weights), frames=0)
