"""Which object sounds? Attention on scenes of eight real pictures, one of which sounds: learners, and what bounds them.

``python -m benchmarks.scenes DATA --out OUT`` does it all, and goes on where it was stopped: each row and seed is a
file. ``--results FOLDER`` also writes what is small and holds no data: all figures, tables and a chart.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from benchmarks.comparison import EPOCHS, STRENGTHS
from benchmarks.real_data_sets import COMPARED, Prepared, prepare_scenes
from mcil import Learner, Scenario, TrainingOptions
from mcil.data.store import FeatureStore
from mcil.files import read_json, write_json, write_text
from mcil.learner import Attention
from mcil.methods import METHODS
from mcil.metrics import mean_and_spread
from mcil.report.figures import COLOURS, FAINT, INK, MARKERS
from mcil.types import SPLITS, Modality, Split

Array = npt.NDArray[Any]
Splits = Mapping[Split, Array]

SEEDS = (0, 1, 2)
MEMORY = COMPARED["esc-tin24-scenes"].memory
TRAINING = TrainingOptions(batch_size=64, exemplar_batch_size=32)
EVEN = 0.125  # share of even attention: the object fills 8 of 64 cells
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6)
WEIGHTS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)  # of the sound's log posterior beside the pictures'
RESAMPLED = 2000


@dataclass(frozen=True)
class Row:
    """A learner: a method, what differs from its defaults, and what differs from the training of its study."""

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    modality: Modality = "audio-visual"
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Learners that are compared: all classes in so many tasks, each trained for so many epochs."""

    name: str
    tasks: int
    epochs: int
    rows: tuple[Row, ...]


def guided(name: str, training: Mapping[str, Any] | None = None, **options: Any) -> Row:
    """Return a row of ``sam-audio-cil`` with one thing changed."""
    return Row(name, "sam-audio-cil", options, training=training or {})


CLOSED = (Row("slda", "slda"), Row("acil-av", "acil-av"), Row("mil-lda", "mil-lda"))
JOINT = Study(
    "joint",
    tasks=1,
    epochs=EPOCHS,
    rows=(
        Row("AV-CIL's attention (fine-tuning)", "fine-tuning"),
        guided("sam-audio-cil, sound alone", fusion="audio"),
        guided("sam-audio-cil, naive", fusion="naive"),
        guided("sam-audio-cil, guided"),
        guided("guided, no positions", positions="none"),
        guided("guided, dropout 0.5", dropout=0.5),
        guided("guided, width 128", width=128),
        guided("guided, learning rate 3e-4", {"learning_rate": 3e-4}),
        guided("guided, weight decay 1e-2", {"weight_decay": 1e-2}),
        *CLOSED,
        Row("mil-lda, sound alone", "mil-lda", modality="audio"),
    ),
)
INCREMENTAL = Study(
    "incremental",
    tasks=6,
    epochs=EPOCHS,
    rows=(
        Row("av-cil", "av-cil"),
        guided("sam-audio-cil"),
        Row("sam-audio-analytic", "sam-audio-analytic"),
        *CLOSED,
    ),
)
STUDIES = (JOINT, INCREMENTAL)
FINDER = "mil-lda"  # the learner that every row is compared with
FOLLOWED = (FINDER, "av-cil", "sam-audio-cil")  # whose share is shown after each task


@dataclass(frozen=True)
class Scenes:
    """The store of the scenes, and what no learner may read: where the sounding object is, and which sound it is.

    ``sounding`` (N,L,S) bool, the cells of the object that sounds; ``sounds`` (N,), the same number for the same sound.
    """

    store: FeatureStore
    order: list[str]
    sounding: Tensor
    sounds: Array


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenes", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the store and a file for each row and seed")
    parser.add_argument("--results", type=Path, help="folder to collect the small results in")
    chosen = parser.parse_args()
    prepared = prepare_scenes(chosen.data, chosen.out / "store", chosen.out)
    scenes = read_scenes(chosen.data, prepared)
    bounded = bounds(chosen.data)
    # What takes seconds comes first; then a seed of everything before the next.
    jobs = [(study, row, seed) for seed in SEEDS for study in STUDIES for row in study.rows]
    for study, row, seed in sorted(jobs, key=lambda job: not METHODS[job[1].method].closed_form):
        result = run(scenes, study, row, seed, chosen.out)
        print(f"{study.name}: {row.name}, seed {seed}: {result['test'][-1]:.1f}", flush=True)
        if chosen.results is not None:
            collect(scenes, chosen.out, bounded, chosen.results)


