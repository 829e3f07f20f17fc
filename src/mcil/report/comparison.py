"""A comparison of methods: the one table that it is made for, and whether the best two differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import polars as pl

from mcil.data.scenario import Scenario
from mcil.experiment import Experiment, Failure, Run
from mcil.metrics import SCALARS, PairedTest, Spread, clip_contributions, mean_and_spread, paired_t_test, sign_flip_test
from mcil.metrics.significance import FLIPS
from mcil.report import figures, tables
from mcil.report.blocks import Block, Bullets, Cell, Chapter, Gallery, Section, Table, Text
from mcil.report.chapters import sections_of
from mcil.report.reported import LABEL, Reported, benchmark_of_runs, reported
from mcil.report.runs import DataSet, Method

Layout = Literal["figures", "modality", "memory", "step", "pair"]
"""The columns of the table: headline figures; accuracy by step; or mean accuracy by modality, by memory, or, where each
label is a pair "row, column", by its second half."""

_BY_COLUMN = ("modality", "memory", "pair")
_FIGURES = ("mean_accuracy", "average_forgetting", "last_accuracy")


@dataclass(frozen=True)
class Entry:
    """One thing that is compared: its name, what was to be run, and what became of it, seed by seed."""

    label: str
    experiment: Experiment
    ends: list[Run | Failure]

    @property
    def runs(self) -> list[Run]:
        """The runs that are finished."""
        return [end for end in self.ends if isinstance(end, Run)]

    @property
    def failures(self) -> list[Failure]:
        """The runs that are not."""
        return [end for end in self.ends if isinstance(end, Failure)]

    def row(self, layout: Layout) -> str:
        """The row of the table in which it stands."""
        return self.label.partition(", ")[0] if layout == "pair" else self.label

    def column(self, layout: Layout) -> str:
        """Where it stands in a table with a column for each modality, memory size or second of a pair."""
        if layout == "pair":
            return self.label.partition(", ")[2]
        return self.experiment.modality if layout == "modality" else str(self.experiment.memory)

    def name(self, layout: Layout) -> str:
        """Its name where no column says the rest."""
        if layout == "modality":
            return f"{self.label}, {self.experiment.modality}"
        return f"{self.label}, memory {self.experiment.memory}" if layout == "memory" else self.label


@dataclass(frozen=True)
class Comparison:
    """Methods on the same data with the same seeds.

    Attributes:
        name: begins the names of its files.
        title: says what is compared, without the data.
        layout: the columns of its table.
        sections: what the report shows besides, by the names of :data:`mcil.report.chapters.SECTIONS`.
        scenario: the classes and tasks that all learnt.
        entries: what is compared.
        featured: labels of entries that have a figure to themselves, in its order, each with its name there.
    """

    name: str
    title: str
    layout: Layout
    sections: Sequence[str]
    scenario: Scenario
    entries: Sequence[Entry]
    featured: Sequence[tuple[str, str]] = ()

    @property
    def full_title(self) -> str:
        """What is compared, and on which data."""
        return f"{self.title}: {self.scenario.store.path.name}"

    @property
    def task_sizes(self) -> list[int]:
        """Number of classes of each task."""
        return [len(task.class_names) for task in self.scenario.tasks]

    @cached_property
    def data(self) -> DataSet | None:
        """The entries that have finished runs; None where none has."""
        methods = [Method(entry.name(self.layout), entry.runs) for entry in self.entries if entry.runs]
        if not methods:
            return None
        store = self.scenario.store
        return DataSet(store.path.name, store.checksum, self.task_sizes, methods)

    @property
    def failures(self) -> list[str]:
        """What failed and why, a line for each run."""
        return [
            f"{entry.name(self.layout)}, seed {failure.experiment.seed}: {failure.reason}"
            for entry in self.entries
            for failure in entry.failures
        ]

    @cached_property
    def benchmark(self) -> str | None:
        """The published benchmark that the data is, if it is one."""
        return benchmark_of_runs(self.scenario.class_names, self.task_sizes)

    def groups(self) -> list[tuple[str, DataSet]]:
        """The data sets in which entries compete: all, or those of one column."""
        if self.data is None:
            return []
        if self.layout not in _BY_COLUMN:
            return [("", self.data)]
        found: dict[str, list[Method]] = {}
        for entry in self.entries:
            if entry.runs:
                found.setdefault(entry.column(self.layout), []).append(Method(entry.name(self.layout), entry.runs))
        return [(column, replace(self.data, methods=methods)) for column, methods in found.items()]

    def figure(self) -> DataSet | None:
        """The featured entries that have finished runs, by their names in the figure; None where none has."""
        runs = {entry.label: entry.runs for entry in self.entries if entry.runs}
        methods = [Method(name, runs[label]) for label, name in self.featured if label in runs]
        return replace(self.data, methods=methods) if self.data is not None and methods else None

    def reported(self, entry: Entry) -> Reported | None:
        """What the paper reports for an entry, where the data is its benchmark."""
        if self.benchmark is None or self.layout == "memory":  # the paper gives a figure there, no numbers
            return None
        return reported(self.benchmark, entry.label, entry.experiment.modality)


def chapter(comparison: Comparison) -> Chapter:
    """Everything about a comparison: its table, tests, figure and failures, then the sections that it asks for."""
    blocks: list[Block] = [Text(note, warning=True) for note in notes(comparison)]
    blocks.append(table(comparison))
    if found := findings(comparison):
        blocks.append(significance(found))
    if comparison.failures:
        blocks.append(Bullets("Runs that failed", comparison.failures))
    sections = [Section("Comparison", blocks)]
    data = comparison.data
    if data is not None:
        if comparison.layout == "memory":
            caption = "Mean accuracy by the number of exemplars kept (mean over seeds)"
            caption += "; the band is one standard deviation." if len(lines(comparison)) <= figures.FEW else "."
            picture = figures.accuracy_by_memory(lines(comparison))
            sections.append(Section("Accuracy by memory", [Gallery(caption, [picture])]))
        if (featured := comparison.figure()) is not None:
            caption = "Mean accuracy over the steps, and the accuracy on all classes seen after each task (mean over "
            caption += "seeds); thin strokes and bands: one standard deviation."
            pictures = [figures.mean_accuracy(featured, "featured-"), figures.accuracy_by_step(featured, "featured-")]
            sections.append(Section("At a glance", [Gallery(caption, pictures, "medium")]))
        sections += sections_of(data, comparison.sections)
    return Chapter(f"Data set {comparison.scenario.store.path.name}", _summary(comparison), sections)


def _summary(comparison: Comparison) -> str:
    tasks = len(comparison.task_sizes)
    said = f"{len(comparison.scenario.class_names)} classes in {tasks} task{'s' if tasks > 1 else ''}."
    if comparison.benchmark:
        said += f" These are the classes and tasks of {comparison.benchmark}."
    return said


def notes(comparison: Comparison) -> list[str]:
    """What keeps its rows from being compared without a thought."""
    found = [] if comparison.data is None else comparison.data.notes()
    if comparison.failures:
        runs = sum(len(entry.ends) for entry in comparison.entries)
        found.append(f"{len(comparison.failures)} of {runs} runs failed; the reasons are below the table.")
    return found


def lines(comparison: Comparison) -> dict[str, list[tuple[int, Spread]]]:
    """Mean accuracy by memory size for each row that has runs."""
    found: dict[str, list[tuple[int, Spread]]] = {}
    for entry in comparison.entries:
        if entry.runs:
            spread = Method(entry.label, entry.runs).spread("mean_accuracy")
            found.setdefault(entry.label, []).append((entry.experiment.memory, spread))
    return found


def table(comparison: Comparison) -> Table:
    """The table of a comparison; a run that failed is said in it, and the best is bold where that is fair."""
    make = {"figures": _by_figure, "step": _by_step}.get(comparison.layout, _by_column)
    columns, rows, bold = make(comparison)
    caption = "Percent; mean ± sample standard deviation over seeds."
    if comparison.layout in _BY_COLUMN:
        caption = f"Mean accuracy. {caption}"
    if columns[-1] == LABEL:
        what = {"modality": "mean accuracy by modality"}.get(comparison.layout, "mean accuracy / average forgetting")
        caption += f" The last column: {what}, as the paper prints them; the settings may differ."
    if bold:
        caption += " Bold: the best of each column and those that the spread does not set apart from it"
        upper = comparison.data is not None and any(method.upper_bound for method in comparison.data.methods)
        caption += ", upper bounds left out." if upper else "."
    return Table(comparison.name, caption, columns, rows, records(comparison))


_Made = tuple[list[str], list[list[Cell]], bool]


def _by_figure(comparison: Comparison) -> _Made:
    best = {key: _best(comparison.data, key) for key in _FIGURES}
    rows = [
        [
            Cell(entry.label),
            *(_cell(entry, key, entry.name(comparison.layout) in best[key]) for key in _FIGURES),
            Cell(_seeds(entry)),
        ]
        for entry in comparison.entries
    ]
    columns = ["Method", *(tables.TITLES[key] for key in _FIGURES), "Seeds"]
    return (*_with_reported(comparison, columns, rows), any(best.values()))


def _by_step(comparison: Comparison) -> _Made:
    steps = len(comparison.task_sizes)
    best = _best(comparison.data, "mean_accuracy")
    rows = []
    for entry in comparison.entries:
        by_step = _steps(entry, steps)
        cells = [Cell(tables.said(spread) if entry.runs else "failed") for spread in by_step]
        mean = _cell(entry, "mean_accuracy", entry.label in best)
        rows.append([Cell(entry.label), *cells, mean, Cell(_seeds(entry))])
    columns = ["Method", *(f"After task {step + 1}" for step in range(steps)), tables.TITLES["mean_accuracy"], "Seeds"]
    return (*_with_reported(comparison, columns, rows), bool(best))


def _by_column(comparison: Comparison) -> _Made:
    """A row for each label or first of a pair, a column for each modality, memory size or second: mean accuracy."""
    layout = comparison.layout
    columns = list(dict.fromkeys(entry.column(layout) for entry in comparison.entries))
    best = {column: _best(data, "mean_accuracy") for column, data in comparison.groups()}
    places = {(entry.row(layout), entry.column(layout)): entry for entry in comparison.entries}
    titles = [f"Memory {column}" if layout == "memory" else column.capitalize() for column in columns]
    known = any(map(comparison.reported, comparison.entries))
    rows = []
    for label in dict.fromkeys(entry.row(layout) for entry in comparison.entries):
        row, numbers = [Cell(label)], []
        for column in columns:
            entry = places.get((label, column))
            if entry is None:
                row.append(Cell("-"))
                continue
            cell = _cell(entry, "mean_accuracy", entry.name(layout) in best.get(column, []))
            if entry.runs and entry.failures:
                cell = replace(cell, text=f"{cell.text} ({_seeds(entry)})")
            row.append(cell)
            numbers.append(comparison.reported(entry))
        rows.append(row)
        if known:
            row.append(Cell(" / ".join(f"{n.mean_accuracy:.2f}" if n else "-" for n in numbers)))
    if known:
        titles.append(LABEL)
    return ["Method", *titles], rows, any(best.values())


def _with_reported(
    comparison: Comparison, columns: list[str], rows: list[list[Cell]]
) -> tuple[list[str], list[list[Cell]]]:
    """Add the column of the paper's numbers where the data is its benchmark."""
    numbers = [comparison.reported(entry) for entry in comparison.entries]
    if not any(numbers):
        return columns, rows
    cells = [Cell("-" if number is None else _printed(number)) for number in numbers]
    return [*columns, LABEL], [[*row, cell] for row, cell in zip(rows, cells, strict=True)]


