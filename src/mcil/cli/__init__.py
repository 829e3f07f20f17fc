"""The ``mcil`` command."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that ``args`` (the process's own by default) names; see :func:`mcil.cli.entry.run_command`."""
    # Worker processes import the main module anew; this way they do not load every command's libraries with it.
    from mcil.cli.entry import run_command

    run_command(args)