def read_scenes(data: Path, prepared: Prepared) -> Scenes:
    """Return the prepared store with what the archive in ``data`` says of its scenes, which are in the same order."""
    with np.load(data / "esc_tin24_scenes.npz", allow_pickle=False) as arrays:
        sounding, sounds = sounding_cells(arrays["scene_target"]), arrays["scene_audio"]
    return Scenes(FeatureStore(prepared.store), prepared.class_order, sounding, sounds)


def sounding_cells(target: Array) -> Tensor:
    """Return which cells (N,L,16) of each frame's 4 x 4 are those of the quadrant ``target`` (N,L); none where -1."""
    row, column = np.divmod(np.arange(16), 4)
    return torch.from_numpy(target[..., None] == row // 2 * 2 + column // 2)


def share(attention: Attention, sounding: Tensor) -> float:
    """Return the share of attention that falls on ``sounding`` cells (N,L,S), mean over scenes."""
    weights = attention.temporal[..., None] * attention.spatial
    return float((weights * sounding).sum(dim=(1, 2)).mean())


def run(scenes: Scenes, study: Study, row: Row, seed: int, out: Path) -> dict[str, Any]:
    """Return what a learner reaches; from its file below ``out`` where that is there and of the same settings."""
    kept = finished(study, row, seed, out)
    if kept is not None:
        return kept
    training = TrainingOptions(**settings(study, row, seed)["training"])
    learner = Learner(row.method, row.options, memory=MEMORY, modality=row.modality, training=training, seed=seed)
    result = {"settings": settings(study, row, seed), **learn(learner, scenes, study.tasks)}
    write_json(_file(study, row, seed, out), result)
    return result


def finished(study: Study, row: Row, seed: int, out: Path) -> dict[str, Any] | None:
    """Return the result of a row and seed that is below ``out``, or None where there is none of these settings."""
    path = _file(study, row, seed, out)
    kept: dict[str, Any] | None = read_json(path, "result of a row") if path.exists() else None
    return kept if kept is not None and kept["settings"] == settings(study, row, seed) else None


def settings(study: Study, row: Row, seed: int) -> dict[str, Any]:
    """Return all that a result depends on besides the data."""
    training = asdict(replace(TRAINING, epochs=study.epochs, **row.training))
    return {
        "study": study.name,
        "tasks": study.tasks,
        "row": asdict(row),
        "seed": seed,
        "memory": MEMORY,
        "training": training,
    }


def _file(study: Study, row: Row, seed: int, out: Path) -> Path:
    return out / "rows" / study.name / f"{row.name.replace(' ', '_')}-seed{seed}.json"


def learn(learner: Learner, scenes: Scenes, tasks: int) -> dict[str, Any]:
    """Learn all classes in so many ``tasks``; return what is reached after each, over all classes seen by then.

    ``test`` and ``validation`` accuracy in percent; ``share`` of attention on the sounding object of test scenes, from
    0 to 1, None without attention; ``right``, for each test scene of the store's order, whether the last prediction is.
    """
    scenario = Scenario(scenes.store, tasks, scenes.order, modality=learner.modality)
    reached: dict[str, list[Any]] = {"test": [], "validation": [], "share": []}
    rows: Array = np.zeros(0, dtype=np.int64)
    right = torch.zeros(0)
    for task in scenario.tasks:
        learner.learn(scenario.clips(task.train), task.class_names, validation=scenario.clips(task.val))
        seen = scenario.tasks[: task.index + 1]
        for name, split in (("validation", "val"), ("test", "test")):
            rows = np.concatenate([getattr(part, split) for part in seen])
            clips = scenario.clips(rows)
            right = learner.predict(clips.audio, clips.visual).labels == clips.labels
            reached[name].append(100 * float(right.double().mean()))
        attention = None
        if clips.audio is not None and clips.visual is not None:
            attention = learner.attention(clips.audio, clips.visual)
        reached["share"].append(None if attention is None else share(attention, scenes.sounding[rows]))
    return {**reached, "right": right[np.argsort(rows)].int().tolist()}


def bounds(data: Path) -> dict[str, dict[str, Any]]:
    """Return what recognisers reach that read what no learner may: accuracies, and which test scenes are right.

    All classes at once. What is chosen (shrinkage, strength, weight) is chosen on validation scenes.
    """
    with np.load(data / "esc_tin24_scenes.npz", allow_pickle=False) as scenes:
        audio, tokens, images = scenes["audio"], scenes["tokens"].astype(np.float32), scenes["scene_images"]
        labels, target, split, rows = (scenes[f"scene_{name}"] for name in ("label", "target", "split", "audio"))
    with np.load(data / "esc_tin24.npz", allow_pickle=False) as pairs:
        pictured = pairs["visual_y"].astype(np.int64)
    own: Splits = {name: split == place for place, name in enumerate(SPLITS)}
    classes = int(labels.max()) + 1
    y: Splits = {name: labels[where].astype(np.int64) for name, where in own.items()}

    # The same picture of the sounding object is in two frames.
    frame = (target >= 0).argmax(axis=1)
    scene = np.arange(len(labels))
    seen = tokens[images[scene, frame, target[scene, frame]]].mean(axis=1)
    sound = standardised({name: audio[rows[where]] for name, where in own.items()})
    looks = standardised({name: seen[where] for name, where in own.items()})
    both = standardised(
        {name: np.concatenate([audio[rows[where]], seen[where]], axis=1) for name, where in own.items()}
    )
    there = np.zeros((len(labels), classes), dtype=np.bool_)
    np.put_along_axis(there, pictured[images.reshape(len(labels), -1)], True, axis=1)

    models = {"LDA": best(discriminants(sound, y, classes), y), "logistic regression": best(regressions(sound, y), y)}
    found: dict[str, Splits] = {f"sound alone: {model}": heard for model, heard in models.items()}
    for model, heard in models.items():
        told: Splits = {name: only(heard[name], there[where]) for name, where in own.items()}
        found[f"told the eight classes of the scene: {model}"] = told
    for model, heard in models.items():
        scored = with_pictures(heard, tokens.mean(axis=1), pictured, images, own, classes)
        found[f"taught all pictures' own labels and places: {model}"] = best(scored, y)
    for name, features in (("picture of the object that sounds", looks), ("sound, and that picture", both)):
        found[f"{name}: LDA"] = best(discriminants(features, y, classes), y)
        found[f"{name}: logistic regression"] = best(regressions(features, y), y)
    return {name: judged(scores, y) for name, scores in found.items()}


def standardised(parts: Splits) -> Splits:
    """Return features with mean 0 and deviation 1 in the training split."""
    scaler = StandardScaler().fit(parts["train"].astype(np.float64))
    return {name: scaler.transform(part.astype(np.float64)) for name, part in parts.items()}


def discriminants(features: Splits, y: Splits, classes: int) -> Iterator[Splits]:
    """Yield the log posteriors of linear discriminant analysis, all classes as likely, for each shrinkage."""
    for shrinkage in SHRINKAGES:
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(classes, 1 / classes))
        model.fit(features["train"], y["train"])
        yield {name: model.predict_log_proba(part) for name, part in features.items()}


