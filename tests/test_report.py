"""Reports on run folders that are written with the real metrics, store and video files."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.numpy import save_file

from mcil import metrics, report
from mcil.data.store import FeatureStore
from mcil.data.writer import ArraySpec, StoreWriter
from mcil.errors import McilError
from mcil.report.attention import frame_times, likeness, paint, read_attention
from mcil.report.runs import read_runs
from mcil.types import ClipRecord

NAMES = ["anvil", "bell", "crow", "dove", "engine", "flute", "goat", "horn", "ibis", "jay", "kettle", "lute"]
FRAMES, GRID = 4, (3, 4)


def write_video(path: Path, seed: int) -> None:
    """A second of a bright square that wanders over a dark ground."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for step in range(8):
            picture = np.full((48, 64, 3), 40, np.uint8)
            left, top = (seed * 7 + step * 5) % 48, (seed * 11 + step * 2) % 32
            picture[top : top + 16, left : left + 16] = (220, 180, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@dataclass
class Fake:
    """A store with short videos, and runs on it."""

    root: Path
    task_sizes: tuple[int, ...] = (3, 3, 3, 3)
    clips: int = 8
    with_videos: bool = True

    @property
    def names(self) -> list[str]:
        return NAMES[: sum(self.task_sizes)]

    def store(self, name: str = "toys") -> FeatureStore:
        path = self.root / name
        if path.exists():
            return FeatureStore(path)
        media = self.root / f"{name}-media"
        media.mkdir(parents=True)
        records = []
        for row in range(self.clips * len(self.names)):
            label = self.names[row // self.clips]
            video = f"{row}.mp4" if self.with_videos and row < 6 * self.clips else None
            if video and row % self.clips < 2:
                write_video(media / video, row)
            records.append(ClipRecord(f"{label}-{row % self.clips}", label, "test", video=video, audio="a.wav"))
        (media / "a.wav").write_bytes(b"")
        card = {"encoders": {"visual": {"name": "fake", "grid": list(GRID), "view": "full"}}, "made": name}
        spec = {"audio": ArraySpec((2,), "float32")}
        with StoreWriter(path, spec, records, card, root=media) as writer:
            for number in writer.pending():
                rows = list(writer.rows(number))
                writer.write(number, rows, {"audio": torch.zeros(len(rows), 2)}, [True] * len(rows), [True] * len(rows))
            writer.finish()
        return FeatureStore(path)

    def run(
        self,
        method: str,
        seed: int,
        keep: float,
        *,
        store: str = "toys",
        attention: bool = True,
        settings: dict[str, Any] | None = None,
        **said: Any,
    ) -> Path:
        """Write a run folder; each task's accuracy shrinks by the factor ``keep`` with each later task."""
        data = self.store(store)
        random = np.random.default_rng([seed, len(method), round(100 * keep)])
        modality = said.get("modality", "audio-visual")
        predictions = self._predictions(random, modality, keep)
        sizes = list(self.task_sizes)
        result = {
            "method": method,
            "label": method,
            "protocol": "published",
            "modality": modality,
            "seed": seed,
            "seconds": 61.0 + seed,
            "peak_memory_mb": 512.5,
            "versions": {"python": "3.11", "mcil": "0.1.0"},
            "hardware": {"device": "cpu", "cores": 2},
            "data": {
                "store": str(data.path),
                "checksum": data.checksum,
                "clips": {"train": 300, "val": 60, "test": len(data)},
            },
            "task_sizes": sizes,
            "class_names": self.names,
            "memory": 0 if method == "fine-tuning" else 120,
            "parameters": 123456,
            **metrics.summary(predictions, sizes, modality),
            **said,
        }
        count = len(list(self.root.glob("runs/*")))
        folder = self.root / "runs" / f"{count:02d}-{method}-{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
        config = {
            "method": method,
            "seed": seed,
            "store": str(data.path),
            "training": {"protocol": result["protocol"], "epochs": 20},
            **(settings or {}),
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        predictions.write_parquet(folder / "predictions.parquet")
        if attention:
            self._attention(folder, random, keep)
        return folder

    def _predictions(self, random: np.random.Generator, modality: str, keep: float) -> pl.DataFrame:
        ends = np.cumsum(self.task_sizes)
        kinds = ["audio-visual", "audio", "visual"] if modality == "audio-visual" else [modality]
        labels = np.repeat(np.arange(ends[-1]), self.clips)
        task = np.searchsorted(ends, labels, side="right")
        parts = []
        for step, seen in enumerate(ends):
            rows = np.flatnonzero(labels < seen)
            for kind in kinds:
                skill = 0.95 * keep ** (step - task[rows]) * (1.0 if kind == modality else 0.6)
                # Wrong answers mostly go to the next class of the newest task.
                wrong = np.where(random.random(len(rows)) < 0.5, (labels[rows] + 1) % seen, seen - 1)
                answer = np.where(random.random(len(rows)) < skill, labels[rows], wrong)
                columns = {
                    "after_task": np.full(len(rows), step),
                    "inputs": [kind] * len(rows),
                    "row": rows,
                    "clip": [str(row) for row in rows],
                    "label": labels[rows],
                    "prediction": answer,
                    "confidence": random.random(len(rows)),
                }
                parts.append(pl.DataFrame(columns, schema_overrides=metrics.COLUMNS))
        return pl.concat(parts)

    def _attention(self, folder: Path, random: np.random.Generator, keep: float) -> None:
        tasks, patches = len(self.task_sizes), GRID[0] * GRID[1]
        first = random.normal(size=(4, FRAMES, patches))
        logits = np.stack([keep**step * first + (1 - keep**step) * first[..., ::-1] for step in range(tasks)])
        spatial = np.exp(2 * logits) / np.exp(2 * logits).sum(-1, keepdims=True)
        rows = np.array([0, self.clips, 1, self.clips + 1])
        tensors = {
            "spatial": spatial.astype(np.float16),
            "temporal": np.full((tasks, 4, FRAMES), 1 / FRAMES, np.float16),
            "rows": rows.astype(np.int64),
        }
        save_file(tensors, folder / "attention.safetensors")


def usual(root: Path, **options: Any) -> tuple[Fake, list[Path]]:
    fake = Fake(root, **options)
    keeps = {"fine-tuning": 0.15, "av-cil": 0.9, "oracle": 0.99}
    return fake, [fake.run(method, seed, keep) for method, keep in keeps.items() for seed in (0, 1)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], report.ReportFiles]:
    root = tmp_path_factory.mktemp("report")
    _, runs = usual(root)
    return runs, report.write(runs, root / "out")


class Page(HTMLParser):
    """What a page refers to, and whether its tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.sources += [given["src"] or ""] if "src" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        self.ids |= {given["id"] or ""} if "id" in given else set()
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(made: tuple[list[Path], report.ReportFiles]) -> None:
    text = made[1].html.read_text()
    page = Page(text)
    assert not page.open
    assert not page.tags & {"script", "link", "iframe"}
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r"data:image/[^\"]*", "", text)
    assert len(text) < 3_000_000
    for source in page.sources:
        kind, _, content = source.partition(";base64,")
        if kind == "data:image/svg+xml":
            ElementTree.fromstring(base64.b64decode(content))


def test_results_are_mean_and_spread_and_the_best_is_bold(made: tuple[list[Path], report.ReportFiles]) -> None:
    runs, files = made
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    table = pl.read_csv(files.html.parent / "tables/results.csv")
    for method, mean, deviation in zip(
        table["method"], table["mean_accuracy"], table["mean_accuracy_std"], strict=True
    ):
        values = [result["mean_accuracy"] for result in results if result["method"] == method]
        assert mean == pytest.approx(np.mean(values), abs=1e-3)
        assert deviation == pytest.approx(np.std(values, ddof=1), abs=1e-3)
        assert f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}" in files.html.read_text()
    bold = re.findall(
        r"\*\*([^*]+)\*\*",
        next(line for line in files.markdown.read_text().splitlines() if "av-cil" in line and "|" in line),
    )
    assert len(bold) == 5
    assert "**" not in next(line for line in files.markdown.read_text().splitlines() if line.startswith("| oracle"))


def test_all_sections_and_files_are_there(made: tuple[list[Path], report.ReportFiles]) -> None:
    files = made[1]
    text = files.markdown.read_text()
    for title in ("Results", "Accuracy as classes are added", "What was forgotten", "Which classes are confused"):
        assert f"### {title}" in text
    for title in ("Accuracy by class", "sound and picture", "Where the network looks", "Time and memory"):
        assert title in text
    assert "taken for" in text
    assert "attention-1-1.jpg" in text
    assert "Average forgetting" in text
    referred = re.findall(r"\((figures/[^)]+|tables/[^)]+)\)", text)
    written = [*files.tables, *files.figures]
    assert sorted(files.html.parent / name for name in referred) == sorted(written)
    assert all(path.stat().st_size for path in written)
    assert "61.5" in text or "1 min 2 s" in text


def test_equal_runs_give_equal_reports(made: tuple[list[Path], report.ReportFiles], tmp_path: Path) -> None:
    runs, files = made
    assert report.write(runs, tmp_path).html.read_bytes() == files.html.read_bytes()


def test_class_accuracy_and_confusions_follow_the_names(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 1), clips=2, with_videos=False)
    first = fake.run("av-cil", 0, 0.5, attention=False)
    second = fake.run("av-cil", 1, 0.5, attention=False)
    # In the second run the same classes arrive in another order: its class 0 is the first run's class 2.
    result = json.loads((second / "result.json").read_text())
    result |= {"class_names": ["crow", "anvil", "bell"], "class_accuracy": [10.0, 20.0, 30.0]}
    (second / "result.json").write_text(json.dumps(result))
    files = report.write([first, second], tmp_path / "out")
    own = json.loads((first / "result.json").read_text())["class_accuracy"]
    table = pl.read_csv(tmp_path / "out/tables/classes.csv")
    assert table["class"].to_list() == ["anvil", "bell", "crow"]
    expected = [(own[0] + 20) / 2, (own[1] + 30) / 2, (own[2] + 10) / 2]
    assert table["av-cil"].to_list() == pytest.approx(expected, abs=1e-3)
    assert "different orders" in files.markdown.read_text()


def test_nothing_is_bold_where_it_would_not_be_fair(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 2), clips=3, with_videos=False)
    runs = [fake.run("av-cil", 0, 0.9, attention=False), fake.run("fine-tuning", 0, 0.1, attention=False)]
    assert "**" in report.write(runs, tmp_path / "a").markdown.read_text()
    more = [*runs, fake.run("fine-tuning", 1, 0.1, attention=False)]
    text = report.write(more, tmp_path / "b").markdown.read_text()
    assert "different seeds" in text
    assert "**" not in text.replace("**Note:**", "")
    strict = [runs[0], fake.run("fine-tuning", 0, 0.2, attention=False, protocol="strict")]
    text = report.write(strict, tmp_path / "c").markdown.read_text()
    assert "Protocols are mixed" in text
    assert "| Method | Protocol |" in text
    assert "**" not in text.replace("**Note:**", "")


def test_runs_of_one_label_with_other_settings_are_kept_apart(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 2), clips=2, with_videos=False)
    runs = [fake.run("av-cil", 0, 0.9, attention=False, memory=memory) for memory in (50, 100)]
    runs.append(fake.run("av-cil", 0, 0.9, attention=False, memory=100, settings={"options": {"temperature": 0.1}}))
    table = report.write(runs, tmp_path / "out").tables[0]
    names = pl.read_csv(table)["method"].to_list()
    assert names == [
        "av-cil, memory 50, temperature None",
        "av-cil, memory 100, temperature None",
        "av-cil, memory 100, temperature 0.1",
    ]


def test_data_sets_get_tables_of_their_own(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 2), clips=2, with_videos=False)
    runs = [fake.run("av-cil", 0, 0.9, store=name, attention=False) for name in ("birds", "tools")]
    files = report.write(runs, tmp_path / "out")
    text = files.markdown.read_text()
    assert "## Data set birds" in text
    assert "## Data set tools" in text
    assert {"birds-results.csv", "tools-results.csv"} <= {path.name for path in files.tables}
    console = Console(record=True, width=140)
    report.print_table(runs, console)
    said = console.export_text()
    assert "birds: 4 classes in 2 tasks" in said
    assert "tools: 4 classes in 2 tasks" in said


def test_the_terminal_shows_the_table(made: tuple[list[Path], report.ReportFiles]) -> None:
    console = Console(record=True, width=140)
    report.print_table([made[0][0].parent], console)
    said = console.export_text()
    for word in ("fine-tuning", "av-cil", "oracle", "Average forgetting", "±", "upper bounds"):
        assert word in said


def test_one_task_one_modality_one_run(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (3,), clips=2, with_videos=False)
    run = fake.run("av-cil", 0, 0.9, attention=False, modality="audio")
    text = report.write([run], tmp_path / "out").markdown.read_text()
    assert "What was forgotten" not in text
    assert "sound and picture" not in text
    assert not re.search(r"\bnan\b", text.lower())


def test_drops_by_shuffling_are_shown_where_there_are_any(tmp_path: Path) -> None:
    """Results of before the figure existed stand beside new ones, or alone."""
    fake = Fake(tmp_path, (2, 2), clips=3, with_videos=False)
    old = fake.run("fine-tuning", 0, 0.5, attention=False)
    result = json.loads((old / "result.json").read_text())
    del result["shuffle_drop"]
    (old / "result.json").write_text(json.dumps(result))
    alone = report.write([old], tmp_path / "old").markdown.read_text()
    assert "Audio only" in alone
    assert "shuffled" not in alone

    drops = [{"audio": {"mean": 30.0, "last": 20.0}, "visual": {"mean": mean, "last": None}} for mean in (1.0, 4.0)]
    new = [fake.run("er", seed, 0.5, attention=False, shuffle_drop=drop) for seed, drop in enumerate(drops)]
    files = report.write([old, *new], tmp_path / "new")
    lines = [line for line in files.markdown.read_text().splitlines() if line.startswith("|")]
    head = next(place for place, line in enumerate(lines) if "shuffled" in line)
    assert lines[head].endswith("| Drop, audio shuffled | Drop, visual shuffled |")
    assert lines[head + 2].startswith("| fine-tuning |")
    assert lines[head + 2].endswith("| - | - |")
    assert lines[head + 3].endswith("| 30.0 ± 0.0 | 2.5 ± 2.1 |")
    table = pl.read_csv(tmp_path / "new/tables/inputs.csv")
    assert table["audio_shuffled_drop_last"].to_list() == [None, 20.0]
    assert table["visual_shuffled_drop_mean"].to_list() == [None, 2.5]
    assert table["visual_shuffled_drop_last"].to_list() == [None, None]


def test_missing_media_are_said(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 2), clips=2)
    run = fake.run("av-cil", 0, 0.9)
    shutil.rmtree(tmp_path / "toys-media")
    text = report.write([run], tmp_path / "a").markdown.read_text()
    assert "its files are not there any more" in text
    assert "How alike the attention" in text
    shutil.rmtree(tmp_path / "toys")
    assert "the store is not there any more" in report.write([run], tmp_path / "b").html.read_text()


def test_a_clip_that_cannot_be_decoded_is_said(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 2), clips=2)
    run = fake.run("av-cil", 0, 0.9)
    (tmp_path / "toys-media" / "0.mp4").write_text("no video")
    text = report.write([run], tmp_path / "out").markdown.read_text()
    assert "There are no pictures of clip anvil-0" in text
    assert "attention-2-1.jpg" in text


def test_names_are_escaped(tmp_path: Path) -> None:
    fake = Fake(tmp_path, (2, 2), clips=2, with_videos=False)
    run = fake.run("av-cil", 0, 0.9, attention=False, label="<b>a|b</b>")
    files = report.write([run], tmp_path / "out")
    assert "<b>a" not in files.html.read_text()
    assert "a\\|b" in files.markdown.read_text()


def _damage(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("result.json", None, "not finished"),
        ("result.json", b"{", "cannot be read"),
        ("result.json", b"[]", "lacks"),
        ("result.json", b"{}", "lacks"),
        ("config.yaml", b"a: [", "cannot be read"),
        ("config.yaml", b"- 1", "is not what a run writes"),
        ("predictions.parquet", b"PAR1", "cannot be read"),
        ("predictions.parquet", None, "cannot be read"),
        ("attention.safetensors", b"x", "damaged"),
    ],
)
def test_damaged_runs_are_named_in_one_line(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    run = Fake(tmp_path, (2, 2), clips=2).run("av-cil", 0, 0.9)
    _damage(run, name, content)
    with pytest.raises(McilError, match=words) as caught:
        report.write([run], tmp_path / "out")
    assert str(run) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(McilError, match="no such folder"):
        report.write([tmp_path / "none"], tmp_path / "out")
    with pytest.raises(McilError, match="no run folder"):
        report.write([tmp_path], tmp_path / "out")
    with pytest.raises(McilError, match="name at least one"):
        report.write([], tmp_path / "out")
    run = Fake(tmp_path, (2, 2), clips=2, with_videos=False).run("av-cil", 0, 0.9)
    assert len(report.write([run, run, run.parent], tmp_path / "out").tables) > 3
    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(McilError, match="leave one out"):
        report.write([run, tmp_path / "copy"], tmp_path / "out")


def test_places_that_cannot_be_written_to_are_said(tmp_path: Path) -> None:
    run = Fake(tmp_path, (2, 2), clips=2, with_videos=False).run("av-cil", 0, 0.9, attention=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(McilError, match=r"in the way|not a folder"):
        report.write([run], tmp_path / "file")
    text = report.write([run], tmp_path / "out").html.read_text()
    assert str(tmp_path) not in text  # a page that is handed on tells nothing about this machine's folders


def test_paint_shows_where_the_attention_is() -> None:
    frame = np.full((48, 64, 3), 100, np.uint8)
    attention = np.zeros(12)
    attention[7] = 1.0  # second row, last column
    painted = paint(frame, attention, {"grid": [3, 4], "view": "full"}, 0.0, 1.0).astype(float).sum(-1)
    row, column = np.unravel_index(painted.argmax(), painted.shape)
    assert 16 <= row < 32
    assert column >= 48
    centre = paint(frame, np.ones(12), {"grid": [3, 4], "view": "centre"}, 0.0, 1.0).astype(float).sum(-1)
    assert centre[24, 32] > centre[24, 4] + 100
    assert np.ptp(centre[:, :8]) == 0


def test_likeness_is_the_correlation_of_the_patterns(tmp_path: Path) -> None:
    run = Fake(tmp_path, (2, 2), clips=2, with_videos=False).run("av-cil", 0, 0.7)
    record = read_attention(read_runs([run])[0].runs[0])
    assert record is not None
    expected = [
        [np.mean([np.corrcoef(record.spatial[0, k, n], after[k, n])[0, 1] for n in range(FRAMES)]) for k in range(4)]
        for after in record.spatial
    ]
    np.testing.assert_allclose(likeness(record), expected, atol=1e-9)
    assert np.isnan(likeness(replace(record, spatial=np.full_like(record.spatial, 0.25)))).all()


def test_frame_times_follow_the_card() -> None:
    assert frame_times({}, 4, 2.0).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert frame_times({"frame_fractions": [0.0, 0.5]}, 2, 3.0).tolist() == [0.0, 1.5]
    assert frame_times({"seconds": 10.0}, 2, 20.0).tolist() == [2.5, 7.5]
    assert frame_times({"seconds": 10.0}, 2, 4.0).tolist() == [1.0, 3.0]


def test_what_the_spread_does_not_set_apart_from_the_best_is_bold_too(tmp_path: Path) -> None:
    """The best one's spread counts: a method that scatters is not the better for it."""
    fake = Fake(tmp_path, (2, 2), clips=40, with_videos=False)
    scores = {"close": (0.9, 0.7), "best": (1.0, 0.7), "far": (0.1, 0.1), "scattered": (0.8, 0.0)}
    runs = [
        fake.run(name, seed, score, attention=False) for name, both in scores.items() for seed, score in enumerate(both)
    ]
    text = report.write(runs, tmp_path / "out").markdown.read_text()
    rows = {name: next(line for line in text.splitlines() if line.startswith(f"| {name} ")) for name in scores}
    last = {name: rows[name].split(" | ")[5].startswith("**") for name in scores}
    assert last == {"close": True, "best": True, "far": False, "scattered": False}, rows
