"""Errors that a user can mend; the command line prints them as one line and exits with code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class McilError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and what to do."""


class MediaError(McilError):
    """A media file cannot be read, or lacks the medium that was asked of it."""


class StoreError(McilError):
    """A feature store is missing, incomplete, damaged, or does not fit what is asked of it."""


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the option nearest to ``name``, or an empty string."""
    close = get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
