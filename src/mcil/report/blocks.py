"""What a report is made of: sections of tables, pictures and text that every format renders."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

PICTURE_TYPES = {"svg": "image/svg+xml", "jpg": "image/jpeg"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table; ``shade`` (0 to 1) tints it by its value."""

    text: str
    best: bool = False
    shade: float | None = None


@dataclass(frozen=True)
class Table:
    """A table as people read it, and ``data`` as machines do (the CSV file). The first column names the row."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    data: pl.DataFrame
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Picture:
    """An image file with its title; ``alt`` says it in words."""

    name: str
    title: str
    alt: str
    content: bytes
    suffix: Literal["svg", "jpg"]

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.name}.{self.suffix}"

    @property
    def uri(self) -> str:
        """Its content as a data URI, for a page that needs no other file."""
        return f"data:{PICTURE_TYPES[self.suffix]};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, as many as fit, with one caption that says how to read them; ``folded`` away at first."""

    caption: str
    pictures: list[Picture]
    size: Literal["small", "medium", "wide"] = "wide"
    title: str = ""
    folded: bool = False
    kind: Literal["gallery"] = "gallery"


@dataclass(frozen=True)
class Text:
    """A paragraph; a ``warning`` stands out."""

    text: str
    warning: bool = False
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Bullets:
    """A list under a heading."""

    title: str
    items: list[str]
    kind: Literal["bullets"] = "bullets"


@dataclass(frozen=True)
class Listing:
    """Literal text, folded away until it is asked for."""

    title: str
    text: str
    kind: Literal["listing"] = "listing"


Block = Table | Gallery | Text | Bullets | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Chapter:
    """Everything about one data set."""

    title: str
    summary: str
    sections: list[Section] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """All tables in it."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures in it."""
        galleries = [b for section in self.sections for b in section.blocks if isinstance(b, Gallery)]
        return [picture for gallery in galleries for picture in gallery.pictures]
