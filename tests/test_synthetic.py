"""Made clips: the table of classes, real files, the same for the same seed, resumed after a stop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcil.data.manifest import read_manifest
from mcil.data.store import FeatureStore
from mcil.data.synthetic import MAX_CLASSES, class_table, make, probe
from mcil.data.synthetic import picture as pictures
from mcil.data.synthetic import sound as sounds
from mcil.data.synthetic.table import LOOKS, SOUNDS
from mcil.errors import McilError
from mcil.files import sha256
from mcil.media import probe as probe_file
from mcil.media import read_audio, read_frames

SMALL: dict[str, Any] = {"classes": 4, "clips": 4, "seconds": 0.5, "size": 32, "jobs": 1}


def made(out: Path, **changes: Any) -> Path:
    """Make few, short, small clips."""
    return make(out, **{**SMALL, **changes})


def contents(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): sha256(path) for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    made(folder)
    return folder


@given(classes=st.integers(3, MAX_CLASSES))
def test_the_sound_says_which_object_to_look_for(classes: int) -> None:
    table = class_table(classes)
    assert len({made.name for made in table}) == classes
    makers = {sound: {made.look for made in table if made.sound == sound} for sound in SOUNDS}
    for made in table:
        assert made.distractors
        # Of the looks that make its sound, only one is ever on screen.
        assert not makers[made.sound] & set(made.distractors)


def test_some_classes_share_their_sound_and_others_their_look() -> None:
    table = class_table(12)
    looks, sounds = (Counter(getattr(made, part) for made in table) for part in ("look", "sound"))
    shared_sound = [made for made in table if sounds[made.sound] == 2 and looks[made.look] == 1]
    shared_look = [made for made in table if looks[made.look] == 2 and sounds[made.sound] == 1]
    assert len(shared_sound) == len(shared_look) == 6


def test_with_all_classes_every_look_and_every_sound_is_shared_by_several() -> None:
    table = class_table(MAX_CLASSES)
    assert min(Counter(made.look for made in table).values()) >= 3
    assert min(Counter(made.sound for made in table).values()) >= 3


def test_every_name_in_the_table_can_be_painted_and_played() -> None:
    assert set(LOOKS) == set(pictures.LOOKS)
    assert set(SOUNDS) == set(sounds.TIMBRES)
    rng = np.random.default_rng(0)
    for look in LOOKS:
        frames = pictures.render(rng, [look], 3, 12, 48)
        assert (frames.shape, frames.dtype) == ((3, 48, 48, 3), np.uint8)
    for sound in SOUNDS:
        samples = sounds.synthesise(rng, sound, 0.5)
        assert (samples.shape, samples.dtype) == ((8000,), np.float32)
        assert 0.01 < np.abs(samples).max() <= 1.0


def test_the_files_are_films_with_sound(out: Path) -> None:
    records = read_manifest(out / "manifest.csv")
    assert len(records) == 16
    for record in records:
        assert record.video == record.audio == f"clips/{record.label}/{record.id}.mp4"
        info = probe_file(out / record.video)
        assert (info.video, info.audio, info.width, info.height, info.sample_rate) == (True, True, 32, 32, 16000)
        assert info.duration == pytest.approx(0.5, abs=0.01)
        assert read_frames(out / record.video, np.array([0.1, 0.4])).std() > 5
        assert np.abs(read_audio(out / record.video)[0]).max() > 0.005


def test_splits_are_stratified(tmp_path: Path) -> None:
    records = read_manifest(made(tmp_path / "many", classes=3, clips=20))
    counts = Counter((record.label, record.split) for record in records)
    assert set(counts.values()) == {12, 3, 5}
    assert all(counts[label, "train"] == 12 and counts[label, "test"] == 5 for label, _ in counts)


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(out: Path, tmp_path: Path) -> None:
    made(tmp_path, jobs=2)
    assert contents(tmp_path) == contents(out)


def test_another_seed_gives_other_clips(out: Path, tmp_path: Path) -> None:
    made(tmp_path, seed=1)
    one, other = contents(out), contents(tmp_path)
    assert one.keys() == other.keys()
    assert not any(one[name] == other[name] for name in one if name.endswith(".mp4"))


def test_a_stopped_run_is_picked_up(out: Path, tmp_path: Path) -> None:
    made(tmp_path)
    first, *_, last = sorted(tmp_path.rglob("*.mp4"))
    last.rename(last.with_name(f".{last.name}.abc.part"))  # as a kill in the middle of writing leaves it
    (tmp_path / "manifest.csv").unlink()
    before = first.stat().st_mtime_ns
    made(tmp_path)
    assert first.stat().st_mtime_ns == before
    assert contents(tmp_path) == contents(out)


def test_other_clips_are_never_mixed_in(out: Path, tmp_path: Path) -> None:
    with pytest.raises(McilError, match="other settings; choose another folder"):
        made(out, seed=3)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(McilError, match="other files"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(McilError, match="cannot write"):
        made(tmp_path / "out")


IMPOSSIBLE = [("classes", 1), ("classes", 37), ("clips", 3), ("seed", -1), ("seconds", 0.1), ("size", 33), ("jobs", 0)]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(McilError) as error:
        made(tmp_path / "out", **{name: value})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_probe_finds_what_each_modality_tells(tmp_path: Path) -> None:
    """The label is the pair of a bit that is heard and a bit that is seen: half, half, all."""
    rng = np.random.default_rng(0)
    heard, seen = rng.integers(0, 2, (2, 200))
    audio = rng.normal(0.0, 0.1, (200, 3)).astype(np.float32)
    visual = rng.normal(0.0, 0.1, (200, 2, 4, 5)).astype(np.float32)
    audio[:, 1] += heard
    visual[:, 1, 2, 3] += 4 * seen  # one patch of one frame
    store = FeatureStore.write(
        tmp_path / "store",
        labels=[f"{a}{v}" for a, v in zip(heard, seen, strict=True)],
        splits=["train", "test"] * 100,
        audio=audio,
        visual=visual,
    )
    accuracy = probe(store)
    assert accuracy["both"] > 97
    assert 35 < accuracy["audio"] < 65
    assert 35 < accuracy["visual"] < 65


def test_the_probe_needs_both_modalities(tmp_path: Path) -> None:
    store = FeatureStore.write(
        tmp_path / "store", labels=["a", "b"], splits=["train", "test"], audio=np.zeros((2, 3), np.float32), visual=None
    )
    with pytest.raises(McilError, match="a probe needs audio and visual"):
        probe(store)
