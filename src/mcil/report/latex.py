"""Tables for papers: LaTeX with the lines of the booktabs package."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from mcil.report.blocks import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
}
_WIDTH = 14  # letters of a heading's line
_FOUND = re.compile("|".join(map(re.escape, _SPECIAL)))


def escape(text: str) -> str:
    """Return ``text`` so that LaTeX prints it as it is."""
    return _FOUND.sub(lambda match: _SPECIAL[match[0]], text)


def latex_table(table: Table, notes: Sequence[str] = ()) -> str:
    """Render a table as a LaTeX float, with ``notes`` below it; it needs ``\\usepackage{booktabs}``."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _row([_header(column) for column in table.columns]),
        r"\midrule",
        *(_row([_cell(cell) for cell in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip\footnotesize {escape(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _header(column: str) -> str:
    """A heading, over several lines where it is long."""
    lines = [escape(line) for line in textwrap.wrap(column, _WIDTH)]
    return lines[0] if len(lines) == 1 else r"\shortstack[r]{" + r" \\ ".join(lines) + "}"


def _cell(cell: Cell) -> str:
    return rf"\textbf{{{escape(cell.text)}}}" if cell.best else escape(cell.text)
