"""Where the network looks: the audio-guided attention after each task, painted over the frames of a few clips."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageDraw, ImageFont
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mcil.data.store import FeatureStore
from mcil.errors import McilError, StoreError
from mcil.experiment import Run
from mcil.media import Clip
from mcil.metrics import mean_and_spread
from mcil.metrics.outcomes import mean, ratio
from mcil.report.blocks import Block, Cell, Gallery, Picture, Table, Text
from mcil.report.figures import FEW
from mcil.report.runs import DataSet, Method
from mcil.report.tables import said

Floats = npt.NDArray[np.float64]
Pictures = npt.NDArray[np.uint8]

CLIPS, STRIPS = 3, 60  # most clips; most rows of frames in all pictures together, which bounds the page's size
FRAMES = 4
TILE = 128  # pixels across a painted frame
_EDGE, _TOP, _GAP = 60, 20, 3


@dataclass(frozen=True)
class Attention:
    """Attention of a run after each task: ``spatial`` (T,K,L,S), sums to one over S; ``rows`` (K,) of the store."""

    run: Run
    spatial: Floats
    rows: list[int]


def read_attention(run: Run) -> Attention | None:
    """Read ``attention.safetensors`` of a run; None where it has none.

    Raises:
        McilError: the file is damaged.
    """
    path = run.folder / "attention.safetensors"
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        return Attention(run, tensors["spatial"].astype(np.float64), tensors["rows"].tolist())
    except (SafetensorError, KeyError, OSError) as error:
        raise McilError(f"{path}: the attention record is damaged ({error}); delete it or run again") from error


def likeness(attention: Attention) -> Floats:
    """How alike the attention after each task is to that after task 1: (T,K), from -1 to 1.

    Pearson correlation over the patches of a frame, averaged over the frames; NaN where a map is even everywhere.
    It compares patterns, not strengths: the mean of softmax maps over many channels is always nearly even.
    """
    centred = attention.spatial - attention.spatial.mean(-1, keepdims=True)
    products = (centred[:1] * centred).sum(-1)
    norms = np.sqrt((centred**2).sum(-1))
    return mean(ratio(products, norms[:1] * norms))


def blocks(data: DataSet, prefix: str = "") -> list[Block]:
    """Table and pictures of the attention; nothing where no run recorded any."""
    found: list[tuple[Method, list[Attention]]] = []
    for method in data.methods:
        records = [record for run in method.runs if (record := read_attention(run)) is not None]
        if records:
            found.append((method, records))
    if not found:
        return []
    table = _likeness_table(found, len(data.task_sizes), prefix)
    return [table, *_painted([(method, records[0]) for method, records in found], prefix)]


def _likeness_table(found: Sequence[tuple[Method, list[Attention]]], tasks: int, prefix: str) -> Table:
    columns = [f"Task {step + 1}" for step in range(tasks)]
    rows, raw = [], []
    for method, records in found:
        by_clip = [mean(likeness(record)) for record in records]
        spreads = [mean_and_spread(float(values[step]) for values in by_clip) for step in range(tasks)]
        cells = [Cell(said(spread, 2), shade=max(0.0, spread.mean) if spread.runs else None) for spread in spreads]
        rows.append([Cell(method.name), *cells])
        raw.append({"method": method.name} | {c: round(s.mean, 4) for c, s in zip(columns, spreads, strict=True)})
    return Table(
        f"{prefix}attention",
        "How alike the attention after each task is to that after task 1, on test clips of the first task: "
        "correlation over the patches of a frame. 1 means that the network still looks where it did, 0 that "
        "nothing is left of the pattern.",
        ["Method", *columns],
        rows,
        pl.DataFrame(raw),
    )


def _painted(found: Sequence[tuple[Method, Attention]], prefix: str) -> list[Block]:
    first = found[0][1]
    where = first.run.result["data"]["store"]
    try:
        store = FeatureStore(Path(where))
    except StoreError as error:
        return [Text(f"There are no pictures here, because the store is not there any more: {error}.")]
    if store.checksum != first.run.result["data"]["checksum"]:
        return [Text(f"There are no pictures here, because the store {where} has changed since the run.")]
    card: dict[str, Any] = store.card.get("encoders", {}).get("visual", {})
    if "grid" not in card:
        return [Text("There are no pictures here, because the store does not say how its patches lie in the picture.")]
    galleries: list[Block] = []
    clips = max(1, min(CLIPS, STRIPS // (len(found) * (len(first.spatial) + 1))))
    for place, row in enumerate(_choose(first.rows, store)[:clips]):
        clip = store.media(row)
        if clip is None:
            gone = f"There are no pictures of clip {store.ids[row]}, because its files are not there any more."
            galleries.append(Text(gone))
            continue
        try:
            galleries.append(_clip(found, row, clip, card, f"{prefix}attention-{place + 1}"))
        except McilError as error:
            galleries.append(Text(f"There are no pictures of clip {store.ids[row]}: {error}."))
    return galleries


def _choose(rows: Sequence[int], store: FeatureStore) -> list[int]:
    """The rows in turn from each class."""
    turns: dict[str, int] = {}
    keyed = []
    for row in rows:
        turns[store.labels[row]] = turns.get(store.labels[row], 0) + 1
        keyed.append((turns[store.labels[row]], row))
    return [row for _, row in sorted(keyed, key=lambda pair: pair[0])]


def _clip(found: Sequence[tuple[Method, Attention]], row: int, clip: Clip, card: dict[str, Any], name: str) -> Gallery:
    """One picture a method: the frames, and below them the attention after each task."""
    maps = {
        method.name: (record, record.spatial[:, record.rows.index(row)])
        for method, record in found
        if row in record.rows
    }
    frames_of_map = next(iter(maps.values()))[1].shape[1]
    chosen = np.unique(np.linspace(0, frames_of_map - 1, min(FRAMES, frames_of_map)).round().astype(int))
    times = frame_times(card, frames_of_map, clip.visual_duration)[chosen]
    frames = np.stack([_small(frame) for frame in clip.frames(times)])
    values = np.concatenate([spatial[:, chosen].ravel() for _, spatial in maps.values()])
    even, high = 1 / (card["grid"][0] * card["grid"][1]), float(np.quantile(values, 0.99))
    pictures = []
    for place, (method, (record, spatial)) in enumerate(maps.items()):
        painted = [
            [paint(frame, part, card, even, high) for frame, part in zip(frames, after[chosen], strict=True)]
            for after in spatial
        ]
        title = f"{method}, seed {record.run.result['seed']}"
        alt = f"{clip.record.label}: frames and painted attention after each of {len(painted)} tasks."
        pictures.append(Picture(f"{name}-{place + 1}", title, alt, _sheet(frames, painted, times), "jpg"))
    caption = (
        "Top row: the frames; below: after each task, the brighter a place the more the sound draws attention to it. "
        "Grey places get no more than even attention; the brightest, on one scale for all these pictures, "
        f"{high / even:.2f} times that or more."
    )
    title = f"{clip.record.label} (clip {clip.record.id})"
    return Gallery(caption, pictures, "medium", title, folded=len(pictures) > FEW)


def frame_times(card: dict[str, Any], count: int, duration: float) -> Floats:
    """Times (L,) in seconds of the frames of a map: as the encoder's card says, else centres of equal segments.

    Where the card says how many ``seconds`` of a clip were read, the frames are of these.
    """
    fractions = card.get("frame_fractions") or (np.arange(count) + 0.5) / count
    read: float = min(duration, card.get("seconds", duration))
    return np.asarray(fractions, dtype=np.float64) * read


def paint(frame: Pictures, attention: Floats, card: dict[str, Any], low: float, high: float) -> Pictures:
    """Paint attention (S,) over a frame (H,W,3): ``low`` is transparent, ``high`` and above bright.

    With the card's view "centre" the patches cover the square in the middle; the rest stays unpainted and grey.
    """
    height, width = frame.shape[:2]
    rows, columns = card["grid"]
    level = np.clip((attention.reshape(rows, columns) - low) / max(high - low, 1e-12), 0, 1)
    side = min(height, width)
    across, down = (side, side) if card.get("view") == "centre" else (width, height)
    smooth = Image.fromarray(level.astype(np.float32)).resize((across, down), Image.Resampling.BICUBIC)
    strength = np.zeros((height, width))
    top, left = (height - down) // 2, (width - across) // 2
    strength[top : top + down, left : left + across] = np.clip(np.asarray(smooth), 0, 1)
    colour = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    grey = np.repeat(frame.mean(axis=-1, keepdims=True), 3, axis=-1)
    alpha = 0.85 * np.sqrt(strength)[..., None]
    return np.clip(grey * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)


def _small(frame: Pictures) -> Pictures:
    height = max(1, round(TILE * frame.shape[0] / frame.shape[1]))
    return np.asarray(Image.fromarray(frame).resize((TILE, height), Image.Resampling.LANCZOS))


def _sheet(frames: Pictures, painted: list[list[Pictures]], times: Floats) -> bytes:
    """Put frames and painted frames on one sheet, with their times above and the tasks on the left: JPEG."""
    height, width = frames.shape[1:3]
    rows = [("frames", list(frames)), *((f"task {task + 1}", row) for task, row in enumerate(painted))]
    size = (_EDGE + (width + _GAP) * len(frames), _TOP + (height + _GAP) * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 15)
    for column, time in enumerate(times):
        draw.text((_EDGE + column * (width + _GAP) + width / 2, 1), f"{time:.1f} s", "#22303c", font, anchor="ma")
    for line, (title, tiles) in enumerate(rows):
        top = _TOP + line * (height + _GAP)
        draw.text((2, top + height / 2), title, "#22303c", font, anchor="lm")
        for column, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (_EDGE + column * (width + _GAP), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()
