"""The command line's parser: what is wrong with a call is one line, with the nearest name that there is."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from mcil.errors import did_you_mean

USER_ERROR = 2
_UNKNOWN = (
    re.compile(r"unrecognized arguments: -*(?P<name>[\w.-]+)"),
    re.compile(r"does not accept option '(?P<name>[^']+)'"),
    re.compile(r"invalid choice: '(?P<name>[^']+)'"),
)


def fail(message: str) -> NoReturn:
    """Print ``message`` as one line on standard error and exit with code 2."""
    sys.stderr.write(f"mcil: {' '.join(message.split())}\n")
    raise SystemExit(USER_ERROR)


class Parser(ArgumentParser):
    """A jsonargparse parser that accepts no abbreviations and answers a mistake in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and, for an unknown option or command, which one is nearest."""
        hint = ""
        for pattern in _UNKNOWN:
            if unknown := pattern.search(message):
                hint = did_you_mean(unknown["name"], _names(self))
        fail(f"{message.rstrip('.')}.{hint} See: {self.prog.replace(' [options]', '')} --help")


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """Return every option and command below ``parser``."""
    names = []
    for action in parser._actions:
        names.append(action.dest)
        if isinstance(action.choices, dict):
            for name, below in action.choices.items():
                names += [name, *_names(below)]
    return names