def regressions(features: Splits, y: Splits) -> Iterator[Splits]:
    """Yield the log posteriors of logistic regression for each strength."""
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300).fit(features["train"], y["train"])
        yield {name: model.predict_log_proba(part) for name, part in features.items()}


def with_pictures(
    heard: Splits, pictures: Array, pictured: Array, images: Array, own: Splits, classes: int
) -> Iterator[Splits]:
    """Yield the scores of scenes by the sound and by all their objects' pictures.

    ``pictures`` (P,D) and their classes ``pictured`` (P,) teach linear discriminants, those of training scenes
    only. A scene, of pictures ``images`` (N,L,4), is as likely with class c as the mean of its objects' posteriors
    of c says, times the posterior ``heard`` to some power.
    """
    taught = np.unique(images[own["train"]])
    features: Splits = standardised({"train": pictures[taught], "test": pictures})
    for looked in discriminants(features, {"train": pictured[taught]}, classes):
        objects = np.exp(looked["test"])[images.reshape(len(images), -1)].mean(axis=1)
        for weight in WEIGHTS:
            yield {name: weight * heard[name] + np.log(objects[where] + 1e-12) for name, where in own.items()}


def only(scores: Array, present: Array) -> Array:
    """Return scores (N,C) with those of classes that are not ``present`` (N,C) below all others."""
    return np.where(present, scores, -np.inf)