def _printed(number: Reported) -> str:
    forgetting = "-" if number.average_forgetting is None else f"{number.average_forgetting:.2f}"
    return f"{number.mean_accuracy:.2f} / {forgetting}"


def _best(data: DataSet | None, key: str) -> list[str]:
    return [] if data is None else [method.name for method in tables.best(data, key)]


def _cell(entry: Entry, key: str, best: bool) -> Cell:
    if not entry.runs:
        return Cell("failed")
    return Cell(tables.said(Method(entry.label, entry.runs).spread(key)), best=best)


def _seeds(entry: Entry) -> str:
    runs, failed = len(entry.runs), len(entry.failures)
    return f"{runs}, {failed} failed" if failed else str(runs)


def _steps(entry: Entry, steps: int) -> list[Spread]:
    return [mean_and_spread(run.result["step_accuracy"][step] for run in entry.runs) for step in range(steps)]


def records(comparison: Comparison) -> pl.DataFrame:
    """A row for each entry with every headline figure and step, as machines read it."""
    steps = len(comparison.task_sizes)
    rows: list[dict[str, Any]] = []
    for entry in comparison.entries:
        row: dict[str, Any] = {
            "label": entry.label,
            "method": entry.experiment.method,
            "modality": entry.experiment.modality,
            "memory": entry.experiment.memory,
            "protocol": entry.experiment.training.protocol,
            "seeds": len(entry.runs),
            "failed": len(entry.failures),
        }
        method = Method(entry.label, entry.runs)
        for key in SCALARS:
            row |= tables.numbers(key, method.spread(key))
        for step, spread in enumerate(_steps(entry, steps)):
            row |= tables.numbers(f"step_{step + 1}", spread)
        rows.append(row)
    found = pl.DataFrame(rows, infer_schema_length=None)
    numbers = [comparison.reported(entry) for entry in comparison.entries]
    if any(numbers):
        for key in Reported._fields:
            values = [None if number is None else getattr(number, key) for number in numbers]
            found = found.with_columns(pl.Series(f"{key} {LABEL}", values, dtype=pl.Float64))
    return found


