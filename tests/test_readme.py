"""What the pages say can be done: examples run, commands parse, options and defaults are those of the code."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from mcil import Learner, TrainingOptions
from mcil.cli import main
from mcil.cli.commands import COMMANDS
from mcil.experiment.folder import RunFolder
from mcil.methods import METHODS, create_method, describe_methods
from tests import tiny

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.yaml")])
README = (ROOT / "README.md").read_text()
CONFIGS = {"av-cil": "configs/av-cil.yaml", "sam-audio-cil": "configs/sam-audio-cil.yaml"}
METHOD_PAGES = ROOT / "docs" / "methods"


def commands(tree: Mapping[str, Any] = COMMANDS, name: str = "mcil") -> Iterator[tuple[str, Any]]:
    """Yield the full name and the function of every command."""
    for word, below in tree.items():
        if isinstance(below, Mapping):
            yield from commands(below, f"{name} {word}")
        elif word != "_help":
            yield f"{name} {word}", below


def options(command: Any) -> dict[str, Any]:
    """Return the options of a command with their defaults, as YAML reads them from the command line."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if isinstance(parameter.default, TrainingOptions):
            found |= {f"{name}.{field.name}": field.default for field in fields(parameter.default)}
        elif parameter.default is not inspect.Parameter.empty:
            value = parameter.default
            found[name] = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return found


def table(text: str) -> dict[str, Any]:
    """Return the first two columns of the option tables in ``text``."""
    return {name: yaml.safe_load(value) for name, value in re.findall(r"^\| `(?:--)?([\w.]+)` \| (.*?) \|", text, re.M)}


def method_rows() -> dict[str, tuple[str, ...]]:
    """Return the page of each method and the other cells of its row, from the table of methods."""
    rows = re.findall(r"^\| \[`(.+?)`\]\((.+?)\) \| (.*) \|$", (METHOD_PAGES / "README.md").read_text(), re.M)
    return {name: (page, *cells.split(" | ")) for name, page, cells in rows}


def calls() -> list[str]:
    """Return every call of mcil that stands in a page, with its arguments."""
    found = set()
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
            found |= set(re.findall(r"^(mcil .*)$", block, re.M))
        found |= set(re.findall(r"`(mcil [^`]+)`", text)) | set(re.findall(r"^#\s+(mcil .*)$", text, re.M))
    return sorted(call for call in found if call not in dict(commands()) and "COMMAND" not in call)


