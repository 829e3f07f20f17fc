"""``mcil bench``: suites, presets, what is written, and what happens to runs that fail or are stopped."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import yaml
from rich.console import Console
from torch import Tensor

import tiny
from command import call, refusal
from mcil.data.benchmarks import BENCHMARKS
from mcil.data.store import FeatureStore
from mcil.errors import McilError
from mcil.experiment import Experiment, Failure, Run, attempt_all
from mcil.experiment.folder import RunFolder
from mcil.experiment.progress import ComparisonProgress
from mcil.methods import METHODS
from mcil.methods.fine_tuning import FineTuning
from mcil.report.blocks import Cell, Table
from mcil.report.latex import latex_table
from mcil.report.reported import LABEL, benchmark_of_runs, reported
from mcil.suites import SUITES, Settings
from mcil.types import Step
from unlucky import Killed, Unlucky

ROOT = Path(__file__).parent.parent
SHORT = "--tasks 3 --memory 12 --training.epochs 1 --training.batch_size 6 --training.exemplar_batch_size 4"
LINE = f"{SHORT} --data store --seeds 0..1 --methods fine-tuning,lwf,oracle"
PRESETS = ("ave-ci", "k-s-ci", "vs100-ci")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("suites")
    tiny.make_store(path / "store")
    before = Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)


@pytest.fixture(scope="module")
def table1(folder: Path) -> Path:
    said = call(f"bench table1 {LINE}")
    assert said.code == 0, said
    assert "Every method: store" in said.out
    assert "oracle, seed 1: mean accuracy" in said.err
    assert "(6 of 6 runs)" in said.err
    return folder / "bench" / "table1"


def settings(store: Path = Path("store"), **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "store": store,
        "tasks": 3,
        "memory": 12,
        "memory_sizes": [6, 12],
        "modality": "audio-visual",
        "class_order": None,
        "class_seed": None,
        "missing": "error",
        "normalize": "first-task",
        "training": tiny.TRAINING,
        "methods": ["fine-tuning", "av-cil", "oracle"],
        "per_method": {},
    }
    return Settings(**values | changes)


def written(folder: Path) -> dict[str, int]:
    """When the results of the runs were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


def balanced(text: str) -> bool:
    """Whether braces and environments are closed, and every row of the table has as many cells."""
    plain = re.sub(r"\\[&%$#_{}]|%.*", "", text)
    depth = 0
    for character in plain:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end){(\w+)}", plain):
        if kind == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            return False
    body = plain.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    cells = {line.count("&") for line in body.splitlines() if line.endswith(r"\\")}
    return depth == 0 and not opened and len(cells) == 1 and plain.count("$") % 2 == 0


