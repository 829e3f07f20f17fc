"""Fetching published features: parts, archives and copies of the hub's data set; there is no network in tests."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from benchmarks.avcil_files import audio_of, flat, videos, write_features, write_lists
from command import call
from mcil.data import fetch
from mcil.data.fetch import fetch_avcil_features
from mcil.data.importers.avcil_features import LISTS, VISUAL
from mcil.data.store import FeatureStore
from mcil.errors import McilError

LISTED = videos({"train": 1, "test": 1}, classes=2) | {"val": [[], []]}
LISTED = {split: LISTED[split] for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the importer reads it; it is not to be changed."""
    root = tmp_path_factory.mktemp("files") / "anything"
    write_lists(root, LISTED)
    write_features(root, flat(LISTED), hdf5=True)
    return root


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def zipped(files: Path, archive: Path, inside: str = "some/where", compression: int = zipfile.ZIP_STORED) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(files.rglob("*.*")):
            file.write(path, f"{inside}/{path.relative_to(files)}")
    return archive


def tarred(files: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz", compresslevel=1) as file:
        file.add(files, "inside")
    return archive


def in_parts(file: Path, names: list[str]) -> list[Path]:
    """Cut ``file`` into parts called ``<file><name>``."""
    content = file.read_bytes()
    file.unlink()
    size = -(-len(content) // len(names))
    parts = [file.with_name(file.name + name) for name in names]
    for n, part in enumerate(parts):
        part.write_bytes(content[n * size : (n + 1) * size])
    return parts


def assert_fetched(source: Path | None, dataset: Any = "ksounds") -> None:
    store = FeatureStore(fetch_avcil_features(dataset, Path("store"), source=source))
    assert store.ids == flat(LISTED)
    assert (store.read("audio", np.array([2]))[0].numpy() == audio_of(2)).all()
    assert not list(Path().glob("store-unpacked*"))


def refused(source: Path | None, dataset: Any = "ksounds") -> str:
    with pytest.raises(McilError) as error:
        fetch_avcil_features(dataset, Path("store"), source=source)
    assert "\n" not in str(error.value)
    assert not (Path("store") / "card.json").exists()
    return str(error.value)


LETTERS = ["aa", "ab", "ac"]
PARTS = [
    [f".{name}" for name in LETTERS],
    [f".part{name}" for name in LETTERS],
    [f".part-0{n}" for n in range(3)],
    [f".00{n}" for n in (1, 2, 3)],
    [f"_part_0{n}" for n in range(3)],
]


@pytest.mark.parametrize("names", PARTS, ids=lambda names: names[0])
def test_a_zip_archive_in_parts(files: Path, names: list[str]) -> None:
    in_parts(zipped(files, Path("hub/KS_features.zip")), names)
    Path("hub/AVE_features.zip").write_text("of another data set, and damaged")
    assert_fetched(Path("hub"))


def test_a_tar_archive_in_parts(files: Path) -> None:
    in_parts(tarred(files, Path("hub/deep/KS_features.tar.gz")), PARTS[0])
    assert_fetched(Path("hub"))


def test_whole_archives_and_files(files: Path) -> None:
    zipped(files, Path("a/ksounds.zip"), compression=zipfile.ZIP_DEFLATED)
    assert_fetched(Path("a"))
    shutil.rmtree("store")
    shutil.copytree(files, "b/kinetics-sounds")
    shutil.copytree(files, "b/AVE")
    Path("b/AVE", VISUAL[1]).write_text("damaged")
    assert_fetched(Path("b"))
    shutil.rmtree("store")
    assert_fetched(files)


def test_a_feature_file_in_parts_and_lists_beside_it(files: Path) -> None:
    shutil.copytree(files, "ksounds")
    in_parts(Path("ksounds", VISUAL[1]), PARTS[0])
    assert_fetched(Path("ksounds"))


def test_the_other_data_sets(files: Path) -> None:
    shutil.copytree(files, "hub/VGGSound_100")
    in_parts(zipped(files, Path("hub/AVE_features.zip")), PARTS[1])
    assert_fetched(Path("hub"), "VGGSound_100")
    shutil.rmtree("store")
    assert_fetched(Path("hub"), "AVE")
    assert "no features of ksounds are there" in refused_elsewhere(Path("hub"))


def refused_elsewhere(source: Path) -> str:
    with pytest.raises(McilError) as error:
        fetch_avcil_features("ksounds", Path("other"), source=source)
    assert not list(Path().glob("other*"))
    return str(error.value)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_part_is_said(files: Path, missing: int) -> None:
    parts = in_parts(zipped(files, Path("hub/KS_features.zip")), [f".a{letter}" for letter in "abcd"])
    parts[missing].unlink()
    there = ", ".join(part.suffix[1:] for part in parts if part.exists())
    assert f"a part of KS_features.zip is missing, there are only {there}" in refused(Path("hub"))
    assert not list(Path().glob("store*"))


def test_a_missing_last_part_is_said(files: Path) -> None:
    parts = in_parts(zipped(files, Path("hub/KS_features.zip")), PARTS[0])
    parts[-1].unlink()
    assert "KS_features.zip: cannot be unpacked" in refused(Path("hub"))


def test_a_damaged_archive_leaves_no_half_files(files: Path) -> None:
    archive = zipped(files, Path("hub/KS_features.zip"))
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1000] = bytes(1000)
    archive.write_bytes(content)
    assert "KS_features.zip: cannot be unpacked" in refused(Path("hub"))
    assert not Path("store-unpacked-ksounds", VISUAL[1]).exists()
    assert not list(Path().rglob("*.part"))
    zipped(files, archive)
    assert_fetched(Path("hub"))


def test_names_and_links_in_archives_lead_nowhere(files: Path) -> None:
    archive = Path("hub/KS_features.zip")
    zipped(files, archive, inside="../../outside")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("/absolute/evil.txt", "evil")
        link = zipfile.ZipInfo(f"links/{Path(VISUAL[0]).name}")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    assert_fetched(Path("hub"))
    assert sorted(path.name for path in Path().iterdir()) == ["hub", "store"]
    assert not Path("../outside").exists()
    assert not Path("/absolute").exists()
    shutil.rmtree("store")
    archive.unlink()
    shutil.copytree(files, "copy/inside")
    Path("copy/inside", VISUAL[0]).symlink_to("/etc/passwd")
    tarred(Path("copy"), Path("hub/KS_features.tar.gz"))
    assert_fetched(Path("hub"))


def test_what_was_unpacked_is_not_unpacked_again(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(files, Path("hub/KS_features.zip"))

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "import_avcil_features", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch_avcil_features("ksounds", Path("store"), source=Path("hub"))
    assert sum(path.is_file() for path in Path("store-unpacked-ksounds").rglob("*")) == 5
    monkeypatch.setattr(fetch, "_open", stop)
    assert_fetched(Path("hub"))


def test_a_full_disk_is_foreseen(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(files, Path("hub/KS_features.zip"))
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "0 GB are free" in refused(Path("hub"))


def test_lists_that_are_not_there_and_no_network(files: Path) -> None:
    shutil.copytree(files, "hub/ksounds")
    Path("hub/ksounds", LISTS[1]).unlink()
    said = refused(Path("hub"))
    assert f"{LISTS[1]} of ksounds is not among the files and cannot be downloaded" in said
    assert "/data/kinetics-sounds/all_id_category_dict.npy" in said
    shutil.copy(files / LISTS[1], "hub")  # beside the data set's folder
    assert_fetched(Path("hub"))


def test_a_download_from_the_hub(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(zipped(files, Path("hub/KS_features.zip")), PARTS[0])
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return "hub"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_fetched(None)
    assert asked["name"] == "wiberg/AV-CIL_features"
    assert asked["repo_type"] == "dataset"
    assert "KS*" in asked["allow_patterns"]


def test_no_network_is_one_line_that_says_what_to_do() -> None:
    said = call("data fetch avcil-features AVE --out store")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "wiberg/AV-CIL_features cannot be had from the hub" in said.err
    assert "hf download wiberg/AV-CIL_features --repo-type dataset --include 'AVE*' --local-dir FOLDER" in said.err
    assert "--source FOLDER" in said.err
    assert not Path("store").exists()
    assert "nowhere: no such folder" in call("data fetch avcil-features AVE --source nowhere").err
    assert "must be one of" in call("data fetch avcil-features AVEC").err