def parses(call: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Parse a call without doing anything, and return the settings that it would have."""
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(call.replace("--print_config", ""))[1:], "--print_config"])
    said = capsys.readouterr()
    assert stopped.value.code == 0, said.err
    return said.out


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(example.splitlines()) <= 12
    (store,) = re.findall(r'FeatureStore\("demo/(.*?)"\)', example)
    assert f'"{store}"' in inspect.getsource(sys.modules["mcil.demo"])
    tiny.make_store(tmp_path / "demo" / store)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" classes: ")[0] for line in lines] == ["2", "4", "5", "6"]
    assert len(Learner.load("learner").class_names) == tiny.CLASSES


@pytest.mark.parametrize("call", calls())
def test_commands_in_the_pages_parse(
    call: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    parses(call, capsys)


def test_the_way_from_clips_to_a_report_is_told_in_calls_that_fit_together(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (part for part in re.findall(r"^```\n(.*?)^```", README, re.M | re.S) if "mcil extract" in part)
    settings = [yaml.safe_load(parses(call, capsys)) for call in block.splitlines()]
    imported, checked, extracted, *runs, reported = settings
    assert imported["out"] == checked["path"] == extracted["manifest"]
    for run in runs:
        assert run["store"] == extracted["out"]
        assert run["method"] in METHODS.names()
        assert reported["runs"] == [run["out"]]


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_the_commands_page_has_every_command_with_its_options_and_defaults(name: str, command: Any) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (mcil .*)\n((?:(?!## ).*\n)*)", page, re.M))
    assert table(sections[name]) == options(command)


def test_the_commands_page_has_no_other_command() -> None:
    named = re.findall(r"^## (mcil .*)$", (ROOT / "docs" / "cli.md").read_text(), re.M)
    assert sorted(named) == sorted(name for name, _ in commands())


@pytest.mark.parametrize("name", METHODS.names())
def test_the_table_of_methods_says_what_each_is(name: str) -> None:
    method = METHODS[name]
    _, kind, memory, teacher, classifier, source = method_rows()[name]
    assert [kind] == [each["kind"] for each in describe_methods() if each["name"] == name]
    assert memory == ("yes" if method.uses_memory else "no")
    assert teacher == ("yes" if getattr(method, "uses_teacher", False) else "no")
    assert (classifier == "nearest mean of exemplars") == getattr(method, "nearest_mean", False)
    assert source == method.source


def test_the_table_of_methods_has_no_other_method() -> None:
    assert sorted(method_rows()) == METHODS.names()


@pytest.mark.parametrize("name", METHODS.names())
def test_the_page_of_a_method_has_every_option_and_default(name: str) -> None:
    page, *_ = method_rows()[name]
    defaults = {field.name: field.default for field in fields(create_method(name))}
    assert table((METHOD_PAGES / page).read_text()) == defaults


@pytest.mark.parametrize("config", CONFIGS.values())
def test_the_configuration_runs(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tiny.make_store(tmp_path / "store")
    monkeypatch.chdir(ROOT)
    changes = {"--out": tmp_path / "runs", "--seeds": 0, "--training.epochs": 1, "--training.device": "cpu"}
    arguments = [str(part) for change in changes.items() for part in change]
    main(["run", "--config", config, str(store.path), *arguments])
    (folder,) = (tmp_path / "runs").iterdir()
    assert RunFolder(folder).result()["task_sizes"] == [2, 2, 1, 1]


@pytest.mark.parametrize(("method", "path"), CONFIGS.items())
def test_the_configuration_spells_out_the_defaults(method: str, path: str) -> None:
    config = yaml.safe_load((ROOT / path).read_text())
    training = config.pop("training")
    assert config.pop("method") == method
    chosen = {name: default for name, default in options(COMMANDS["run"]).items() if name in config}
    assert {name: value for name, value in config.items() if chosen.get(name, value) != value} == {
        "options": config["options"],
        "seeds": "0..2",
    }
    # Equal parts of new clips and exemplars belong to the reconstruction.
    own = {"exemplar_batch_size": 256} if method == "sam-audio-cil" else {}
    assert TrainingOptions(**training) == TrainingOptions(**own)
    assert create_method(method, config["options"]) == create_method(method)
    assert config["options"].keys() == {field.name for field in fields(create_method(method))}


def test_the_layers_page_lists_the_layers_in_their_order() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = re.findall(r"^\| `(mcil\.\w+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    assert listed == [layer for layer in contract["layers"] if layer != "mcil.__main__"]


def test_the_demo_table_is_that_of_the_kept_results() -> None:
    shown = README.partition("<!-- demo: begin -->\n")[2].partition("<!-- demo: end -->")[0].splitlines()[2:]
    rows = pl.read_csv(ROOT / "results" / "demo" / "results.csv").iter_rows(named=True)
    keys = ("mean_accuracy", "average_forgetting", "last_accuracy")
    kept = [(row["method"], *(f"{row[key]:.1f} ± {row[f'{key}_std']:.1f}" for key in keys)) for row in rows]
    assert shown == [f"| {' | '.join(cells)} |" for cells in kept]


def test_what_one_modality_alone_reaches_is_that_of_the_kept_results() -> None:
    kept = json.loads((ROOT / "results" / "demo" / "probe.json").read_text())["linear_probe_test_accuracy"]
    said = ", ".join(f"{name} {kept[name]:.1f} %" for name in ("audio", "visual", "both"))
    assert f"({said})" in " ".join(README.split())


def between(page: str, marker: str) -> str:
    """Return what stands between ``<!-- marker: begin -->`` and ``<!-- marker: end -->``."""
    return page.partition(f"<!-- {marker}: begin -->\n")[2].partition(f"<!-- {marker}: end -->")[0]


def test_the_comparisons_are_those_of_the_kept_results() -> None:
    summary = (ROOT / "results" / "comparison" / "summary.md").read_text()
    page = (ROOT / "docs" / "comparison.md").read_text()
    assert between(page, "comparison") == summary
    assert between(README, "comparison") == summary.partition("\n\n")[0] + "\n"
    published = (ROOT / "results" / "published-runs" / "table.md").read_text()
    assert between(page, "published runs") == published


def test_the_trimodal_tables_are_those_of_the_kept_results() -> None:
    kept = ROOT / "results" / "trimodal"
    assert between((ROOT / "docs" / "trimodal.md").read_text(), "trimodal") == (kept / "summary.md").read_text()
    for table in sorted(kept.glob("*/*/table.csv")):
        rows = pl.read_csv(table)
        assert set(rows["seeds"]) == {3}, table
        assert set(rows["failed"]) == {0}, table
        runs = [json.loads(path.read_text()) for path in table.parent.parent.glob("runs/*/result.json")]
        found = {round(run["mean_accuracy"], 6) for run in runs}
        assert len(found) >= 2
        assert all(min(found) <= mean <= max(found) for mean in rows["mean_accuracy"])


def test_the_tables_of_sam_audio_are_those_of_the_kept_results() -> None:
    kept = ROOT / "results" / "sam-audio"
    assert between((ROOT / "docs" / "sam-audio.md").read_text(), "sam-audio") == (kept / "summary.md").read_text()
    tables = sorted(kept.glob("*/*/table.csv"))
    assert tables
    for table in tables:
        rows = pl.read_csv(table)
        assert set(rows["seeds"]) == {3}, table
        assert set(rows["failed"]) == {0}, table
        runs = [
            (json.loads(path.read_text()), yaml.safe_load((path.parent / "config.yaml").read_text())["options"])
            for path in table.parent.parent.glob("runs/*/result.json")
        ]
        if table.parent.name != "sam-audio":
            continue
        for row in rows.iter_rows(named=True):
            fusion, distilled = row["label"].split(", ")
            options = asdict(create_method("sam-audio-cil", {"fusion": fusion}))
            options |= {"feature_weight": 0.0} if distilled in ("none", "logit") else {}
            options |= {"logit_weight": 0.0} if distilled in ("none", "feature") else {}
            found = [result["mean_accuracy"] for result, own in runs if own == options]
            assert len(found) == 3, row["label"]
            assert sum(found) / 3 == pytest.approx(row["mean_accuracy"], abs=1e-3)
        assert (table.parent / "featured-mean-accuracy.svg").exists()


def test_pictures_in_the_page_of_sam_audio_are_there() -> None:
    page = (ROOT / "docs" / "sam-audio.md").read_text()
    pictures = re.findall(r"!\[[^\]]+\]\((.+?)\)", page)
    assert pictures
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


def test_the_scenes_tables_are_those_of_the_kept_results() -> None:
    kept = (ROOT / "results" / "scenes" / "summary.md").read_text()
    assert between((ROOT / "docs" / "scenes.md").read_text(), "scenes") == kept


def test_the_comparison_is_of_every_method_without_text_with_three_seeds() -> None:
    compared = [name for name in METHODS.names() if not METHODS[name].uses_text]
    for table in sorted((ROOT / "results" / "comparison").glob("*/table.csv")):
        kept = pl.read_csv(table)
        assert sorted(kept["label"]) == compared, table
        assert set(kept["seeds"]) == {3}, table
        assert set(kept["failed"]) == {0}, table
        runs = [json.loads(path.read_text()) for path in table.parent.glob("runs/*/result.json")]
        for row in kept.iter_rows(named=True):
            found = [run["mean_accuracy"] for run in runs if run["method"] == row["label"]]
            assert len(found) == 3
            assert sum(found) / 3 == pytest.approx(row["mean_accuracy"], abs=1e-3)


def test_the_shares_of_new_and_old_classes_are_those_of_the_kept_results() -> None:
    page = (METHOD_PAGES / "av-cil.md").read_text()
    rows = page.partition("<!-- new and old: begin -->\n")[2].partition("<!-- new and old: end -->")[0].splitlines()[2:]
    for row in rows:
        (name,) = re.findall(r"`(.*?)`", row)
        kept = pl.read_csv(ROOT / "results" / "real-data" / name / "new-and-old.csv")
        kept = kept.filter(pl.col("modality") == "audio-visual", pl.col("method").is_in(["av-cil", "oracle"]))
        cells = [
            f"{share[key]:.1f} ± {share[f'{key}_std']:.1f}"
            for key in ("new", "new_as_old")
            for share in kept.sort("method").iter_rows(named=True)
        ]
        assert row.endswith(f"| {' | '.join(cells)} |")


def test_the_readme_leads_to_every_page() -> None:
    for page in [*ROOT.glob("docs/*.md"), METHOD_PAGES / "README.md"]:
        assert f"]({page.relative_to(ROOT).as_posix()})" in README, page.name


def test_the_table_of_methods_leads_to_every_page_of_a_method() -> None:
    pages = {page.name for page in METHOD_PAGES.glob("*.md")} - {"README.md"}
    assert pages == {page for page, *_ in method_rows().values()}


def test_the_readme_names_every_method_that_there_is() -> None:
    for name in METHODS.names():
        assert f"`{name}`" in README


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


def test_contributing_shows_the_example_method_as_it_is() -> None:
    example = (ROOT / "docs" / "examples" / "my_method.py").read_text()
    assert len(example.splitlines()) < 40
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a method\n")[2].partition("\n## ")[0]
    assert re.findall(r"^```python\n(.*?)^```", section, re.M | re.S) == [example]


def test_the_example_method_keeps_the_contract_as_contributing_says(tmp_path: Path) -> None:
    """In a process of its own: what is registered stays registered."""
    (call,) = re.findall(r"^    PYTHONPATH=(\S+) \.venv/bin/pytest (.*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    folder, arguments = call
    command = [sys.executable, "-m", "pytest", *shlex.split(arguments), "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / folder)}
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path / 'contract'}"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"^(\d+) passed", done.stdout, re.M)
    assert int(passed) > 10
    assert "failed" not in done.stdout


def test_the_example_method_is_found_by_its_name_once_it_is_imported() -> None:
    script = (
        "import my_method, mcil\n"
        "learner = mcil.Learner('balanced-replay', {'strength': 0.5})\n"
        "assert type(learner.method) is my_method.BalancedReplay\n"
        "try:\n"
        "    mcil.Learner('balanced-reply')\n"
        "except mcil.McilError as error:\n"
        "    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "docs" / "examples")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Did you mean 'balanced-replay'?" in done.stdout
