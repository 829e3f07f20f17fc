"""The ``mcil`` command."""

from mcil.cli.main import main

__all__ = ["main"]
