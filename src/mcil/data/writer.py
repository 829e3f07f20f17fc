"""Writing a feature store shard by shard, so that it can be stopped at any moment and gone on with."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl
from torch import Tensor

from mcil.data.records import content_hash, records_hash, to_frame
from mcil.data.shards import ArraySpec, Failure, Shard, read_shard, write_shard
from mcil.errors import McilError, StoreError
from mcil.files import atomic_path, explain_write_errors, read_json, sha256, write_json, write_text
from mcil.types import ClipRecord

FORMAT = "mcil feature store"
VERSION = 1
CARD, INDEX, SHARDS, FAILURES = "card.json", "index.parquet", "shards", "failures.csv"
TEXT = "text.safetensors"  # text about the classes, which others write beside what makes the store
_SHARD_BYTES = 64 * 2**20


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"{number:05d}.safetensors"


class StoreWriter:
    """Writes a store at ``path``: use as a context manager, write every pending shard, then :meth:`finish`.

    What an earlier, stopped writer of the same records, arrays and card finished is kept. One that an error stops
    before it has written anything leaves no new folder.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, ArraySpec],
        records: Sequence[ClipRecord],
        card: Mapping[str, Any],
        root: Path | None = None,
        clips_per_shard: int | None = None,
    ) -> None:
        """Describe the store.

        Args:
            path: the folder to write.
            arrays: the named arrays of a clip.
            records: the clips, in the order of the rows.
            card: what makes the arrays (JSON values); it goes into ``card.json``.
            root: the folder that the records' paths are relative to; None where there are no files.
            clips_per_shard: by default as many as give shards of 64 MiB.
        """
        self.path = Path(path)
        self.records = records
        self._arrays = dict(arrays)
        self._card = dict(card)
        self._root = root
        bytes_per_clip = max(1, sum(spec.nbytes for spec in arrays.values()))
        self._size = clips_per_shard or max(1, _SHARD_BYTES // bytes_per_clip)
        self._specs = {name: asdict(spec) for name, spec in sorted(arrays.items())}
        self._plan: dict[str, str | int] = {
            "version": VERSION,
            "manifest": records_hash(records),
            "encoders": content_hash(self._card),
            "arrays": content_hash(self._specs),
            "clips_per_shard": self._size,
        }

    def __enter__(self) -> Self:
        """Claim the folder.

        Raises:
            McilError: it holds something else, a store of another manifest or other encoders, is being written
                by another process, or cannot be written to.
        """
        with explain_write_errors(self.path):
            self._refuse_foreign()
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
            try:
                self._claim()
            except BaseException:
                os.close(self._lock)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shards = self.path / SHARDS
        if error is not None and self._made and [*self.path.iterdir()] == [shards]:
            with suppress(OSError):  # shards that are finished stay
                shards.rmdir()
                self.path.rmdir()
        os.close(self._lock)

    def rows(self, number: int) -> range:
        """Return the manifest rows that belong to shard ``number``."""
        return range(number * self._size, min((number + 1) * self._size, len(self.records)))

    def pending(self) -> list[int]:
        """Return the numbers of the shards that are still to be written."""
        return [number for number in range(self._count) if not self._shard_path(number).is_file()]

    def failures(self) -> list[Failure]:
        """Return the failed clips of all finished shards, by row."""
        return [failure for _, shard in self._finished() for failure in shard.failures]

    def write(
        self,
        number: int,
        rows: list[int],
        arrays: Mapping[str, Tensor],
        has_audio: list[bool],
        has_visual: list[bool],
        failures: Sequence[Failure] = (),
    ) -> None:
        """Write shard ``number``: ``arrays`` (len(rows), *shape) for those of its ``rows`` that did not fail."""
        converted = {name: arrays[name].contiguous() for name in self._arrays}
        shard = Shard(self._plan, rows, has_audio, has_visual, list(failures))
        write_shard(self._shard_path(number), shard, converted)

    def drop_failed(self) -> None:
        """Remove the shards with failed clips, so that the next run tries these clips again."""
        failed = [number for number, shard in self._finished() if shard.failures]
        if failed:
            (self.path / CARD).unlink(missing_ok=True)
        for number in failed:
            self._shard_path(number).unlink()

    def write_failures(self, failures: Sequence[Failure]) -> Path:
        """Write ``failures.csv`` (columns row, counted from 1, id and reason) and return its path."""
        columns = {
            "row": [failure.row + 1 for failure in failures],
            "id": [self.records[failure.row].id for failure in failures],
            "reason": [failure.reason for failure in failures],
        }
        path = self.path / FAILURES
        schema = {"row": pl.Int64, "id": pl.String, "reason": pl.String}
        write_text(path, pl.DataFrame(columns, schema=schema).write_csv())
        return path

    def finish(self) -> None:
        """Derive index, list of failures and card from the shards, unless the store is complete already.

        Raises:
            StoreError: a shard is missing or damaged.
            McilError: not one clip could be encoded.
        """
        if (self.path / CARD).is_file():
            return
        shards = [read_shard(self._shard_path(number)) for number in range(self._count)]
        failures = [failure for shard in shards for failure in shard.failures]
        listed = self.write_failures(failures)
        places = [
            (row, number, offset, audio, visual)
            for number, shard in enumerate(shards)
            for offset, (row, audio, visual) in enumerate(
                zip(shard.rows, shard.has_audio, shard.has_visual, strict=True)
            )
        ]
        if not places:
            self.drop_failed()
            raise McilError(f"not one of {len(self.records)} clips could be encoded; the reasons are in {listed}")
        schema = {
            "row": pl.Int64,
            "shard": pl.Int64,
            "offset": pl.Int64,
            "has_audio": pl.Boolean,
            "has_visual": pl.Boolean,
        }
        where = pl.DataFrame(places, schema=schema, orient="row")
        clips = to_frame([self.records[row] for row in where["row"]])
        content = io.BytesIO()
        pl.concat([clips, where.drop("row")], how="horizontal").write_parquet(content)
        with atomic_path(self.path / INDEX) as temporary:
            temporary.write_bytes(content.getvalue())
        paths = [self._shard_path(number) for number in range(self._count)]
        write_json(
            self.path / CARD,
            {
                "format": FORMAT,
                "version": VERSION,
                **self._card,
                "arrays": self._specs,
                "clips": len(places),
                "failures": len(failures),
                "plan": self._plan,
                "index": sha256(self.path / INDEX),
                "shards": [{"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths],
                "root": None if self._root is None else str(self._root.resolve()),
            },
        )

    @property
    def _count(self) -> int:
        return -(-len(self.records) // self._size)

    def _shard_path(self, number: int) -> Path:
        return self.path / SHARDS / shard_name(number)

    def _finished(self) -> list[tuple[int, Shard]]:
        paths = {number: self._shard_path(number) for number in range(self._count)}
        return [(number, read_shard(path)) for number, path in paths.items() if path.is_file()]

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise McilError(f"{self.path}: another process is writing this store; wait for it") from None
        except OSError:
            pass  # Some file systems have no locks; there, two writers at once are not noticed.
        shards = self.path / SHARDS
        shards.mkdir(exist_ok=True)
        for part in [*self.path.glob(".*.part"), *shards.glob(".*.part")]:
            part.unlink()
        if (self.path / CARD).is_file() and not self._card_holds():
            (self.path / CARD).unlink()
        for path in sorted(shards.iterdir()):
            try:
                plan = read_shard(path).plan
            except StoreError:
                path.unlink()
                continue
            self._compare(plan)
        if self.pending():
            (self.path / CARD).unlink(missing_ok=True)

    def _refuse_foreign(self) -> None:
        if not self.path.exists():
            return
        found = {item.name for item in self.path.iterdir() if not item.name.endswith(".part")}
        foreign = found - {CARD, INDEX, SHARDS, FAILURES, TEXT}
        if SHARDS in found:
            inner = [item.name for item in (self.path / SHARDS).iterdir() if not item.name.endswith(".part")]
            foreign |= {f"{SHARDS}/{name}" for name in inner if not name.endswith(".safetensors")}
        if foreign:
            raise McilError(
                f"{self.path}: this folder holds other things ('{min(foreign)}'); choose an empty or a new one"
            )

    def _card_holds(self) -> bool:
        """Whether the card there is readable, of this store, and fits the index."""
        try:
            card = read_json(self.path / CARD, "card of a feature store")
            plan, index = card["plan"], card["index"]
        except (McilError, KeyError, TypeError):
            return False
        self._compare(plan)
        return (self.path / INDEX).is_file() and sha256(self.path / INDEX) == index

    def _compare(self, plan: dict[str, str | int]) -> None:
        words = {
            "version": "by another version of mcil",
            "manifest": "from another manifest",
            "encoders": "with other encoders",
            "arrays": "with another dtype or shape",
            "clips_per_shard": "with another shard size",
        }
        for key, how in words.items():
            if plan.get(key) != self._plan[key]:
                raise McilError(f"{self.path}: a store was begun here {how}; choose another folder or remove this one")
