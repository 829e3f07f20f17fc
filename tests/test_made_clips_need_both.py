"""Made clips cannot be told apart by ear alone or by eye alone, but by both: measured on the built-in features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mcil.data.manifest import read_manifest
from mcil.data.store import FeatureStore
from mcil.data.synthetic import make, probe
from mcil.encoders import ENCODERS
from mcil.media import Clip


def test_made_clips_need_ear_and_eye(tmp_path: Path) -> None:
    manifest = make(tmp_path / "made", classes=8, clips=24, seconds=1.0, size=64, jobs=1)
    records = read_manifest(manifest)
    features = {}
    for encoder in ENCODERS["builtin"]():
        prepared = [encoder.prepare(Clip(record, manifest.parent)) for record in records]
        features[encoder.modality] = encoder.encode(np.stack(prepared))
    store = FeatureStore.write(
        tmp_path / "store",
        labels=[record.label for record in records],
        splits=[record.split for record in records],
        audio=features["audio"],
        visual=features["visual"],
    )
    accuracy = probe(store)
    # Half of the classes share their sound with another one, so that a perfect ear gets 75 % on average.
    assert 40 < accuracy["audio"] < 85
    assert 15 < accuracy["visual"] < 70
    assert accuracy["both"] > max(accuracy["audio"], accuracy["visual"]) + 8, accuracy
