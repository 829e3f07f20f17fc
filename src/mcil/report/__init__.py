"""From run folders to tables, plots and one page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mcil.files import atomic_path, write_text
from mcil.report import comparison as comparisons
from mcil.report import page
from mcil.report.blocks import Chapter
from mcil.report.chapters import chapter
from mcil.report.comparison import Comparison, Entry
from mcil.report.latex import latex_table
from mcil.report.page import markdown_table
from mcil.report.runs import DataSet, read_runs
from mcil.report.terminal import print_grid, print_results

__all__ = [
    "Comparison",
    "ComparisonFiles",
    "Entry",
    "ReportFiles",
    "print_comparison",
    "print_table",
    "write",
    "write_comparison",
]


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    html: Path
    markdown: Path
    tables: list[Path]
    figures: list[Path]


@dataclass(frozen=True)
class ComparisonFiles:
    """A comparison and its files."""

    comparison: Comparison
    report: ReportFiles
    markdown: Path
    latex: Path
    csv: Path


def write(runs: Sequence[Path], out: Path) -> ReportFiles:
    """Write a report on finished runs.

    Args:
        runs: run folders, or folders that hold run folders.
        out: folder for ``report.html`` (self-contained), ``report.md``, ``tables/*.csv`` and ``figures/*``.

    Raises:
        McilError: a run is missing, not finished or damaged, or ``out`` cannot be written to.
    """
    sets = read_runs(runs)
    chapters = [chapter(data, _prefix(data, sets)) for data in sets]
    return _write("Learning new classes without forgetting the old", chapters, out)


def write_comparison(comparison: Comparison, out: Path) -> ComparisonFiles:
    """Write what a comparison shows.

    Args:
        comparison: methods and what became of their runs.
        out: folder for ``table.md``, ``table.tex``, ``table.csv`` and the report of :func:`write`.

    Raises:
        McilError: a file of a run is damaged, or ``out`` cannot be written to.
    """
    table = comparisons.table(comparison)
    said = [finding.said for finding in comparisons.findings(comparison)]
    failures = [f"Failed: {failure}" for failure in comparison.failures]
    report = _write(comparison.title, [comparisons.chapter(comparison)], out)
    files = ComparisonFiles(comparison, report, out / "table.md", out / "table.tex", out / "table.csv")
    below = "".join(f"\n{line}\n" for line in (table.caption, *said, *failures))
    write_text(files.markdown, f"# {comparison.full_title}\n\n{markdown_table(table)}\n{below}")
    write_text(files.latex, latex_table(table, [*said, *failures]))
    write_text(files.csv, table.data.write_csv())
    return files


def _write(title: str, chapters: Sequence[Chapter], out: Path) -> ReportFiles:
    files = ReportFiles(out / "report.html", out / "report.md", [], [])
    for part in chapters:
        for table in part.tables:
            files.tables.append(out / "tables" / f"{table.name}.csv")
            write_text(files.tables[-1], table.data.write_csv())
        for picture in part.pictures:
            files.figures.append(out / "figures" / picture.file)
            with atomic_path(files.figures[-1]) as temporary:
                temporary.write_bytes(picture.content)
    write_text(files.markdown, page.markdown(title, chapters))
    write_text(files.html, page.html(title, chapters))
    return files


def print_table(runs: Sequence[Path], console: Console | None = None) -> None:
    """Print the headline figures of finished runs, a table for each data set.

    Raises:
        McilError: a run is missing, not finished or damaged.
    """
    for data in read_runs(runs):
        print_results(data, console or Console())


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the table of a comparison, the tests of its best two, and what to mind when reading it."""
    said = [finding.said for finding in comparisons.findings(comparison)]
    print_grid(
        comparisons.table(comparison), comparison.full_title, comparisons.notes(comparison), console or Console()
    )
    for line in said:
        (console or Console()).print(line, highlight=False, markup=False)


def _prefix(data: DataSet, sets: Sequence[DataSet]) -> str:
    """What the files of a data set begin with: nothing when there is only one."""
    return f"{page.anchor(data.name)}-" if len(sets) > 1 else ""
