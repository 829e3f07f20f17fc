"""From a manifest to a feature store: every clip is decoded and encoded once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mcil.data.class_text import describe_store
from mcil.data.manifest import read_manifest
from mcil.data.progress import progress
from mcil.data.shards import DTYPES, ArraySpec, DType, Failure
from mcil.data.store import FeatureStore
from mcil.data.workers import check_jobs, map_in_order
from mcil.data.writer import StoreWriter
from mcil.encoders import AnyEncoder, Encoder, TextEncoder
from mcil.encoders.prompts import prompts_for
from mcil.encoders.weights import LazyTower
from mcil.errors import McilError, MediaError
from mcil.media import Clip
from mcil.types import ClipRecord

logger = logging.getLogger(__name__)

_SHARD_BYTES = 64 * 2**20
_WAITING_BYTES = 256 * 2**20  # of a modality's prepared arrays that are encoded together

Prepared = dict[str, npt.NDArray[Any]]


def extract(
    manifest: Path,
    out: Path,
    encoders: Sequence[AnyEncoder],
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    jobs: int | None = None,
    max_failures: int | None = None,
    batch_size: int = 32,
    retry: bool = False,
    clips_per_shard: int = 256,
    prompts: str = "general",
) -> FeatureStore:
    """Encode every clip of ``manifest`` into the store ``out``.

    Stopped at any moment (Ctrl-C, ``kill -9``, power) and called again, it goes on where it was and ends with the
    same bytes. A complete store of the same manifest, encoders and dtype is returned at once. A clip of which a
    file cannot be decoded is left out and listed in ``failures.csv``. A clip that names no file for a modality gets
    zeros there, and ``has_audio`` or ``has_visual`` False; a modality that no clip has is left out of the store.
    A text encoder describes the classes once the store is complete (:mod:`mcil.data.class_text`).

    Args:
        manifest: see :func:`mcil.data.manifest.read_manifest`.
        out: the folder of the store.
        encoders: at most one for each modality.
        dtype: of the stored arrays, where the encoder has none of its own; "auto" is float32 for vectors and float16
            for tokens, of sounds too.
        jobs: processes that decode and prepare clips; all cores by default.
        max_failures: with more failed clips than these it stops; a tenth of the clips (at least one) by default.
        batch_size: clips that are encoded together, fewer where what was read of them would pass 256 MiB; features may
            depend on it in the last bits.
        retry: try the failed clips of an earlier call again.
        clips_per_shard: at most so many clips are done again after a kill; fewer where a shard would pass 64 MiB.
        prompts: what a text encoder is told of each class: see :func:`mcil.encoders.prompts.prompts_for`.

    Raises:
        McilError: manifest, encoders or folder do not fit, too many clips failed, a process was killed, or the
            disk is full. What was finished is kept for the next call.
    """
    manifest, out = Path(manifest), Path(out)
    if batch_size < 1 or clips_per_shard < 1 or (max_failures or 0) < 0:
        raise McilError("batch_size and clips_per_shard must be at least 1, and max_failures at least 0")
    check_jobs(jobs)
    prompts_for([], prompts)
    texts = [encoder for encoder in encoders if isinstance(encoder, TextEncoder)]
    records = read_manifest(manifest)
    used = _used_encoders(encoders, records)
    specs = {name: ArraySpec(encoder.shape, _dtype_of(encoder, dtype)) for name, encoder in used.items()}
    card = {"encoders": {name: encoder.card() for name, encoder in used.items()}, "batch_size": batch_size}
    size = max(1, min(clips_per_shard, _SHARD_BYTES // sum(spec.nbytes for spec in specs.values())))
    root = manifest.parent
    with StoreWriter(out, specs, records, card, root=root, clips_per_shard=size) as writer:
        if retry:
            writer.drop_failed()
        pending = writer.pending()
        for encoder in [*used.values(), *texts] if pending else []:
            if isinstance(encoder, LazyTower):
                encoder.tower()  # a device or weights that are not there are found before any clip is decoded
        failures = writer.failures() if pending else []
        limit = max(1, len(records) // 10) if max_failures is None else max_failures
        _check_failures(writer, failures, limit)
        todo = [records[row] for number in pending for row in writer.rows(number)]
        with (
            closing(map_in_order(_Prepare(tuple(used.items()), root), todo, jobs)) as prepared,
            progress("extracting", len(records), len(records) - len(todo)) as advance,
        ):
            for number in pending:
                shard = _ShardBuilder(used, specs, batch_size)
                for row in writer.rows(number):
                    result = next(prepared)
                    if isinstance(result, str):
                        shard.failures.append(Failure(row, result))
                        _check_failures(writer, [*failures, *shard.failures], limit)
                    else:
                        shard.add(row, records[row], result)
                    advance()
                arrays = shard.finish()
                writer.write(number, shard.rows, arrays, shard.has["audio"], shard.has["visual"], shard.failures)
                failures += shard.failures
        writer.finish()
    if failures:
        logger.warning("%d clips could not be read and were left out; see %s", len(failures), out / "failures.csv")
    store = FeatureStore(out)
    for encoder in texts:
        describe_store(store, encoder, prompts)
    return store


@dataclass(frozen=True)
class _Prepare:
    """What the worker processes do with a clip: its prepared arrays, or why there are none."""

    encoders: tuple[tuple[str, Encoder], ...]
    root: Path

    def __call__(self, record: ClipRecord) -> Prepared | str:
        clip = Clip(record, self.root)
        try:
            return {name: encoder.prepare(clip) for name, encoder in self.encoders if _has(record, name)}
        except MediaError as error:
            # Without the folder, so that a store's bytes do not depend on where the data lies.
            return str(error).removeprefix(f"{self.root}/")


class _ShardBuilder:
    """Collects the clips of a shard, which are encoded in batches, and their arrays."""

    def __init__(self, encoders: dict[str, Encoder], specs: dict[str, ArraySpec], batch_size: int) -> None:
        self.rows: list[int] = []
        self.has: dict[str, list[bool]] = {"audio": [], "visual": []}
        self.failures: list[Failure] = []
        self._encoders, self._specs, self._batch_size = encoders, specs, batch_size
        self._ids: list[str] = []
        self._waiting: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in encoders}
        self._done: dict[str, list[Tensor]] = {name: [] for name in encoders}

    def add(self, row: int, record: ClipRecord, prepared: Prepared) -> None:
        self.rows.append(row)
        self._ids.append(record.id)
        for name, flags in self.has.items():
            flags.append(name in prepared)
        for name, array in prepared.items():
            self._waiting[name].append(array)
            if len(self._waiting[name]) >= min(self._batch_size, _WAITING_BYTES // max(array.nbytes, 1)):
                self._encode(name)

    def finish(self) -> dict[str, Tensor]:
        """Return the arrays of all clips that were added, with zeros where a clip lacks the modality."""
        arrays = {}
        for name, spec in self._specs.items():
            if self._waiting[name]:
                self._encode(name)
            arrays[name] = torch.zeros(len(self.rows), *spec.shape, dtype=DTYPES[spec.dtype])
            if self._done[name]:
                arrays[name][torch.tensor(self.has[name])] = torch.cat(self._done[name])
        return arrays

    def _encode(self, name: str) -> None:
        encoded = self._encoders[name].encode(np.stack(self._waiting[name]))
        stored = torch.from_numpy(encoded).to(DTYPES[self._specs[name].dtype])
        finite = torch.isfinite(stored).flatten(1).all(1)
        if not finite.all():
            with_it = [clip for clip, has in zip(self._ids, self.has[name], strict=True) if has]
            clip = with_it[sum(map(len, self._done[name])) + int(finite.logical_not().nonzero()[0, 0])]
            raise McilError(
                f"clip '{clip}': its {name} features do not fit into {self._specs[name].dtype} or are no numbers; "
                "try float32 or bfloat16"
            )
        self._done[name].append(stored)
        self._waiting[name].clear()


def _has(record: ClipRecord, modality: str) -> bool:
    return record.audio is not None if modality == "audio" else (record.video or record.image) is not None


def _used_encoders(encoders: Sequence[AnyEncoder], records: Sequence[ClipRecord]) -> dict[str, Encoder]:
    """Return the encoders of clips by modality, without those that no clip has anything for."""
    given: dict[str, AnyEncoder] = {}
    for encoder in encoders:
        if encoder.modality in given:
            first = given[encoder.modality].name
            raise McilError(f"'{first}' and '{encoder.name}' both encode {encoder.modality}; choose one of them")
        given[encoder.modality] = encoder
    used = {name: encoder for name, encoder in given.items() if isinstance(encoder, Encoder)}
    if given and not used:
        raise McilError(
            f"'{given['text'].name}' reads text only, no clips; choose an encoder of sounds or pictures beside it"
        )
    if not used:
        raise McilError("no encoder is given; choose at least one")
    for name in list(used):
        if not any(_has(record, name) for record in records):
            logger.warning("no clip has %s files; the store will have no %s features", name, name)
            del used[name]
        elif lacking := [record.id for record in records if not _has(record, name)]:
            logger.warning(
                "%d of %d clips have no %s (first: '%s'); say with 'missing' of a run whether to drop them",
                len(lacking),
                len(records),
                name,
                lacking[0],
            )
    if not used:
        raise McilError("none of these encoders reads what the clips have; choose another one")
    return used


def _dtype_of(encoder: Encoder, dtype: Literal["auto", "float32", "float16", "bfloat16"]) -> DType:
    if encoder.dtype is not None:
        return encoder.dtype
    if dtype == "auto":
        return "float32" if len(encoder.shape) == 1 else "float16"
    return dtype


def _check_failures(writer: StoreWriter, failures: list[Failure], limit: int) -> None:
    if len(failures) <= limit:
        return
    listed = writer.write_failures(failures)
    writer.drop_failed()
    first = "; ".join(failure.reason for failure in failures[:3])
    raise McilError(
        f"{len(failures)} clips cannot be read, more than the {limit} that may fail: {first}; all are listed in "
        f"{listed}; mend them or allow more failures, then run the same command again"
    )
