"""Importers: from data as it is found to a manifest (or, for arrays, a store). One file per source."""

from collections.abc import Callable
from pathlib import Path

from mcil.registry import Registry

IMPORTERS: Registry[Callable[..., Path]] = Registry("importer", "mcil.data.importers")
