"""The headline table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from mcil.report import tables
from mcil.report.blocks import Table
from mcil.report.runs import DataSet


def print_results(data: DataSet, console: Console) -> None:
    """Print the table of results of one data set, narrow enough for 80 columns, and what to mind when reading it."""
    title = f"{data.name}: {sum(data.task_sizes)} classes in {len(data.task_sizes)} tasks"
    print_grid(tables.results(data), title, data.notes(), console)


def print_grid(table: Table, title: str, notes: Sequence[str], console: Console) -> None:
    """Print a table, its caption and notes."""
    grid = Grid(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    longest_word = max(len(word) for row in table.rows for word in row[0].text.split())
    grid.add_column(table.columns[0], overflow="fold", min_width=min(longest_word, 20))
    for column in table.columns[1:]:
        grid.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for row in table.rows:
        cells = [cell.text.replace(" ± ", "±") for cell in row]
        grid.add_row(*(Text(text, "bold green" if cell.best else "") for text, cell in zip(cells, row, strict=True)))
    console.print(grid)
    console.print(Text(table.caption, style="dim"))
    for note in notes:
        console.print(Text(f"Note: {note}", style="yellow"))
