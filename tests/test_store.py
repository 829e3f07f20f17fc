import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcil.data.importers.arrays import import_arrays
from mcil.data.shards import ArraySpec, Failure
from mcil.data.store import FeatureStore
from mcil.data.writer import StoreWriter
from mcil.errors import McilError, StoreError
from mcil.files import sha256
from mcil.types import ClipRecord


def arrays(count: int = 12) -> dict:
    rng = np.random.default_rng(0)
    return {
        "labels": [f"class {row % 3}" for row in range(count)],
        "splits": [("train", "val", "test")[row // 3 % 3] for row in range(count)],
        "audio": rng.normal(size=(count, 5)).astype(np.float32),
        "visual": rng.normal(size=(count, 2, 3, 4)).astype(np.float16),
    }


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in folder.rglob("*") if p.is_file()}


def write_in_shards(path: Path, size: int = 4, dtype: str = "float16", stop_after: int | None = None) -> None:
    """Write arrays() through a StoreWriter; row 2 fails. ``stop_after`` shards of this call, break off."""
    given = arrays()
    records = [ClipRecord(f"{row:02d}", given["labels"][row], given["splits"][row]) for row in range(12)]
    specs = {"audio": ArraySpec((5,), "float32"), "visual": ArraySpec((2, 3, 4), dtype)}
    with StoreWriter(path, specs, records, {"encoders": {}}, clips_per_shard=size) as writer:
        for count, number in enumerate(writer.pending()):
            if count == stop_after:
                return
            rows = [row for row in writer.rows(number) if row != 2]
            audio = torch.from_numpy(given["audio"][rows])
            visual = torch.from_numpy(given["visual"][rows]).to(getattr(torch, dtype))
            failures = [Failure(2, "x.mp4: broken")] if 2 in writer.rows(number) else []
            yes = [True] * len(rows)
            writer.write(number, rows, {"audio": audio, "visual": visual}, yes, yes, failures)
        writer.finish()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = arrays()
    store = FeatureStore.write(tmp_path / "s", **given)
    rows = np.array([7, 0, 11, 7, 3])
    assert len(store) == 12
    assert store.labels == given["labels"]
    assert store.splits == given["splits"]
    assert store.shapes == {"audio": (5,), "visual": (2, 3, 4)}
    assert torch.equal(store.read("audio", rows), torch.from_numpy(given["audio"][rows]))
    assert torch.equal(store.read("visual", rows), torch.from_numpy(given["visual"][rows]))
    assert store.read("audio", np.array([], dtype=np.int64)).shape == (0, 5)
    assert store.record(3).label == "class 0"
    assert store.media(3) is None
    assert store.index["has_audio"].all()


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 10), max_size=30), size=st.integers(1, 12))
def test_any_rows_from_any_shards(tmp_path_factory: pytest.TempPathFactory, rows: list[int], size: int) -> None:
    path = tmp_path_factory.mktemp("store") / "s"
    write_in_shards(path, size)
    store = FeatureStore(path)
    expected = np.delete(arrays()["visual"], 2, axis=0)[np.array(rows, dtype=np.int64)]
    assert torch.equal(store.read("visual", np.array(rows, dtype=np.int64)), torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sounds_of_several_steps_are_kept_with_the_steps_that_they_lack(tmp_path: Path, dtype: type) -> None:
    sounds = np.random.default_rng(0).normal(size=(12, 3, 5)).astype(dtype)
    sounds[4, 1:], sounds[7] = 0, 0
    store = FeatureStore.write(tmp_path / "s", **{**arrays(), "audio": sounds})
    assert store.shapes == {"audio": (3, 5), "visual": (2, 3, 4)}
    rows = np.array([7, 0, 4, 7])
    read = FeatureStore(tmp_path / "s").read("audio", rows)
    assert torch.equal(read, torch.from_numpy(sounds[rows]))
    assert read[2, 1:].count_nonzero() == 0
    given = arrays()
    np.savez(tmp_path / "f.npz", audio=sounds, y=given["labels"], split=given["splits"])
    imported = FeatureStore(import_arrays(tmp_path / "f.npz", tmp_path / "t"))
    assert torch.equal(imported.read("audio", rows), read)


def test_one_modality_and_flat_visual_features(tmp_path: Path) -> None:
    given = arrays()
    audio_only = FeatureStore.write(tmp_path / "a", **{**given, "visual": None})
    assert audio_only.shapes == {"audio": (5,)}
    assert not audio_only.index["has_visual"].any()
    with pytest.raises(StoreError, match="no 'visual' in this store, only audio"):
        audio_only.read("visual", np.array([0]))
    flat = FeatureStore.write(tmp_path / "v", **{**given, "audio": None, "visual": np.ones((12, 7))})
    assert flat.shapes == {"visual": (1, 1, 7)}
    assert flat.read("visual", np.array([1])).dtype == torch.float32


def test_bfloat16(tmp_path: Path) -> None:
    write_in_shards(tmp_path / "s", dtype="bfloat16")
    read = FeatureStore(tmp_path / "s").read("visual", np.array([2, 1]))
    assert read.dtype == torch.bfloat16
    assert torch.equal(read, torch.from_numpy(arrays()["visual"][[3, 1]]).to(torch.bfloat16))


def test_equal_content_gives_equal_bytes_anywhere(tmp_path: Path) -> None:
    first = FeatureStore.write(tmp_path / "a" / "s", **arrays())
    again = FeatureStore.write(tmp_path / "b", **arrays())
    assert contents(first.path) == contents(again.path)
    assert first.checksum == again.checksum
    changed = arrays()
    changed["audio"][3, 2] += 1
    assert FeatureStore.write(tmp_path / "c", **changed).checksum != first.checksum
    before = contents(first.path)
    FeatureStore.write(first.path, **arrays())
    assert contents(first.path) == before


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_stopped_writer_goes_on(tmp_path: Path, stop: int) -> None:
    write_in_shards(tmp_path / "whole")
    write_in_shards(tmp_path / "s", stop_after=stop)
    with pytest.raises(StoreError, match="not finished"):
        FeatureStore(tmp_path / "s")
    (tmp_path / "s" / ".card.json.abc.part").write_text("left by a kill")
    (tmp_path / "s" / "shards" / ".00000.safetensors.abc.part").write_text("left by a kill")
    write_in_shards(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    store = FeatureStore(tmp_path / "s")
    assert store.ids == [f"{row:02d}" for row in range(12) if row != 2]
    assert (tmp_path / "s" / "failures.csv").read_text().splitlines() == ["row,id,reason", "3,02,x.mp4: broken"]


@pytest.mark.parametrize("kind", ["missing shard", "short shard", "short index", "no index", "bad card"])
def test_what_is_damaged_is_mended_by_the_same_command(tmp_path: Path, kind: str) -> None:
    write_in_shards(tmp_path / "s")
    whole = contents(tmp_path / "s")
    shard, index = tmp_path / "s/shards/00001.safetensors", tmp_path / "s/index.parquet"
    match kind:
        case "missing shard":
            shard.unlink()
        case "short shard":
            shard.write_bytes(shard.read_bytes()[:-10])
        case "short index":
            index.write_bytes(index.read_bytes()[:-10])
        case "no index":
            index.unlink()
        case "bad card":
            (tmp_path / "s/card.json").write_text("{")
    with pytest.raises(StoreError) as error:
        FeatureStore(tmp_path / "s")
    assert "\n" not in str(error.value)
    write_in_shards(tmp_path / "s")
    assert contents(tmp_path / "s") == whole


def test_a_flipped_bit_is_found_when_the_shard_is_read(tmp_path: Path) -> None:
    write_in_shards(tmp_path / "s")
    shard = tmp_path / "s/shards/00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    store = FeatureStore(tmp_path / "s")
    store.read("audio", np.array([0, 1]))
    with pytest.raises(StoreError, match=r"00001\.safetensors.*content changed"):
        store.read("audio", np.array([0, 5]))
    assert FeatureStore(tmp_path / "s", verify=False).read("audio", np.array([5])).shape == (1, 5)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no feature store here"):
        FeatureStore(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="no feature store"):
        FeatureStore(tmp_path / "folder")
    (tmp_path / "folder" / "card.json").write_text("{}")
    with pytest.raises(StoreError, match="does not describe"):
        FeatureStore(tmp_path / "folder")
    path = FeatureStore.write(tmp_path / "s", **arrays()).path
    card = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(StoreError, match="version 99"):
        FeatureStore(path)
    del card["shards"]
    (path / "card.json").write_text(json.dumps(card))
    with pytest.raises(StoreError, match="card is damaged"):
        FeatureStore(path)


def test_another_store_begun_in_the_folder_is_refused(tmp_path: Path) -> None:
    write_in_shards(tmp_path / "s", stop_after=1)
    with pytest.raises(McilError, match="with another dtype"):
        write_in_shards(tmp_path / "s", dtype="float32")
    with pytest.raises(McilError, match="with another shard size"):
        write_in_shards(tmp_path / "s", size=5)
    given = arrays()
    with pytest.raises(McilError, match="from another manifest"):
        FeatureStore.write(tmp_path / "s", **given)
    FeatureStore.write(tmp_path / "t", **given)
    with pytest.raises(McilError, match="with other encoders"):
        FeatureStore.write(tmp_path / "t", **given, card={"encoders": {"audio": {"name": "another"}}})


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "thesis.tex").write_text("")
    with pytest.raises(McilError, match=r"thesis\.tex"):
        FeatureStore.write(tmp_path, **arrays())
    assert list(contents(tmp_path)) == ["shards/thesis.tex"]


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    records = [ClipRecord("a", "x", "train")]
    with (
        StoreWriter(tmp_path / "s", {"audio": ArraySpec((1,), "float32")}, records, {}),
        pytest.raises(McilError, match="another process"),
        StoreWriter(tmp_path / "s", {"audio": ArraySpec((1,), "float32")}, records, {}),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": np.ones((11, 5))}, "different numbers of clips: 12 labels, 12 splits, 12 ids, 11 audio"),
        ({"audio": np.ones((12, 5, 2, 2))}, r"shape \(12, 5, 2, 2\); \(N,D\) or \(N,T,D\) is needed"),
        ({"audio": np.ones((12, 0, 2))}, r"shape \(12, 0, 2\); \(N,D\) or \(N,T,D\) is needed"),
        ({"audio": np.full((12, 5), np.nan)}, "row 1 are not finite"),
        ({"audio": np.array(["x"] * 12)[:, None]}, "numbers are needed"),
        ({"splits": ["tran"] * 12}, "Did you mean 'train'"),
        ({"ids": ["same"] * 12}, "unique"),
        ({"audio": None, "visual": None}, "needs arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(McilError, match=message):
        FeatureStore.write(tmp_path / "s", **{**arrays(), **change})
    assert not (tmp_path / "s").exists()


def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import resource, sys
import numpy as np
from mcil.data.store import FeatureStore
from mcil.errors import McilError
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))
try:
    FeatureStore.write({str(tmp_path / "s")!r}, labels=["a"] * 9, splits=["train"] * 9, audio=np.ones((9, 999)))
except McilError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(tmp_path / "s") == {}


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(McilError, match="a part of the path is a file"):
        FeatureStore.write(tmp_path / "file" / "s", **arrays())


def test_import_arrays(tmp_path: Path) -> None:
    given = arrays()
    y = np.arange(12) % 3
    split = np.array([("train", "val", "test").index(name) for name in given["splits"]], dtype=np.uint8)
    names = np.array(["class 0", "class 1", "class 2"])
    file = tmp_path / "f.npz"
    np.savez(file, audio=given["audio"], visual=given["visual"], y=y, split=split, class_names=names)
    store = FeatureStore(import_arrays(file, tmp_path / "s"))
    assert store.labels == given["labels"]
    assert store.splits == given["splits"]
    assert torch.equal(store.read("visual", np.arange(12)), torch.from_numpy(given["visual"]))

    np.savez(file, sound=given["audio"], y=np.array(given["labels"]), split=np.array(given["splits"]))
    named = FeatureStore(import_arrays(file, tmp_path / "t", audio="sound"))
    assert named.labels == store.labels
    assert list(named.shapes) == ["audio"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio": "sund"}, "no array 'sund' for audio. Did you mean 'sound'"),
        ({"labels": "z"}, "no array 'z' for labels"),
        ({"splits": ("train", "test")}, "split has the number 2"),
        ({}, "needs arrays"),
    ],
)
def test_archives_that_do_not_fit(tmp_path: Path, arguments: dict, message: str) -> None:
    file = tmp_path / "f.npz"
    np.savez(file, sound=arrays()["audio"], y=np.arange(12) % 3, split=np.arange(12) % 3)
    with pytest.raises(McilError, match=message):
        import_arrays(file, tmp_path / "s", **{"audio": "sound", **arguments} if arguments else {})
    assert not (tmp_path / "s").exists()


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(McilError, match="no such file"):
        import_arrays(tmp_path / "f.npz", tmp_path / "s")
    (tmp_path / "f.npz").write_text("text")
    with pytest.raises(McilError, match="cannot be read"):
        import_arrays(tmp_path / "f.npz", tmp_path / "s")
    np.savez(tmp_path / "f.npz", audio=np.array([{}], dtype=object), y=np.zeros(1), split=np.zeros(1))
    with pytest.raises(McilError, match="cannot be read"):
        import_arrays(tmp_path / "f.npz", tmp_path / "s")