@pytest.mark.parametrize(("classes", "sizes"), [(3, [3]), (6, [2, 2, 2]), (12, [3, 3, 2, 2, 2])])
def test_without_tasks_there_are_five_or_as_many_as_have_two_classes(
    classes: int, sizes: list[int], tmp_path: Path
) -> None:
    labels = [f"class {number % classes:02d}" for number in range(4 * classes)]
    audio = np.random.default_rng(0).normal(size=(len(labels), 3)).astype(np.float32)
    splits = [("train", "train", "val", "test")[number // classes] for number in range(len(labels))]
    FeatureStore.write(tmp_path / "store", labels=labels, splits=splits, audio=audio)
    line = f"--data {tmp_path}/store --out {tmp_path}/bench --methods ncm --seeds 0 --modality audio"
    said = call(f"bench table1 {line}")
    assert said.code == 0, said
    (result,) = (json.loads(path.read_text()) for path in (tmp_path / "bench").glob("runs/*/result.json"))
    assert result["task_sizes"] == sizes


def test_the_table_is_that_of_the_runs(table1: Path) -> None:
    results = [json.loads(path.read_text()) for path in table1.parent.glob("runs/*/result.json")]
    table = pl.read_csv(table1 / "table.csv")
    assert table["label"].to_list() == ["fine-tuning", "lwf", "oracle"]
    assert table["seeds"].to_list() == [2, 2, 2]
    assert table["failed"].to_list() == [0, 0, 0]
    markdown = (table1 / "table.md").read_text()
    for row in table.iter_rows(named=True):
        own = [result for result in results if result["method"] == row["method"]]
        for key in ("mean_accuracy", "average_forgetting", "last_accuracy"):
            values = [result[key] for result in own]
            assert row[key] == pytest.approx(np.mean(values), abs=1e-4)
            assert row[f"{key}_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
            assert f"{np.mean(values) + 0.0:.1f} ± {np.std(values, ddof=1):.1f}" in markdown.replace("-0.0", "0.0")
        for step in range(3):
            assert row[f"step_{step + 1}"] == pytest.approx(np.mean([r["step_accuracy"][step] for r in own]), abs=1e-4)


def test_the_csv_has_the_columns_that_are_documented(table1: Path) -> None:
    figures = ["mean_accuracy", "average_forgetting", "final_forgetting", "backward_transfer", "last_accuracy"]
    figures += ["step_1", "step_2", "step_3"]
    first = ["label", "method", "modality", "memory", "protocol", "seeds", "failed"]
    with_spread = [name for figure in figures for name in (figure, f"{figure}_std")]
    assert pl.read_csv(table1 / "table.csv").columns == first + with_spread


def test_a_p_value_has_its_test_its_n_and_both_names(table1: Path) -> None:
    tests = pl.read_csv(table1 / "tables" / "significance.csv")
    assert set(tests["first"]) | set(tests["second"]) == {"fine-tuning", "lwf"}  # the oracle is no competitor
    assert tests["n"].to_list() == [2, 6 * tiny.COUNTS["test"]]
    for name in ("table.md", "table.tex"):
        lines = [line for line in (table1 / name).read_text().splitlines() if re.search(r"p (=|<|\$<\$) ", line)]
        assert lines
        for line in lines:
            assert "fine-tuning" in line
            assert "lwf" in line
            assert "n = " in line
            assert "t-test over seeds" in line or "permutation test over test clips" in line


def test_latex_is_whole(table1: Path) -> None:
    assert balanced((table1 / "table.tex").read_text())
    nasty = r"a_b & 50% of $x$ {y} #1 ~ ^ \ ± <"
    table = Table("t", nasty, ["Method", nasty], [[Cell(nasty), Cell(nasty, best=True)]], pl.DataFrame())
    text = latex_table(table, [nasty])
    assert balanced(text)
    escaped = r"a\_b \& 50\% of \$x\$ \{y\} \#1 \textasciitilde{} \textasciicircum{} \textbackslash{} $\pm$ $<$"
    assert text.count(escaped) == 4
    assert r"\shortstack[r]{a\_b \& 50\% of \\ \$x\$ \{y\} \#1" in text  # a long heading is broken
    assert rf"\textbf{{{escaped}}}" in text


def test_nothing_is_run_twice_and_suites_share_runs(table1: Path) -> None:
    before = written(table1.parent)
    assert len(before) == 6
    first = (table1 / "table.csv").read_bytes()
    shutil.rmtree(table1)
    assert call(f"bench table1 {LINE}").code == 0
    assert (table1 / "table.csv").read_bytes() == first
    assert call(f"bench steps {LINE}").code == 0
    assert written(table1.parent) == before
    steps = (table1.parent / "steps" / "table.md").read_text()
    assert "| After task 1 | After task 2 | After task 3 |" in steps


def test_tables_with_a_column_for_each_modality_or_memory(folder: Path, table1: Path) -> None:
    line = f"{SHORT} --data store --seeds 0 --methods fine-tuning,er,oracle"
    said = call(f"bench table2 {line}")
    assert said.code == 0, said
    markdown = (folder / "bench/table2/table.md").read_text()
    assert "| Method | Audio | Visual | Audio-visual |" in markdown
    assert "t-test" not in markdown  # with one seed there is none
    assert len(pl.read_csv(folder / "bench/table2/table.csv")) == 9
    said = call(f"bench memory {line} --memory_sizes [6,9]")
    assert said.code == 0, said
    assert "| Method | Memory 6 | Memory 9 |" in (folder / "bench/memory/table.md").read_text()
    assert pl.read_csv(folder / "bench/memory/table.csv")["label"].to_list() == ["er", "er"]
    assert (folder / "bench/memory/figures/accuracy-by-memory.svg").exists()


@dataclasses.dataclass(frozen=True)
class Broken(FineTuning):
    """Fails in its second task."""

    source: ClassVar[str] = "nowhere"

    def losses(self, step: Step) -> dict[str, Tensor]:
        if step.old_classes:
            raise RuntimeError("the second task\nis too much")
        return super().losses(step)


@pytest.fixture
def broken() -> Iterator[None]:
    METHODS.register("broken")(Broken)
    yield
    del METHODS._items["broken"]


def test_a_method_that_fails_does_not_stop_the_others(folder: Path, table1: Path, broken: None) -> None:
    line = f"bench table1 {SHORT} --data store --seeds 0..1 --methods broken,fine-tuning,lwf --out failing"
    said = call(line)
    assert said.code == 1
    lines = [line for line in said.err.splitlines() if line.startswith("mcil: failed: ")]
    assert len(lines) == 2
    assert lines[0].startswith("mcil: failed: broken, seed 0: RuntimeError: the second task is too much (see failing/")
    (trace, _) = sorted(Path("failing").glob("runs/broken-*/error.txt"))
    assert "Traceback" in trace.read_text()
    out = folder / "failing" / "table1"
    markdown = (out / "table.md").read_text()
    assert "| broken | failed | failed | failed | 0, 2 failed |" in markdown
    assert "**" not in markdown  # not the same seeds for all
    assert "Failed: broken, seed 1: RuntimeError" in markdown
    assert balanced((out / "table.tex").read_text())
    table = pl.read_csv(out / "table.csv")
    assert table["failed"].to_list() == [2, 0, 0]
    assert table["mean_accuracy"].null_count() == 1
    assert "Runs that failed" in (out / "report.md").read_text()
    before = written(folder / "failing")
    assert call(line).code == 1
    assert written(folder / "failing") == before


def test_a_run_that_another_process_works_on_fails_alone_and_is_run_later(folder: Path, table1: Path) -> None:
    runs = folder / "bench" / "runs"
    held = next(path for path in sorted(runs.iterdir()) if path.name.startswith("lwf-audio-visual-seed1"))
    (held / "result.json").unlink()
    with RunFolder(held).locked():
        said = call(f"bench table1 {LINE} --jobs 2")
    assert said.code == 1
    assert "lwf, seed 1: " in said.err
    assert "another process is working on this run" in said.err
    assert "1, 1 failed" in (table1 / "table.md").read_text()
    before = written(folder / "bench")
    assert call(f"bench table1 {LINE}").code == 0
    after = written(folder / "bench")
    assert set(after) - set(before) == {held.name}
    assert {name: after[name] for name in before} == before


def test_a_killed_process_and_an_error_in_one_are_failures_of_their_runs_only(folder: Path) -> None:
    fields = dataclasses.asdict(tiny.experiment(Path("store"), method="fine-tuning", training=tiny.TRAINING))
    del fields["_opened"]
    fields["training"] = dataclasses.replace(tiny.TRAINING, epochs=1)
    kinds: list[type[Experiment]] = [Experiment, Killed, Unlucky, Experiment, Experiment]
    experiments = [kind(**fields | {"seed": seed}) for seed, kind in enumerate(kinds)]
    ends = attempt_all(experiments, ["row"] * 5, folder / "killed", jobs=2)
    assert [type(end) for end in ends] == [Run, Failure, Failure, Run, Run]
    killed, unlucky = ends[1], ends[2]
    assert isinstance(killed, Failure)
    assert "its process was killed" in killed.reason
    assert isinstance(unlucky, Failure)
    assert "RuntimeError: it is not to be second line" in unlucky.reason


def test_where_nothing_can_begin_the_first_reason_is_raised(folder: Path) -> None:
    wrong = tiny.experiment(Path("store"), memory=3)
    with pytest.raises(McilError, match="memory of 3 clips"):
        attempt_all([wrong, wrong], ["row"] * 2, folder / "none")
    assert not (folder / "none").exists()


def test_ctrl_c_saves_and_the_same_command_goes_on(folder: Path, table1: Path) -> None:
    """In a process of its own, at a moment when one run has ended and others are under way."""
    line = f"bench table1 {LINE} --out stopped --jobs 2 --training.epochs 80 --training.checkpoint_seconds 0.1"
    started = subprocess.Popen(
        [sys.executable, "-m", "mcil", *line.split()], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert started.stderr is not None
    first = started.stderr.readline()
    started.send_signal(signal.SIGINT)
    rest = started.stderr.read()
    assert started.wait(120) == 130, first + rest
    assert "what is done is kept" in rest
    assert not (folder / "stopped" / "table1").exists()
    before = written(folder / "stopped")
    assert 1 <= len(before) < 6
    assert call(f"{line} --training.epochs 80").code == 0
    after = written(folder / "stopped")
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def benchmark_store(path: Path) -> FeatureStore:
    """A store of the classes of AVE-CI, with two clips of each class in each split."""
    names = list(BENCHMARKS["AVE-CI"].class_order)
    labels = [name for name in names for _ in range(6)]
    splits = ["train", "train", "val", "val", "test", "test"] * len(names)
    random = np.random.default_rng(0)
    audio = random.normal(size=(len(labels), 4)).astype(np.float32)
    visual = random.normal(size=(len(labels), 1, 2, 4)).astype(np.float32)
    return FeatureStore.write(path, labels=labels, splits=splits, audio=audio, visual=visual)


def test_reported_numbers_stand_apart_and_only_where_the_data_is_the_benchmark(folder: Path) -> None:
    benchmark_store(folder / "ave")
    line = "bench table1 --data ave --seeds 0 --methods fine-tuning,er,oracle --memory 56 --training.epochs 1"
    line += " --training.batch_size 7 --out ave-bench"
    assert call(f"{line} --class_order AVE-CI").code == 0
    title = f"| Seeds | {LABEL} |"
    shown = Path("ave-bench/table1/table.md").read_text()
    assert title in shown
    rows = {row.split(" | ")[0][2:]: row for row in shown.splitlines() if row.startswith("| ")}
    assert rows["fine-tuning"].endswith("| 42.40 / 70.99 |")
    assert rows["er"].endswith("| - |")
    assert rows["oracle"].endswith("| 76.85 / - |")
    table = pl.read_csv("ave-bench/table1/table.csv")
    assert table[f"mean_accuracy {LABEL}"].to_list() == [42.40, None, 76.85]
    assert balanced(Path("ave-bench/table1/table.tex").read_text())
    for other in ("--tasks 4", "--class_order AVE-CI --tasks 7"):
        assert call(f"{line} {other}").code == 0
        for file in ("table.md", "table.tex", "table.csv", "report.html"):
            assert "not ours" not in Path("ave-bench/table1", file).read_text()
    table2 = line.replace("table1", "table2")
    assert call(f"{table2} --class_order AVE-CI").code == 0
    shown = Path("ave-bench/table2/table.md").read_text()
    assert f"| Audio | Visual | Audio-visual | {LABEL} |" in shown
    assert "mean accuracy by modality, as the paper prints them" in shown
    assert "| 38.41 / 35.68 / 42.40 |" in shown
    assert "| - / - / - |" in shown


def test_reported_numbers_are_the_papers() -> None:
    for name, benchmark in BENCHMARKS.items():
        sizes = benchmark.task_sizes
        assert benchmark_of_runs(benchmark.class_order, sizes) == name
        assert benchmark_of_runs(benchmark.class_order[::-1], sizes) is None
        assert benchmark_of_runs(benchmark.class_order, [sum(sizes)]) is None
    assert reported("VS100-CI", "av-cil", "audio-visual") == (72.80, 5.49)
    assert reported("K-S-CI", "oracle", "visual") == (71.94, None)
    assert reported("AVE-CI", "I + VAD", "audio-visual") == (72.35, None)
    assert reported("imagenet19_3-6", "av-cil", "audio-visual") is None
    assert reported("K-S-CI", "I + VAD", "audio-visual") is None
    assert reported("AVE-CI", "av-cil", "audio") is None


def test_the_ablation_has_every_subset_and_no_experiment_twice(folder: Path) -> None:
    experiments = SUITES["table3"].experiments(settings())
    labels = [experiment.label for experiment in experiments]
    assert [label for label in labels if reported("AVE-CI", label, "audio-visual")] == labels[:8]
    names = {dataclasses.replace(experiment, label="av-cil").name for experiment in experiments}
    assert len(names) == len(experiments) == 11
    weights = ("instance_weight", "class_weight", "attention_weight")
    parts = {
        experiment.label: [experiment.config()["options"][weight] for weight in weights] for experiment in experiments
    }
    assert parts["none"] == [0, 0, 0]
    assert parts["I + VAD"] == [0.5, 0, 1]
    assert parts["all"] == [0.5, 1, 1]


def test_every_suite_makes_experiments_and_says_what_it_is(folder: Path) -> None:
    for name in SUITES.names():
        found = SUITES[name].experiments(settings(methods=METHODS.names()))
        assert found
        assert all(experiment.seed == 0 for experiment in found)
        assert SUITES[name].summary.endswith(".")
    with_memory = {experiment.method for experiment in SUITES["memory"].experiments(settings(methods=METHODS.names()))}
    assert with_memory == {name for name in METHODS.names() if METHODS[name].uses_memory}


def test_by_default_the_methods_are_those_that_can_learn_from_the_store(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that is added later brings those that read it; what needs weights runs only where it is named."""
    wide = "{ranpac: {options: {width: 32}}, acil: {options: {width: 32}}, acil-av: {options: {width: 32}}}"
    command = f"bench table1 {SHORT} --data store --seeds 0 --per_method '{wide}'"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "store", "store", ignore=shutil.ignore_patterns("text.safetensors"))
    plain = [name for name in METHODS.names() if not METHODS[name].uses_text]
    reading = [name for name in METHODS.names() if METHODS[name].uses_text and not METHODS[name].needs_weights]
    for expected in (plain, [*plain, *reading]):
        said = call(command)
        assert said.code == 0, said
        table = pl.read_csv("bench/table1/table.csv")
        assert sorted(table["label"]) == sorted(expected)
        assert table["label"][-1] == "oracle"
        assert set(table["failed"]) == {0}
        shutil.copy(folder / "store" / "text.safetensors", "store")


def test_settings_of_single_methods() -> None:
    own = {
        "av-cil": {"epochs": {"audio": 7, "audio-visual": 9}, "options": {"temperature": 0.1}, "learning_rate": 0.5},
        "lwf": {"options": {"audio": {"distillation_temperature": 3.0}}},
    }
    chosen = settings(per_method=own)
    assert chosen.experiment("av-cil").training == dataclasses.replace(tiny.TRAINING, epochs=9, learning_rate=0.5)
    assert chosen.experiment("av-cil", modality="audio").training.epochs == 7
    assert chosen.experiment("av-cil", modality="visual").training.epochs == tiny.TRAINING.epochs
    both = chosen.experiment("av-cil", "x", options={"class_weight": 0.0})
    assert both.options == {"temperature": 0.1, "class_weight": 0.0}
    assert chosen.experiment("lwf").options == {}
    assert chosen.experiment("lwf", modality="audio").options == {"distillation_temperature": 3.0}
    assert chosen.experiment("fine-tuning").training == tiny.TRAINING


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"lwff": {}}, "per_method: lwff: there is no such method. Did you mean 'lwf'?"),
        ({"lwf": {"epoch": 3}}, "per_method: lwf: there is no option 'epoch'. Did you mean 'epochs'?"),
        ({"lwf": {"epochs": {"audio": 3, "sound": 1}}}, "per_method: lwf: epochs: there is no modality 'sound'"),
        ({"lwf": {"epochs": "many"}}, "per_method: lwf: training: epochs must be of type int, but it is 'many'"),
        ({"lwf": {"epochs": {"audio": 0}}}, "per_method: lwf: training: epochs must be 1 or more"),
        ({"av-cil": {"options": {"temprature": 1}}}, "has no option 'temprature'. Did you mean 'temperature'?"),
        ({"av-cil": {"options": 3}}, "per_method: av-cil: options must be a mapping of options to values, not 3"),
        ({"lwf": 3}, "per_method: lwf: it must be a mapping of options to values, not 3"),
    ],
)
def test_what_is_misspelt_in_per_method_is_one_line(own: dict[str, Any], words: str) -> None:
    with pytest.raises(McilError) as error:
        settings(per_method=own)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_mistakes_are_one_line_and_leave_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "store", tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("tasks: 3\nper_method: {lwff: {epochs: 3}}\n")
    Path("d.yaml").write_text("tasks: 3\nper_methods: {lwf: {epochs: 3}}\n")
    line = f"bench table1 {SHORT}"
    assert "there is no suite 'tabel1'. Did you mean 'table1'?" in refusal(f"bench tabel1 {SHORT}")
    assert "there is no method 'avcil'. Did you mean 'av-cil'?" in refusal(f"{line} --methods avcil,lwf")
    assert "each only once" in refusal(f"{line} --methods lwf,lwf")
    assert "each size is compared only once" in refusal(f"{line} --memory_sizes [6,6]")
    assert "memory -1 and memory_sizes" in refusal(f"{line} --memory -1")
    assert "there is no class order 'AVE'. Did you mean 'AVE-CI'?" in refusal(f"{line} --class_order AVE")
    assert "there is no such method. Did you mean 'lwf'?" in refusal("bench table1 --config c.yaml")
    assert "per_methods" in refusal("bench table1 --config d.yaml")
    assert "compares none of the methods lwf" in refusal(f"bench memory {SHORT} --methods lwf")
    assert "no feature store here" in refusal(f"{line} --data nowhere")
    assert "add up to 3" in refusal(f"{line} --tasks [1,2]")
    assert "cannot read the seeds" in refusal(f"{line} --seeds a")
    assert "jobs must be 1 or more" in refusal(f"{line} --jobs 0")


@pytest.mark.parametrize("name", [f"{preset}{small}" for preset in PRESETS for small in ("", "-small")])
def test_presets_are_the_papers_settings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = call(f"bench table1 --config {ROOT / 'configs' / f'{name}.yaml'} --data s --print_config")
    assert said.code == 0, said
    preset = yaml.safe_load(said.out)
    benchmark = BENCHMARKS[preset["class_order"]]
    assert name.removesuffix("-small") == benchmark.name.lower()
    assert (preset["tasks"], preset["memory"]) == (len(benchmark.task_sizes), benchmark.memory)
    assert (preset["normalize"], preset["training"]["protocol"]) == ("none", "published")
    training = dataclasses.replace(tiny.TRAINING, **preset["training"])
    chosen = settings(training=training, per_method=preset["per_method"], class_order=preset["class_order"])
    assert set(preset["per_method"]) <= set(METHODS.names())
    weight = 0.5 if benchmark.name == "AVE-CI" else 0.1
    av_cil = chosen.experiment("av-cil")
    assert av_cil.options["instance_weight"] == weight
    assert av_cil.options["class_weight"] == 1.0
    assert chosen.experiment("icarl-fc").options == {"distillation": "double"}
    cut = 10 if name.endswith("-small") else 1
    assert av_cil.training.epochs == 200 // cut
    lwf = {"AVE-CI": (300, 200, 200), "K-S-CI": (200, 200, 100), "VS100-CI": (300, 200, 200)}[benchmark.name]
    oracle = {"AVE-CI": (300, 200, 150), "K-S-CI": (200, 100, 100), "VS100-CI": (300, 200, 200)}[benchmark.name]
    for method, epochs in (("lwf", lwf), ("oracle", oracle)):
        for modality, expected in zip(("audio", "visual", "audio-visual"), epochs, strict=True):
            found = chosen.experiment(method, modality=modality).training  # type: ignore[arg-type]
            assert found.epochs == expected // cut
    if cut == 1:
        assert (training.batch_size, training.exemplar_batch_size) == (256, 128)
        assert (training.learning_rate, training.weight_decay) == (0.001, 0.0001)


def test_a_small_preset_runs(folder: Path) -> None:
    if not (folder / "ave").exists():
        benchmark_store(folder / "ave")
    line = f"bench table1 --config {ROOT / 'configs' / 'ave-ci-small.yaml'} --data ave --methods fine-tuning,av-cil"
    said = call(f"{line} --seeds 0 --per_method null --training.epochs 1 --training.batch_size 7 --out small")
    assert said.code == 0, said
    (run,) = Path("small/runs").glob("av-cil-*")
    result = RunFolder(run).result()
    assert (result["protocol"], result["memory"], len(result["task_sizes"])) == ("published", 340, 4)
    assert result["class_names"] == list(BENCHMARKS["AVE-CI"].class_order)


def test_the_live_table_counts_seeds_and_guesses_the_time(folder: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    training = dataclasses.replace(tiny.TRAINING, epochs=10)
    experiments = [tiny.experiment(Path("store"), seed=seed, training=training) for seed in range(4)]
    progress = ComparisonProgress(2, console)
    for number, experiment in enumerate(experiments):
        progress.add("first" if number < 2 else "second", str(number), experiment)

    def shown() -> list[str]:
        plain = Console(file=io.StringIO(), width=100, record=True)
        plain.print(progress.table())
        return plain.export_text().splitlines()

    def row(title: str) -> list[str]:
        return next(line for line in shown() if line.strip().startswith(title)).split()

    assert row("first") == ["first", "0/2", "…"]
    for epoch in range(10):
        progress.show(("0", {"event": "epoch", "task": 0, "epoch": epoch, "seconds": 2.0, "loss": 1.0}))
    # A task takes 20 s: 5 of 6 are left of the first row, 6 of the second; two runs go on at a time.
    assert row("first") == ["first", "0/2", "1", "1:40"]
    assert row("second") == ["second", "0/2", "2:00"]
    assert any("time left: about 1:50" in line for line in shown())
    progress.end("0", Run(folder, {"mean_accuracy": 50.0}))
    assert row("first") == ["first", "1/2", "50.0", "1:00"]
    progress.end("1", Failure(experiments[1], "no luck"))
    assert row("first") == ["first", "1/2", "1", "50.0"]
    progress.end("2", Run(folder, {"mean_accuracy": 50.0}))
    progress.end("3", Run(folder, {"mean_accuracy": 60.0}))
    assert row("second") == ["second", "2/2", "55.0", "±", "7.1"]
    assert any("time left: about 0:00" in line for line in shown())


def test_the_live_table_fits_the_terminal_with_what_is_under_way(folder: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=12)
    progress = ComparisonProgress(1, console)
    for number in range(30):
        progress.add(f"row {number:02d}", str(number), tiny.experiment(Path("store"), seed=number))
    progress.show(("29", {"event": "task", "task": 0, "seconds": 2.0}))
    with progress:
        pass
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "row 29" in text
    assert "and 25 more rows" in text
