"""Named things that register themselves: a new method or encoder is one file and one decorator."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

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
