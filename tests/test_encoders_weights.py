"""Finding weights: the hub's cache, the hub, devices."""

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

from mcil.encoders.weights import find_weights, pick_device
from mcil.errors import McilError, reason

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, *names: str) -> Path:
    """A repository in the hub's cache, laid out as the hub's client does."""
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in names:
        (snapshot / name).write_text(name)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_in_the_hubs_cache_needs_no_network(cache, name):
    snapshot = cached(cache, name)
    found = find_weights("x", "owner/name", None)
    assert (found.folder, found.file, found.revision) == (snapshot, snapshot / name, COMMIT)


def serve(monkeypatch, snapshot: Path, *names: str, error: type[Exception] | None = None):
    """Let the hub have ``names``, or fail with ``error``; returns the list of what is asked of it."""
    asked = []

    def download(repository, name, revision=None):
        assert revision in (None, "other", COMMIT)
        asked.append(name)
        if error:
            raise error("no network\nand a second line")
        if name not in names:
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
        (snapshot / name).write_text(name)
        return str(snapshot / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_downloads_the_first_format_and_the_companions_there_are(cache, monkeypatch):
    snapshot = cached(cache)
    asked = serve(monkeypatch, snapshot, "config.json", "pytorch_model.bin")
    found = find_weights("x", "owner/name", None, ("config.json", "preprocessor_config.json"))
    assert found.file == snapshot / "pytorch_model.bin"
    assert asked == ["config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"]
    asked = serve(monkeypatch, snapshot, "model.safetensors", "pytorch_model.bin")
    assert find_weights("x", "owner/name", "other").file == snapshot / "model.safetensors"
    assert asked == ["model.safetensors"]


def test_a_repository_without_weights_is_named(cache, monkeypatch):
    serve(monkeypatch, cached(cache), "config.json")
    with pytest.raises(McilError, match="'owner/name' on the hub holds neither"):
        find_weights("x", "owner/name", None)
    with pytest.raises(McilError, match=r"'owner/name' on the hub holds no a\.pt; "):
        find_weights("x", "owner/name", None, formats=("a.pt",))


def test_what_is_missing_beside_cached_weights_is_fetched_of_the_same_commit(cache, monkeypatch):
    snapshot = cached(cache, "config.json", "model.safetensors")
    asked = serve(monkeypatch, snapshot, "preprocessor_config.json")
    companions = ("config.json", "README.md", "preprocessor_config.json")
    assert find_weights("x", "owner/name", None, companions).file == snapshot / "model.safetensors"
    assert asked == ["README.md", "preprocessor_config.json"]
    assert (snapshot / "preprocessor_config.json").is_file()
    find_weights("x", "owner/name", None, companions)
    assert asked[2:] == ["README.md"], "what is in the cache is asked of nobody"


@pytest.mark.parametrize("error", [LocalEntryNotFoundError, ConnectionError])
def test_cached_weights_make_do_without_what_cannot_be_fetched(cache, monkeypatch, error):
    snapshot = cached(cache, "model.safetensors")
    asked = serve(monkeypatch, snapshot, error=error)
    found = find_weights("x", "owner/name", None, ("config.json", "README.md"))
    assert (found.file, asked) == (snapshot / "model.safetensors", ["config.json"])


def test_weights_that_are_neither_a_folder_nor_on_the_hub(cache, monkeypatch):
    serve(monkeypatch, cached(cache), error=LocalEntryNotFoundError)
    with pytest.raises(McilError, match="there is no folder w/nothere, no weights of that name"):
        find_weights("x", "w/nothere", None)


def test_a_reason_is_one_line_or_the_name_of_the_error():
    assert reason(ValueError("\n first\nsecond")) == "first"
    assert reason(OSError("  ")) == reason(OSError()) == "OSError"


def test_no_network_is_one_line(cache, monkeypatch):
    serve(monkeypatch, cached(cache), error=LocalEntryNotFoundError)
    with pytest.raises(McilError, match=r"\(no network\).*hf download owner/name") as caught:
        find_weights("x", "owner/name", None)
    assert "\n" not in str(caught.value)


def test_devices():
    assert pick_device("x", "cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert pick_device("x", "auto") == pick_device("x", "cuda") == torch.device("cuda")
    else:
        assert pick_device("x", "auto") == torch.device("cpu")
        with pytest.raises(McilError, match="device cuda"):
            pick_device("x", "cuda")
