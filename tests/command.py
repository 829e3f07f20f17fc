"""The ``mcil`` command as a user sees it, run inside this process so that it starts at once."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import NamedTuple

from mcil.cli import main


class Said(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


def call(line: str) -> Said:
    """Run ``mcil <line>``."""
    code = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(shlex.split(line))
        except SystemExit as end:
            code = int(end.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def refusal(line: str) -> str:
    """Run a command that cannot be done: one line, exit code 2, and the current folder as it was. Return the line."""
    before = tree(Path())
    said = call(line)
    assert said.code == 2, said
    assert said.err.startswith("mcil: "), said
    assert said.err.count("\n") == 1, said
    assert said.err.endswith("\n"), said
    assert tree(Path()) == before
    return said.err.strip()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything below ``folder``: the bytes of files, None for folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