@dataclass(frozen=True)
class Finding:
    """A paired test of two methods' mean accuracy: never a p-value without its test, n and both names."""

    test: str
    first: str
    second: str
    seeds: list[int]
    found: PairedTest

    @property
    def said(self) -> str:
        """All of it as a sentence."""
        seeds = f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"
        said = f"{self.first} against {self.second}: mean accuracy {self.found.difference:+.2f} points. {self.test}, "
        if self.test == _OVER_SEEDS:
            said += f"n = {self.found.n} pairs ({seeds}): "
            if math.isnan(self.found.p):
                return said + "it has no value, because the difference does not vary."
            return said + f"t = {self.found.statistic:.2f}, {_probability(self.found.p)}."
        return said + f"n = {self.found.n} clips, averaged over {seeds}: {_probability(self.found.p)}."


_OVER_SEEDS = "Paired t-test over seeds, two-sided"
_OVER_CLIPS = f"Sign-flip permutation test over test clips, two-sided, {FLIPS} flips"


def _probability(p: float) -> str:
    return f"p = {p:.4f}" if p >= 0.0001 else "p < 0.0001"


def findings(comparison: Comparison) -> list[Finding]:
    """Test the best two competitors of each group against each other, with the seeds that both finished."""
    return [finding for _, data in comparison.groups() for finding in _between_best(data)]


