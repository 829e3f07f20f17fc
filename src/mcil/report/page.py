"""Chapters as an HTML page that needs no other file, and as Markdown beside its pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from mcil.report.blocks import Cell, Chapter, Table


def anchor(title: str) -> str:
    """Return a heading as the name that a link to it uses."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def html(title: str, chapters: Sequence[Chapter]) -> str:
    """Render a self-contained page: styles and pictures are in it, and there are no scripts."""
    return _environment(escape=True).get_template("report.html.j2").render(title=title, chapters=chapters)


def markdown(title: str, chapters: Sequence[Chapter]) -> str:
    """Render Markdown; pictures are taken from ``figures/``, tables also from ``tables/``."""
    text = _environment(escape=False).get_template("report.md.j2").render(title=title, chapters=chapters)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def markdown_table(table: Table) -> str:
    """Render a table as Markdown, numbers aligned to the right."""
    lines = [f"| {' | '.join(table.columns)} |", f"|---|{'---:|' * (len(table.columns) - 1)}"]
    lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in table.rows]
    return "\n".join(lines)


def _environment(escape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("mcil.report"),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["anchor"] = anchor
    environment.filters["markdown_table"] = markdown_table
    return environment


def _markdown_cell(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return f"**{text}**" if cell.best else text
