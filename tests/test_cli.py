"""The command line where all goes right."""

import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

import tiny
from command import call

TRAINING = "--memory 12 --training.epochs 1 --training.batch_size 6"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_store(tmp_path_factory.mktemp("cli") / "store").path


@pytest.fixture
def store(made_store: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made_store, folder / "store"))


def succeeds(line: str) -> str:
    """Run a command that can be done and return what it prints."""
    said = call(line)
    assert said.code == 0, said
    return said.out


def result_of(folder: str) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*/result.json"))]


def test_from_clips_to_a_report() -> None:
    assert "wrote made/manifest.csv" in succeeds(
        "data make made --classes 3 --clips 4 --seconds 0.5 --size 32 --jobs 1"
    )
    assert "12 clips (6 train, 3 val, 3 test) of 3 classes" in succeeds("data check made/manifest.csv --jobs 1")
    made = succeeds("extract made/manifest.csv --out s --encoders '{builtin: {frames: 2, grid: 2}}' --jobs 1")
    assert "s: 12 clips, {'audio': (279,), 'visual': (2, 4, 111)}" in made
    ran = succeeds("run s 3 --method fine-tuning --seeds 0..1 --training.epochs 1 --training.batch_size 2")
    assert ran.count("run: runs/fine-tuning-audio-visual-seed") == 2
    told = succeeds("report runs --out out")
    assert "fine-tuning" in told
    assert "report: out/report.html" in told
    assert {"report.html", "report.md", "tables", "figures"} <= {path.name for path in Path("out").iterdir()}


def test_a_configuration_with_overrides(store: Path) -> None:
    Path("c.yaml").write_text("store: store\ntasks: [3, 2, 1]\nmemory: 12\ntraining: {epochs: 1, batch_size: 6}\n")
    line = "run --config c.yaml --training.epochs=2 --options.attention_weight 0 --seeds 0..1 --out runs"
    printed = succeeds(f"{line} --print_config")
    chosen = yaml.safe_load(printed)
    assert chosen["training"]["epochs"] == 2
    assert chosen["training"]["batch_size"] == 6
    assert chosen["options"] == {"attention_weight": 0}
    assert chosen["seeds"] == "0..1"
    assert not Path("runs").exists()
    Path("printed.yaml").write_text(printed)
    first = succeeds("run --config printed.yaml")
    assert [result["seed"] for result in result_of("runs")] == [0, 1]
    assert succeeds(line) == first  # the same runs, which are finished
    assert len(result_of("runs")) == 2


def test_reports_of_some_runs_and_of_a_folder_of_runs(store: Path) -> None:
    succeeds(f"run store 3 --method fine-tuning {TRAINING}")
    succeeds(f"run store 3 --method oracle {TRAINING}")
    one, two = sorted(str(path) for path in Path("runs").iterdir())
    both = succeeds("report runs --out x")
    assert "fine-tuning" in both
    assert "oracle" in both
    for line in (f"report {one} {two} --out y", f"report --out=y {one} {two}", f"report --out y {one} {two}"):
        assert succeeds(line).replace("report: y", "report: x") == both
    assert "oracle" not in succeeds(f"report {one} --out z")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["demo", "data", "extract", "run", "report", "Learn a scenario with one method"]),
        ("demo", ["--epochs", "of training in each task"]),
        ("data", ["make", "import", "check"]),
        ("data make", ["out", "the folder to write into", "--seconds", "length of each clip"]),
        ("data import", ["arrays", "folder", "table"]),
        ("data import folder", ["root", "--fractions", "of train, val and test", "--source"]),
        ("data import table", ["file", "relative paths in it are relative to its folder"]),
        ("data import arrays", ["file", "nothing in it is unpickled", "--class_names"]),
        ("data check", ["path", "the manifest", "--jobs", "all cores by default"]),
        ("extract", ["manifest", "--encoders", "names with commas between them", "--max_failures"]),
        ("run", ["store", "feature store to learn from", "--seeds", "--training.epochs", "passes over the task's"]),
        ("report", ["RUNS ...", "run folders, or folders that hold run folders", "--out"]),
    ],
)
def test_help_names_every_argument(command: str, words: list[str]) -> None:
    said = " ".join(succeeds(f"{command} --help").split())
    for word in words:
        assert word in said


def test_what_mcil_logs_is_shown_plainly_and_once(store: Path) -> None:
    for _ in range(2):
        said = call("data import folder nowhere --out out.csv")
        assert said.err.count("\n") == 1
    for name in ("dog/1.wav", "cat/1.wav", "cat/notes.txt"):
        (path := Path("clips") / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    said = call("data import folder clips --out out.csv")
    assert said.code == 0
    assert said.err.splitlines() == [
        "clips: files left out: 1 .txt",
        "class 'cat' has one clip only: nothing of it is left for testing",
        "class 'dog' has one clip only: nothing of it is left for testing",
        "out.csv: 2 clips (2 train, 0 val, 0 test) of 2 classes; 2 with sound",
    ]
    assert not logging.getLogger("mcil").handlers


def test_other_libraries_say_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        said = call(f"run store 3 {TRAINING} --training.precision bfloat16")
    assert said.code == 0
    assert said.err.splitlines() == [f"av-cil seed 0: task {number} learnt" for number in (1, 2, 3)]


def test_the_module_is_the_command_and_workers_load_no_command(store: Path) -> None:
    """In a process of its own: ``python -m mcil``, and an error as a shell sees it."""
    command = [sys.executable, "-m", "mcil", "run", "store", "3", "--method", "orcale"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mcil: there is no method 'orcale'. Did you mean 'oracle'?")
    assert done.stderr.count("\n") == 1
    check = "import sys, mcil.__main__; sys.exit('torch' in sys.modules or 'jsonargparse' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


def test_options_may_be_written_with_dashes() -> None:
    said = call("extract m.csv --max-failures 3 --out=some-where --print_config")
    printed = yaml.safe_load(said.out)
    assert (printed["max_failures"], printed["out"]) == (3, "some-where")
