"""Named things that register themselves: a new method or encoder is one file and one decorator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import NoneType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from mcil.errors import McilError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named things, filled by importing every module of ``package`` on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that puts its argument into the table under ``name``."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"two {self.kind}s are called {name!r}")
            self._items[name] = item
            return item

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
                importlib.import_module(module.name)
            self._loaded = True
        return sorted(self._items)

    def __getitem__(self, name: str) -> T:
        """Return what is registered under ``name``; McilError with the nearest name otherwise."""
        if name not in self.names():
            raise McilError(
                f"there is no {self.kind} '{name}'.{did_you_mean(name, self._items)} "
                f"Choose one of: {', '.join(self.names())}"
            )
        return self._items[name]


def checked_option(what: str, value: Any, expected: Any) -> Any:
    """Return ``value`` if it is of the ``expected`` type: a class, a list of one, a union of these, or a Literal.

    A whole number may stand for a float.

    Raises:
        McilError: it is of another type; ``what`` names the option.
    """
    kinds = (expected,) if get_origin(expected) is list else get_args(expected) or (expected,)
    if get_origin(expected) is Literal:
        if value not in kinds:
            raise McilError(f"{what} must be one of {', '.join(map(repr, kinds))}, but it is {value!r}")
        return value
    if float in kinds and type(value) is int:
        return float(value)
    if not any(_is_a(value, kind) for kind in kinds):
        names = " or ".join(map(_type_name, kinds))
        raise McilError(f"{what} must be of type {names}, but it is {value!r}")
    return value


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return type(value) is list and all(type(each) is item for each in value)
    return type(value) is kind


def _type_name(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"list of {get_args(kind)[0].__name__}"
    return "null" if kind is NoneType else str(kind.__name__)
