"""The command line's parser: what is wrong with a call is one line, with the nearest name that there is."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from mcil.errors import did_you_mean

RUNS_FAILED, USER_ERROR = 1, 2
_UNKNOWN = (
    re.compile(r"unrecognized arguments: -*(?P<name>[\w.-]+)"),
    re.compile(r"(?P<below>[\w.]+)' does not accept option '(?P<name>[^']+)'"),
    re.compile(r"invalid choice: '(?P<name>[^']+)'"),
)
# What jsonargparse says, for people who write it -> for people who use a command. The order matters.
_PLAIN = (
    (re.compile(r"argument subcommand: invalid choice: ('.*?')"), r"there is no command \1"),
    (re.compile(r"unrecognized arguments:"), r"there is no option or place for"),
    (re.compile(r"Subcommand '[\w.]+' does not accept option ('[^']+')"), r"there is no option \1"),
    (re.compile(r"Unexpected config:.*"), r"the configuration is no YAML mapping of options to values"),
    (re.compile(r' in "<unicode string>",'), r""),
    (re.compile(r"Problems parsing config:"), r"the configuration cannot be read as YAML:"),
    (re.compile(r"^Parser key \"([\w.]+)\": "), r"\1: "),
    (re.compile(r"Does not validate.*? Subtypes: \[(.*)\] Errors:.*Given value: "), r"Expected a \1. Got value: "),
    (re.compile(r"<class '(?:\w+\.)*(\w+)'>"), r"\1"),
    (re.compile(r"collections\.abc\.|typing\."), r""),
    (re.compile(r"Expected a Literal\[(.*?)\]\. Got value:"), r"it must be one of \1, not"),
    (re.compile(r"Expected a (.*)\. Got value:"), r"it must be of type \1, not"),
    (re.compile(r", NoneType| \| NoneType"), r""),
)
_NO_COMMAND = re.compile(r".*[Ee]xpected \"(?P<path>[\w.]*?)\.?\w+\" to be one of {.*}, but it was not provided")
_REQUIRED = re.compile(r"arguments are required: ([\w.]+)\.\w")


def fail(message: str) -> NoReturn:
    """Print ``message`` as one line on standard error and exit with code 2."""
    sys.stderr.write(f"mcil: {' '.join(message.split())}\n")
    raise SystemExit(USER_ERROR)


def fail_runs(failures: Sequence[str]) -> None:
    """Print a line on standard error for each of the runs that failed, and exit with code 1; return where none did."""
    for failure in failures:
        sys.stderr.write(f"mcil: failed: {' '.join(failure.split())}\n")
    if failures:
        raise SystemExit(RUNS_FAILED)


class Parser(ArgumentParser):
    """A jsonargparse parser that accepts no abbreviations and answers a mistake in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        self._reading = ""  # what messages begin with while a configuration file is read

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Parse a configuration file; what is wrong with it is said with its name."""
        self._reading = f"{path}: "
        try:
            parsed: Namespace = super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError:
            self.error("the configuration is no text file")
        self._reading = ""
        return parsed

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        """Make the values that a command is called with; options of a group must have names."""
        for name in self.groups or {}:
            if name in namespace and not isinstance(namespace[name], Namespace):
                self.error(f"{name}: it must be a mapping of options to values, not {namespace[name]}")
        made: Namespace = super().instantiate(namespace, *args, **kwargs)
        return made

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help; an argument that takes several values is called by its name."""
        for action in self._actions:
            if not action.option_strings and action.metavar == "[ITEM,...]":
                action.metavar = f"{action.dest.upper()} ..."
        return str(super().format_help(*args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and, for an unknown option or command, which one is nearest."""
        message = " ".join(message.split()).rstrip(".")
        where = self.prog.replace(" [options]", "")
        hint = ""
        for pattern in _UNKNOWN:
            if unknown := pattern.search(message):
                path = unknown.groupdict().get("below") or ""
                hint = did_you_mean(unknown["name"], _names(_below(self, path)))
                where = f"{where} {path.replace('.', ' ')}".strip()
        if required := _REQUIRED.search(message):
            where = f"{where} {required[1].replace('.', ' ')}"
            message = message.replace(f"{required[1]}.", "")
        if missing := _NO_COMMAND.search(message):  # it names only the first few
            choice = ", ".join(_commands(_below(self, missing["path"])))
            message = f"no command; choose one of {choice}"
        for pattern, plain in _PLAIN:
            message = pattern.sub(plain, message)
        fail(f"{self._reading}{message}.{hint} See: {where} --help")


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands right below ``parser``."""
    return {
        name: below
        for action in parser._actions
        if isinstance(action.choices, dict)
        for name, below in action.choices.items()
    }


def _below(parser: argparse.ArgumentParser, path: str) -> argparse.ArgumentParser:
    """Return the parser of the command with the dotted ``path`` below ``parser``."""
    for name in path.split(".") if path else []:
        parser = _commands(parser)[name]
    return parser


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """Return every option of ``parser``, and every option and command below it."""
    names = [action.dest for action in parser._actions]
    for name, below in _commands(parser).items():
        names += [name, *_names(below)]
    return names
