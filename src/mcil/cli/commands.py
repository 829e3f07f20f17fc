"""The commands. Each is a typed function: its signature and docstring are its interface on the command line."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from mcil import report
from mcil.cli.parser import fail, fail_runs
from mcil.data import extraction, synthetic
from mcil.data.check import CheckReport, Problem, check_manifest
from mcil.data.class_text import describe_store
from mcil.data.fetch import fetch_avcil_features
from mcil.data.importers import IMPORTERS
from mcil.data.store import FeatureStore
from mcil.demo import demo
from mcil.encoders import TextEncoder, create_encoders, describe_encoders
from mcil.errors import McilError
from mcil.experiment import Run, run
from mcil.methods import describe_methods
from mcil.suites import bench

WIDEST = 160  # characters that the table of encoders needs
ENCODER_COLUMNS = {
    "name": "encoder",
    "reads": "reads",
    "tokens": "tokens",
    "width": "width",
    "parameters": "million weights",
    "here": "here",
    "weights": "default weights",
    "licence": "licence",
}
Dtype = Literal["auto", "float32", "float16", "bfloat16"]


def extract(
    manifest: Path,
    out: Path = Path("store"),
    encoders: str | dict[str, Any] = "builtin",
    dtype: Dtype = "auto",
    jobs: int | None = None,
    max_failures: int | None = None,
    batch_size: int = 32,
    retry: bool = False,
    prompts: str = "general",
    importer: str | None = None,
) -> FeatureStore:
    """Decode and encode every clip of a manifest once, into a feature store.

    Stopped at any moment and called again, it goes on where it was and ends with the same bytes.

    Args:
        manifest: table of clips, .csv or .parquet; with ``importer`` the data that it is made from.
        out: folder of the store.
        encoders: names with commas between them, or a YAML mapping with options, such as
            '{videomae: {weights: FOLDER}, audiomae: {}}'.
        dtype: of the stored arrays; "auto" is float32 for vectors and float16 for token maps.
        jobs: processes that decode clips; all cores by default.
        max_failures: with more unreadable clips than these it stops; a tenth of the clips by default.
        batch_size: clips that are encoded together.
        retry: try the failed clips of an earlier call again.
        prompts: what a text encoder among the encoders is told of each class: plain, general, sounds, classroom,
            released-imagenet-esc or released-classroom.
        importer: name of the importer that makes the manifest, with its defaults, beside the store:
            STORE-manifest.csv.
    """
    made = create_encoders(encoders)
    if importer is not None:
        manifest = _imported(importer, manifest, out.with_name(f"{out.name}-manifest.csv"))
    return extraction.extract(manifest, out, made, dtype, jobs, max_failures, batch_size, retry, prompts=prompts)


def _imported(importer: str, root: Path, manifest: Path) -> Path:
    """Write ``manifest`` from what is at ``root``."""
    function = IMPORTERS[importer]
    parameters = inspect.signature(function).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    if len(needed) > 1:
        raise McilError(
            f"importer '{importer}' needs {' and '.join(needed)}; "
            f"call 'mcil data import {importer}' first and then 'mcil extract' with its manifest"
        )
    if not Path(parameters["out"].default).suffix:
        raise McilError(f"importer '{importer}' makes a store itself; call 'mcil data import {importer}' instead")
    return function(root, out=manifest)


def describe(store: Path, encoder: str | dict[str, Any] = "minilm", prompts: str = "general") -> Path:
    """Add text about its classes to a feature store; other text there is replaced.

    Args:
        store: a complete feature store.
        encoder: name of a text encoder, or a YAML mapping with options, such as '{minilm: {weights: FOLDER}}'.
        prompts: what it is told of each class: plain, general, sounds, classroom, released-imagenet-esc or
            released-classroom.
    """
    texts = [each for each in create_encoders(encoder) if isinstance(each, TextEncoder)]
    if not texts:
        raise McilError(f"the encoder '{encoder}' reads no text; choose one that does, such as minilm")
    return describe_store(FeatureStore(store), texts[0], prompts)


def write_report(runs: list[str], out: Path = Path("report")) -> report.ReportFiles:
    """Print the table of finished runs and write a report: one HTML page, Markdown, CSV tables and figures.

    Args:
        runs: run folders, or folders that hold run folders.
        out: folder of the report.
    """
    folders = [Path(folder) for folder in runs]
    files = report.write(folders, out)
    report.print_table(folders)
    return files


@dataclass(frozen=True)
class MethodList:
    """What ``mcil list methods`` says."""

    methods: list[dict[str, Any]]
    json: bool


def list_methods(json: bool = False) -> MethodList:
    """List the methods: source, modalities, memory, gradient or closed form, and options with their defaults.

    Args:
        json: print JSON instead of a table.
    """
    return MethodList(describe_methods(), json)


@dataclass(frozen=True)
class EncoderList:
    """What ``mcil encoders`` says."""

    encoders: list[dict[str, Any]]
    json: bool


def list_encoders(json: bool = False) -> EncoderList:
    """List the encoders with their default options: what they read and give, size, licence, whether weights are here.

    Args:
        json: print JSON instead of a table.
    """
    return EncoderList(describe_encoders(), json)


COMMANDS: dict[str, Any] = {
    "demo": demo,
    "data": {
        "_help": "Make, import, fetch and check clips.",
        "make": synthetic.make,
        "import": {
            "_help": "Turn data as it is found into a manifest, or arrays into a feature store.",
            **{name: IMPORTERS[name] for name in IMPORTERS.names()},
        },
        "fetch": {
            "_help": "Download published features and turn them into a feature store.",
            "avcil-features": fetch_avcil_features,
        },
        "check": check_manifest,
    },
    "encoders": list_encoders,
    "extract": extract,
    "text": describe,
    "run": run,
    "bench": bench,
    "report": write_report,
    "list": {"_help": "Say what there is to choose from.", "methods": list_methods},
}


def _count(problems: list[Problem], name: str) -> str:
    return f"{len(problems)} {name}{'' if len(problems) == 1 else 's'}"


def tell(result: Any) -> None:
    """Say what a command made."""
    console = Console(soft_wrap=True)
    match result:
        case Path():
            console.print(f"wrote {result}", highlight=False)
        case FeatureStore():
            console.print(f"{result.path}: {len(result)} clips, {result.shapes}", highlight=False)
        case CheckReport():
            for problem in result.problems:
                console.print(str(problem), highlight=False, markup=False)
            console.print(result.summary, highlight=False, markup=False)
            if result.errors:
                fail(f"{result.manifest}: {_count(result.errors, 'error')} and {_count(result.warnings, 'warning')}")
        case MethodList(listed, json=True) | EncoderList(listed, json=True):
            print(json.dumps(listed, indent=2))
        case EncoderList(encoders):
            table = Table(box=None, pad_edge=False)
            for heading in ENCODER_COLUMNS.values():
                # Names stay whole however narrow the terminal is, so that they can be searched and copied.
                table.add_column(heading, no_wrap=heading != "licence")
            for encoder in encoders:
                table.add_row(*("-" if encoder[key] is None else str(encoder[key]) for key in ENCODER_COLUMNS))
            Console(width=max(console.width, WIDEST)).print(table)
        case MethodList(methods):
            table = Table("method", "fit by", "memory", "source", box=None, pad_edge=False)
            table.columns[0].no_wrap = True
            for method in methods:
                memory = "yes" if method["memory"] else "no"
                table.add_row(method["name"], method["kind"], memory, method["source"])
            console.print(table)
        case report.ComparisonFiles():
            report.print_comparison(result.comparison, console)
            for path in (result.markdown, result.latex, result.csv, result.report.html):
                console.print(f"wrote {path}", highlight=False)
            fail_runs(result.comparison.failures)
        case report.ReportFiles():
            console.print(f"report: {result.html}", highlight=False)
        case list() if result and isinstance(result[0], Run):
            report.print_table([finished.folder for finished in result], console)
            for finished in result:
                console.print(f"run: {finished.folder}", highlight=False)
