"""The headline table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from mcil.report import tables
from mcil.report.runs import DataSet


def print_results(data: DataSet, console: Console) -> None:
    """Print the table of results of one data set and what to mind when reading it."""
    table = tables.results(data)
    grid = Grid(title=f"{data.name}: {len(data.task_sizes)} tasks", title_justify="left", title_style="bold")
    for place, column in enumerate(table.columns):
        grid.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(cell.text, style="bold green" if cell.best else "") for cell in row))
    console.print(grid)
    console.print(Text(table.caption, style="dim"))
    for note in data.notes():
        console.print(Text(f"Note: {note}", style="yellow"))