def best(candidates: Iterator[Splits], y: Splits) -> Splits:
    """Return the scores that are right most often on validation scenes; the first of equals."""
    return max(candidates, key=lambda scores: float((scores["val"].argmax(axis=1) == y["val"]).mean()))


def judged(scores: Splits, y: Splits) -> dict[str, Any]:
    """Return accuracies in percent, and which test scenes are right."""
    right: Splits = {name: scores[name].argmax(axis=1) == y[name] for name in ("val", "test")}
    accuracies = {"validation": 100 * float(right["val"].mean()), "test": 100 * float(right["test"].mean())}
    return {**accuracies, "right": right["test"].astype(int).tolist()}


def collect(scenes: Scenes, out: Path, bounded: Mapping[str, Mapping[str, Any]], results: Path) -> None:
    """Write the figures of all rows below ``out`` and of the bounds, tables and a chart; no prediction of any scene."""
    sounds = scenes.sounds[np.array(scenes.store.splits) == "test"]
    table: dict[str, list[dict[str, Any]]] = {study.name: _gathered(study, out) for study in STUDIES}
    found = next((row["right"] for row in table[JOINT.name] if row["name"] == FINDER), None)
    table["bounds"] = [
        {"name": name, "test": [bound["test"]], "validation": [bound["validation"]], "right": np.array(bound["right"])}
        for name, bound in bounded.items()
    ]
    for row in [*table[JOINT.name], *table["bounds"]]:
        if found is not None:
            row["gain"] = gain(found, row["right"], sounds)
    for row in [row for rows in table.values() for row in rows]:
        del row["right"]
    write_json(results / "results.json", table)
    write_text(results / "summary.md", summary(table))
    write_text(results / "scenes.svg", chart(table))


def _gathered(study: Study, out: Path) -> list[dict[str, Any]]:
    """Return the rows of a study that are there, lists over the seeds; ``right`` (test scenes,) is a mean over them."""
    gathered = []
    for row in study.rows:
        runs = [result for seed in SEEDS if (result := finished(study, row, seed, out)) is not None]
        if runs:
            lists = {name: [result[name] for result in runs] for name in ("test", "validation", "share")}
            right = np.array([result["right"] for result in runs]).mean(axis=0)
            seeds = [result["settings"]["seed"] for result in runs]
            shared = {name: value for name, value in runs[0]["settings"].items() if name != "seed"}
            gathered.append({"name": row.name, "seeds": seeds, "settings": shared, **lists, "right": right})
    return gathered


