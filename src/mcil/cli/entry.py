"""The way through a command: its messages, what is said when it is done, and how errors end."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import auto_cli

from mcil.cli.commands import COMMANDS, tell
from mcil.cli.parser import Parser, fail
from mcil.errors import McilError

INTERRUPTED = 130
_WITHOUT_VALUE = frozenset({"--help", "--print_config", "--print_shtab"})


def run_command(args: Sequence[str] | None = None) -> None:
    """Run the command that ``args`` (the process's own by default) names.

    Exit codes: 0 done; 2 something the user can mend, said in one line; 130 interrupted.
    """
    given = [_underscored(arg) for arg in (sys.argv[1:] if args is None else args)]
    try:
        with _messages_on_stderr():
            tell(auto_cli(COMMANDS, args=_listed(_switched_on(given)), prog="mcil", parser_class=Parser))
    except McilError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader of our output has gone, as in `mcil ... | head`; let the exit not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.stderr.write("mcil: stopped; what is done is kept. Run the same command again to go on.\n")
        raise SystemExit(INTERRUPTED) from None


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show what mcil logs as plain lines, and no warnings of the libraries below it (unless ``python -W`` asks)."""
    logger, handler = logging.getLogger("mcil"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _underscored(arg: str) -> str:
    """Let ``--max-failures`` be written for ``--max_failures``; values stay as they are."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _switched_on(args: list[str]) -> list[str]:
    """Let ``--json`` be written for ``--json true``: an option that no value follows is switched on."""
    alone = [
        arg.startswith("--")
        and "=" not in arg
        and arg not in _WITHOUT_VALUE
        and (not after or after[0].startswith("--"))
        for arg, after in ((arg, args[place + 1 : place + 2]) for place, arg in enumerate(args))
    ]
    return [f"{arg}=true" if switch else arg for arg, switch in zip(args, alone, strict=True)]


def _listed(args: list[str]) -> list[str]:
    """Turn the run folders of ``mcil report A B --out DIR`` into the one JSON list that the parser expects."""
    if args[:1] != ["report"]:
        return args
    runs: list[str] = []
    options: list[str] = []
    for index, arg in enumerate(args[1:], start=1):
        after_option = args[index - 1].startswith("--") and "=" not in args[index - 1]
        (options if arg.startswith("-") or after_option else runs).append(arg)
    return ["report", *([json.dumps(runs)] if runs else []), *options]
