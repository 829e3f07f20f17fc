"""The runs of MCIL-AudioCLIP's paper by the two commands that the documentation gives: tiny weights, made data."""

from __future__ import annotations

import re
import shlex
import wave
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

import tiny_towers
from mcil.cli import main
from mcil.data.benchmarks import BENCHMARKS
from mcil.data.trimodal import IMAGENET_ESC
from mcil.experiment.folder import RunFolder
from mcil.files import read_tensors
from mcil.learner import Learner

ROOT = Path(__file__).parent.parent
CONFIG = "configs/mcil-audioclip.yaml"
COUNTS = {"train": 6, "test": 2}
RATE = 44100


def make_release(folder: Path) -> None:
    """Write pictures and sounds of ImageNet-ESC-19 in the release's layout: a colour and a tone of each class's own."""
    random = np.random.default_rng(0)
    for number, row in enumerate(row for row in IMAGENET_ESC if row.of_19):
        for split, count in COUNTS.items():
            for kind in ("image", "audio"):
                (folder / kind / split / row.wnid).mkdir(parents=True)
            for clip in range(count):
                colour = np.array([37, 71, 113]) * (number + 1) % 256
                picture = (colour + 10 * random.normal(size=(70, 80, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(picture).save(folder / "image" / split / row.wnid / f"{clip}.JPEG")
                time = np.arange(RATE // 8) / RATE
                tone = 8000 * np.sin(2 * np.pi * (200 + 150 * number) * time) + 300 * random.normal(size=len(time))
                with wave.open(str(folder / "audio" / split / row.wnid / f"{clip}.wav"), "wb") as file:
                    file.setnchannels(1)
                    file.setsampwidth(2)
                    file.setframerate(RATE)
                    file.writeframes(tone.astype("<i2").tobytes())


def documented() -> list[str]:
    """Return the two commands as the page and the configuration give them; they must be the same."""
    page = (ROOT / "docs" / "trimodal.md").read_text()
    (block,) = (block for block in re.findall(r"^```\n(.*?)^```", page, re.M | re.S) if CONFIG in block)
    in_config = re.findall(r"^#\s+(mcil (?:extract|run) .*)$", (ROOT / CONFIG).read_text(), re.M)
    assert block.splitlines() == in_config
    return in_config


def test_two_commands_lead_from_the_released_folder_to_the_papers_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract, run = documented()
    make_release(tmp_path / "imagenet19")
    tiny_towers.write_audioclip(tmp_path / "WEIGHTS")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / CONFIG).write_text((ROOT / CONFIG).read_text())
    # Sizes that tiny towers read; everything else is as documented.
    main(shlex.split(extract.replace("raw: {}", f"raw: {{size: {tiny_towers.SIZE}, seconds: 0.1}}"))[1:])
    main([*shlex.split(run)[1:], "--seeds", "0", "--options.bottleneck", "4", "--training.device", "cpu"])
    (folder,) = (tmp_path / "runs").iterdir()
    result = RunFolder(folder).result()
    assert result["task_sizes"] == list(BENCHMARKS["imagenet19_3-6"].task_sizes)
    assert result["class_names"] == list(BENCHMARKS["imagenet19_3-6"].class_order)
    assert result["released"].keys() == {"metric1", "metric2"}
    assert set(result["shuffle_drop"]) == {"audio", "visual"}
    predictions = pl.read_parquet(folder / "predictions.parquet")
    last = predictions.filter(pl.col("after_task") == 2)
    assert len(last.filter(pl.col("inputs") == "audio-visual")) == 19 * COUNTS["test"]
    learner = Learner.load(folder / "learner")
    assert len(learner.class_names) == 19
    # The backbone stays in its own file.
    tensors, _ = read_tensors(folder / "learner" / "learner.safetensors", "learner")
    of_towers = {name for name in tensors if name.startswith("network.towers.")}
    assert of_towers == {f"network.towers.{name}._extra_state" for name in ("audio", "visual", "text")}


@pytest.mark.parametrize("split", ["imagenet19", "imagenet27", "classroom33"])
def test_the_configuration_lists_the_papers_splits_as_they_are(split: str) -> None:
    rows = re.findall(r"^#\s+(\S+)\s+(\[.*?\])\s+\S+", (ROOT / CONFIG).read_text(), re.M)
    listed = {name: yaml.safe_load(sizes) for name, sizes in rows if name.startswith(split)}
    assert len(listed) == 2
    assert listed == {name: list(BENCHMARKS[name].task_sizes) for name in listed}