def gain(right: Array, reference: Array, sounds: Array) -> list[float]:
    """Return how many points more than ``reference`` (N,) is ``right`` (N,), and the 95 % interval.

    Scenes of one sound are right or wrong together, so it is the sounds, ``sounds`` (N,), that are drawn again.
    """
    _, place, counts = np.unique(sounds, return_inverse=True, return_counts=True)
    gained = np.bincount(place, weights=right - reference)
    drawn = np.random.default_rng(0).integers(0, len(counts), (RESAMPLED, len(counts)))
    resampled = gained[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [100 * float(value) for value in ((right - reference).mean(), *np.percentile(resampled, [2.5, 97.5]))]


def summary(table: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return Markdown tables: joint, incremental, the share after each task, bounds."""
    head = f"test | validation | {FINDER} over it"
    lines = [f"| all classes at once | seeds | {head} | attention |", "|---|---:|---:|---:|---:|---:|"]
    for row in table["joint"]:
        cells = [_last(row["test"]), _last(row["validation"]), _gain(row), _shares(row, -1)]
        lines.append(f"| {row['name']} | {len(row['seeds'])} | {' | '.join(cells)} |")
    lines += ["", "| 6 tasks | seeds | mean | last | attention, last task |", "|---|---:|---:|---:|---:|"]
    for row in table["incremental"]:
        cells = [_spread([float(np.mean(run)) for run in row["test"]]), _last(row["test"]), _shares(row, -1)]
        lines.append(f"| {row['name']} | {len(row['seeds'])} | {' | '.join(cells)} |")
    followed = _followed(table["incremental"])
    tasks = range(max((len(row["share"][0]) for row in followed), default=0))
    lines += [
        "",
        f"| attention after task | {' | '.join(str(task + 1) for task in tasks)} |",
        "|---|" + "---:|" * len(tasks),
    ]
    lines += [f"| {row['name']} | {' | '.join(_shares(row, task) for task in tasks)} |" for row in followed]
    lines += ["", f"| bounds, all classes at once | {head} |", "|---|---:|---:|---:|"]
    for row in table["bounds"]:
        lines.append(f"| {row['name']} | {row['test'][0]:.1f} | {row['validation'][0]:.1f} | {_gain(row)} |")
    return "\n".join(lines) + "\n"


def _followed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for name in FOLLOWED for row in rows if row["name"] == name]


def _last(runs: Sequence[Sequence[float]]) -> str:
    return _spread([run[-1] for run in runs])


def _shares(row: Mapping[str, Any], task: int) -> str:
    shares = [run[task] for run in row["share"]]
    return "-" if None in shares else _spread([100 * value for value in shares])


def _gain(row: Mapping[str, Any]) -> str:
    if "gain" not in row:
        return "-"
    gained, low, high = row["gain"]
    return f"{gained:+.1f} ({low:+.1f} to {high:+.1f})"


def _spread(values: Sequence[float]) -> str:
    spread = mean_and_spread(values)
    return f"{spread.mean:.1f}" + ("" if math.isnan(spread.deviation) else f" ± {spread.deviation:.1f}")


@matplotlib.rc_context({"svg.hashsalt": "mcil"})
def chart(table: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return an SVG: accuracy of all classes at once beside the bounds, and the share of attention after each task."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    bars, lines = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _bars(bars, table)
    for place, row in enumerate(_followed(table["incremental"])):
        shares = 100 * np.mean(row["share"], axis=0)
        steps = np.arange(len(shares)) + 1
        lines.plot(steps, shares, color=COLOURS[place], marker=MARKERS[place], label=row["name"])
    lines.axhline(100 * EVEN, color=INK, linewidth=0.8, linestyle="--", label="even")
    lines.set(xlabel="after task", ylabel="attention on the object that sounds (%)", ylim=(0, 100))
    lines.legend(frameon=False, fontsize=8)
    lines.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _bars(axes: Axes, table: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw the test accuracy of each learner and of each bound, the first at the top."""
    rows = [*table["joint"], *table["bounds"]]
    for place, row in enumerate(rows):
        accuracy = float(np.mean([run if isinstance(run, float) else run[-1] for run in row["test"]]))
        axes.barh(place, accuracy, color=COLOURS[0] if place < len(table["joint"]) else COLOURS[5])
        axes.text(accuracy + 0.3, place, f"{accuracy:.1f}", va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=7.5)
    axes.invert_yaxis()
    axes.set(xlabel="all classes at once: test accuracy (%); orange: bounds", xlim=(70, 100))
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
