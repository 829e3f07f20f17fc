"""Tables for papers: LaTeX with the lines of the booktabs package."""

from __future__ import annotations

import re
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
_FOUND = re.compile("|".join(map(re.escape, _SPECIAL)))


def escape(text: str) -> str:
    """Return ``text`` so that LaTeX prints it as it is."""
    return _FOUND.sub(lambda match: _SPECIAL[match[0]], text)


def latex_table(table: Table, notes: Sequence[str] = ()) -> str:
    """Render a table as a LaTeX float, with ``notes`` below it; it needs ``\\usepackage{booktabs}``."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        _row([escape(column) for column in table.columns]),
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


def _cell(cell: Cell) -> str:
    return rf"\textbf{{{escape(cell.text)}}}" if cell.best else escape(cell.text)
