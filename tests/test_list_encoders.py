"""What ``mcil encoders`` says, as people and as programs read it, and the page about encoders."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from command import call, refusal
from mcil.encoders import ENCODERS, FACTS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "encoders.md").read_text()


def test_the_json_has_every_encoder_and_what_it_reads() -> None:
    said = call("encoders --json")
    assert said.code == 0, said
    listed = json.loads(said.out)
    assert sorted({row["name"] for row in listed}) == ENCODERS.names()
    assert len(listed) == sum(map(len, FACTS.values()))
    for row in listed:
        (facts,) = [each for each in FACTS[row["name"]] if each.modality == row["reads"]]
        assert row["licence"]
        assert row["parameters"] == facts.parameters
        assert row["weights"] == facts.weights
        if facts.shape is not None:
            assert (row["width"], row["tokens"]) == (facts.shape[-1], math.prod(facts.shape[:-1]))
    of = {(row["name"], row["reads"]): row for row in listed}
    assert of["videomae", "visual"]["tokens"] == 1568
    assert of["builtin", "audio"]["here"] == "none needed"
    assert of["hf", "audio"]["here"] is None


def test_the_table_names_every_encoder_and_its_weights() -> None:
    said = call("encoders")
    assert said.code == 0, said
    assert all(name in said.out for name in ENCODERS.names())
    assert all(facts.weights in said.out for each in FACTS.values() for facts in each if facts.weights)
    assert "json" in refusal("encoders --jason")


def test_it_tells_what_is_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def here() -> str:
        rows = json.loads(call("encoders --json").out)
        (found,) = [row["here"] for row in rows if row["name"] == "dinov2"]
        return str(found)

    assert here() == "no"
    model = tmp_path / "models--facebook--dinov2-base"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    (model / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert here() == "yes"


def test_the_page_has_a_section_for_every_encoder_and_names_its_default_weights() -> None:
    for name, facts in FACTS.items():
        assert f"\n## {name}" in PAGE or f"\n### {name}" in PAGE
        assert all(each.weights in PAGE for each in facts if each.weights)


def test_the_example_encoder_stands_in_the_page_and_fills_a_store(tmp_path: Path) -> None:
    """In a process of its own: what is registered stays registered."""
    example = (ROOT / "docs" / "examples" / "my_encoder.py").read_text()
    section = PAGE.partition("## Add an encoder\n")[2].partition("\n## ")[0]
    shown, use = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    assert shown == example
    (tmp_path / "clips" / "cat").mkdir(parents=True)
    script = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "for number in range(4):\n"
        "    picture = np.full((9, 12, 3), 60 * number, np.uint8)\n"
        "    Image.fromarray(picture).save(f'clips/cat/{number}.png')\n"
        "rows = [f'{n},cat,train,clips/cat/{n}.png' for n in range(4)]\n"
        "Path('manifest.csv').write_text('\\n'.join(['id,label,split,image', *rows]))\n"
        f"{use}"
        "values = store.read('visual', list(range(4)))\n"
        "assert values.shape == (4, 4, 64, 3), values.shape\n"
        "for number in range(4):\n"
        "    assert (values[number].float() + 1 - 120 * number / 255).abs().max() < 1e-3\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "docs" / "examples"), str(ROOT / "src")])}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
