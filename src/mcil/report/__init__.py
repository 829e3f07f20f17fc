"""From run folders to tables, plots and one page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mcil.files import atomic_path, write_text
from mcil.report import page
from mcil.report.chapters import chapter
from mcil.report.runs import DataSet, read_runs
from mcil.report.terminal import print_results

__all__ = ["ReportFiles", "print_table", "write"]


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    html: Path
    markdown: Path
    tables: list[Path]
    figures: list[Path]


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
    files = ReportFiles(out / "report.html", out / "report.md", [], [])
    for part in chapters:
        for table in part.tables:
            files.tables.append(out / "tables" / f"{table.name}.csv")
            write_text(files.tables[-1], table.data.write_csv())
        for picture in part.pictures:
            files.figures.append(out / "figures" / picture.file)
            with atomic_path(files.figures[-1]) as temporary:
                temporary.write_bytes(picture.content)
    title = "Learning new classes without forgetting the old"
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


def _prefix(data: DataSet, sets: Sequence[DataSet]) -> str:
    """What the files of a data set begin with: nothing when there is only one."""
    return f"{page.anchor(data.name)}-" if len(sets) > 1 else ""