def _between_best(data: DataSet) -> list[Finding]:
    rivals = [method for method in data.methods if not method.upper_bound]
    if len(rivals) < 2:
        return []
    first, second = sorted(rivals, key=lambda method: -method.spread("mean_accuracy").mean)[:2]
    one, other = ({run.result["seed"]: run for run in method.runs} for method in (first, second))
    seeds = sorted(set(one) & set(other))
    if not seeds:
        return []
    figure = [[runs[seed].result["mean_accuracy"] for seed in seeds] for runs in (one, other)]
    contributions = clip_contributions(
        [one[seed].tested for seed in seeds], [other[seed].tested for seed in seeds], data.task_sizes
    )
    found = [Finding(_OVER_CLIPS, first.name, second.name, seeds, sign_flip_test(contributions))]
    if len(seeds) > 1:
        found.insert(0, Finding(_OVER_SEEDS, first.name, second.name, seeds, paired_t_test(*figure)))
    return found


def significance(found: Iterable[Finding], prefix: str = "") -> Table:
    """The tests as a table."""
    rows, raw = [], []
    for finding in found:
        test = finding.found
        p = "-" if math.isnan(test.p) else _probability(test.p).removeprefix("p ").removeprefix("= ")
        cells = [f"{finding.first} against {finding.second}", f"{test.difference:+.2f}", finding.test, str(test.n), p]
        rows.append([Cell(text) for text in cells])
        raw.append(
            {
                "first": finding.first,
                "second": finding.second,
                "figure": "mean_accuracy",
                "difference": test.difference,
                "test": finding.test,
                "n": test.n,
                "statistic": None if math.isnan(test.statistic) else test.statistic,
                "p": None if math.isnan(test.p) else test.p,
                "seeds": " ".join(map(str, finding.seeds)),
            }
        )
    return Table(
        f"{prefix}significance",
        "The best two competitors by mean accuracy, upper bounds left out; difference in points. The two were chosen "
        "by the same runs, and p is not corrected for that.",
        ["Methods", "Difference", "Test", "n", "p"],
        rows,
        pl.DataFrame(raw, infer_schema_length=None),
    )
