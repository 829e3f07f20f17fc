"""The plots of a report, as SVG; drawn through matplotlib's objects, without its global figure."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mcil import metrics
from mcil.metrics import Spread, mean_and_spread
from mcil.report import tables
from mcil.report.blocks import Picture
from mcil.report.runs import DataSet, Method

Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, told apart with any colour vision; the darker ones first. Yellow is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C564B", "#332288")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, FAINT = "#22303c", "#d5dbe1"
FEW = 6  # methods whose spreads can be told apart in one plot
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#8a96a3",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "mcil",  # equal runs give equal files
}


class Curve(NamedTuple):
    """A method's line in a plot: ``mean`` and ``deviation`` (n,) in percent at the places ``x`` (n,)."""

    name: str
    upper_bound: bool
    x: npt.NDArray[np.int64]
    mean: Floats
    deviation: Floats


@matplotlib.rc_context(_STYLE)
def accuracy_by_step(data: DataSet, prefix: str = "") -> Picture:
    """Step accuracy of each method: a line for the mean over seeds, with the spread where few methods leave room."""
    steps = np.arange(len(data.task_sizes)) + 1
    curves = [Curve(m.name, m.upper_bound, steps, *_mean_and_deviation(m.stack("step_accuracy"))) for m in data.methods]
    figure, axes = _curves(curves)
    axes.set_xlim(0.85, len(steps) + 0.15)
    axes.set_xticks(steps)
    seen = np.cumsum(data.task_sizes)
    axes.set_xticklabels([f"{step}\n{classes}" for step, classes in zip(steps, seen, strict=True)])
    axes.set_xlabel("after task / classes seen")
    axes.set_ylabel("accuracy on all classes seen (%)")
    finals = ", ".join(f"{curve.name} {curve.mean[-1]:.1f} %" for curve in curves)
    return _svg(figure, f"{prefix}accuracy-by-step", "Accuracy by step", f"Accuracy after the last task: {finals}.")


@matplotlib.rc_context(_STYLE)
def mean_accuracy(data: DataSet, prefix: str = "") -> Picture:
    """Mean accuracy of each method: a bar for the mean over seeds with its number, and a stroke for the spread."""
    spreads = [method.spread("mean_accuracy") for method in data.methods]
    figure, axes = _axes(max(2.4, 0.95 * len(spreads) + 0.7), 3.2)
    for place, (method, spread) in enumerate(zip(data.methods, spreads, strict=True)):
        colour, _ = _look(method.upper_bound, place)
        deviation = float(np.nan_to_num(spread.deviation))
        axes.bar(place, spread.mean, 0.62, color=colour)
        axes.errorbar(place, spread.mean, yerr=deviation, color=INK, elinewidth=1.2, capsize=3)
        top = spread.mean + deviation + 1.5
        axes.text(place, top, f"{spread.mean:.1f}", ha="center", va="bottom", color=INK, size=8.5)
    axes.set_xticks(range(len(spreads)), [textwrap.fill(method.name, 9) for method in data.methods])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, _TOP)
    axes.set_ylabel("mean accuracy (%)")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    means = ", ".join(f"{m.name} {tables.said(spread)} %" for m, spread in zip(data.methods, spreads, strict=True))
    return _svg(figure, f"{prefix}mean-accuracy", "Mean accuracy", f"Mean accuracy: {means}.")


@matplotlib.rc_context(_STYLE)
def accuracy_by_memory(lines: Mapping[str, Sequence[tuple[int, Spread]]], prefix: str = "") -> Picture:
    """Mean accuracy of each method, given as pairs of memory size and spread over seeds, by the memory."""
    curves = []
    for name, points in lines.items():
        sizes, spreads = np.array([size for size, _ in points]), [spread for _, spread in points]
        mean = np.array([spread.mean for spread in spreads])
        curves.append(Curve(name, False, sizes, mean, np.nan_to_num([spread.deviation for spread in spreads])))
    figure, axes = _curves(curves)
    axes.set_xticks(sorted({size for points in lines.values() for size, _ in points}))
    axes.set_xlabel("exemplars kept, in clips")
    axes.set_ylabel("mean accuracy (%)")
    said = ", ".join(f"{curve.name} {curve.mean[0]:.1f} to {curve.mean[-1]:.1f} %" for curve in curves)
    return _svg(figure, f"{prefix}accuracy-by-memory", "Accuracy by memory", f"From least to most memory: {said}.")


@matplotlib.rc_context(_STYLE)
def accuracy_matrices(data: DataSet, prefix: str = "") -> list[Picture]:
    """A heat map of the accuracy matrix for each method, the mean over seeds."""
    pictures = []
    tasks = len(data.task_sizes)
    for place, method in enumerate(data.methods):
        mean, _ = _mean_and_deviation(method.stack("accuracy_matrix"))
        side = float(np.clip(0.42 * tasks, 2.2, 5.0))
        figure, axes = _axes(side + 0.8, side + 0.6)
        _heat_map(axes, mean, "YlGnBu", numbers="{:.0f}" if tasks <= 12 else None)
        ticks = np.arange(tasks) if tasks <= 12 else np.arange(0, tasks, 5)
        axes.set_xticks(ticks + 0.5, [str(tick + 1) for tick in ticks])
        axes.set_yticks(ticks + 0.5, [str(tick + 1) for tick in ticks])
        axes.set_xlabel("accuracy on task")
        axes.set_ylabel("after task")
        diagonal, last = np.nanmean(np.diagonal(mean)), np.nanmean(mean[-1])
        alt = f"{method.name}: {diagonal:.0f} % on a task just learnt, {last:.0f} % on average at the end."
        pictures.append(_svg(figure, f"{prefix}matrix-{place + 1}", method.name, alt))
    return pictures


@matplotlib.rc_context(_STYLE)
def forgetting_by_task(data: DataSet, prefix: str = "") -> Picture:
    """How far each old task is below its best at the end: a mark for each method, a bar over the seeds.

    Many methods become the rows of a heat map instead.
    """
    means = ", ".join(f"{m.name} {m.spread('final_forgetting').mean:.1f}" for m in data.methods)
    draw = _forgetting_marks if len(data.methods) <= FEW else _forgetting_map
    alt = f"Mean over the old tasks: {means}."
    return _svg(draw(data), f"{prefix}forgetting-by-task", "Forgetting by task", alt)


def _forgetting_map(data: DataSet) -> Figure:
    values = np.stack([_mean_and_deviation(method.stack("forgetting_by_task"))[0] for method in data.methods])
    rows, columns = values.shape
    figure, axes = _axes(max(2.4, 0.5 * columns) + 1.6, 0.26 * rows + 0.8)
    _heat_map(axes, values, "OrRd", numbers="{:.0f}" if columns <= 12 else None)
    axes.set_aspect("auto")
    axes.set_xticks(np.arange(columns) + 0.5, [str(task + 1) for task in range(columns)])
    axes.set_yticks(np.arange(rows) + 0.5, [textwrap.shorten(m.name, 40, placeholder="…") for m in data.methods])
    axes.set_xlabel("task (in order of arrival)")
    return figure


def _forgetting_marks(data: DataSet) -> Figure:
    old = np.arange(len(data.task_sizes) - 1) + 1
    rows = -(-len(data.methods) // 2)
    figure, axes = _axes(5.4, 2.8 + 0.2 * rows)
    gap = 0.7 / len(data.methods)
    for place, method in enumerate(data.methods):
        mean, deviation = _mean_and_deviation(method.stack("forgetting_by_task"))
        colour, look = _look(method.upper_bound, place)
        shift = (place - (len(data.methods) - 1) / 2) * gap
        marks = {"marker": look["marker"], "markersize": 5, "linestyle": "none", "color": colour}
        axes.errorbar(old + shift, mean, yerr=deviation, elinewidth=1.4, label=method.name, **marks)
    axes.axhline(0, color="#8a96a3", linewidth=0.8)
    axes.set_xticks(old)
    axes.set_xlim(0.5, len(old) + 0.5)
    axes.set_xlabel("task (in order of arrival)")
    axes.set_ylabel("points below its best, at the end")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, borderaxespad=0.2, handletextpad=0.3)
    return figure


@matplotlib.rc_context(_STYLE)
def confusions(data: DataSet, prefix: str = "") -> list[Picture]:
    """A heat map of the confusion matrix after the last task for each method, all seeds together."""
    pictures = []
    names, classes = data.class_names, len(data.class_names)
    for place, method in enumerate(data.methods):
        counts = confusion_counts(data, method)
        share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        side = float(np.clip(0.25 * classes, 2.4, 6.0))
        figure, axes = _axes(side + 1.2, side + 1.2)
        _heat_map(axes, share, "Blues", numbers=None)
        for end in np.cumsum(data.task_sizes)[:-1]:
            axes.axhline(end, color="#8a96a3", linewidth=0.6)
            axes.axvline(end, color="#8a96a3", linewidth=0.6)
        every = 1 if classes <= 30 else 5
        shown = np.arange(0, classes, every)
        words = [textwrap.shorten(names[tick], 22, placeholder="…") for tick in shown]
        axes.set_xticks(shown + 0.5, words, rotation=90)
        axes.set_yticks(shown + 0.5, words)
        axes.set_xlabel("taken for")
        axes.set_ylabel("is")
        right = 100 * np.trace(counts) / max(counts.sum(), 1)
        alt = f"{method.name}: {right:.0f} % of the test clips lie on the diagonal."
        pictures.append(_svg(figure, f"{prefix}confusion-{place + 1}", method.name, alt))
    return pictures


def confusion_counts(data: DataSet, method: Method) -> npt.NDArray[np.int64]:
    """Clips (C,C) of class c taken for class d after the last task, summed over the runs of a method.

    Classes are in the order of ``data.class_names``, in whatever order they arrived in a run.
    """
    total = np.zeros((len(data.class_names),) * 2, dtype=np.int64)
    for run in method.runs:
        own = {name: place for place, name in enumerate(run.result["class_names"])}
        order = np.array([own[name] for name in data.class_names])
        total += metrics.confusion_matrix(run.tested, data.task_sizes)[np.ix_(order, order)]
    return total


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _svg(figure: Figure, name: str, title: str, alt: str) -> Picture:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None}
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.06, dpi=200, metadata=metadata)
    return Picture(name, title, alt, buffer.getvalue(), "svg")


def _heat_map(axes: Axes, percent: Floats, colours: str, numbers: str | None) -> None:
    """Draw percentages (rows, columns); NaN stays blank. ``numbers`` formats them into the cells."""
    masked = np.ma.masked_invalid(percent)
    axes.pcolormesh(
        masked,
        cmap=matplotlib.colormaps[colours],
        vmin=0,
        vmax=100,
        rasterized=percent.size > 400,
        edgecolors="face",
        linewidth=0,
    )
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if numbers is None:
        return
    for (row, column), value in np.ndenumerate(percent):
        if not np.isnan(value):
            colour = "white" if value > 55 else INK
            axes.text(column + 0.5, row + 0.5, numbers.format(value), ha="center", va="center", color=colour)


def _look(upper_bound: bool, place: int) -> tuple[str, dict[str, Any]]:
    """Colour, marker and dashes of a method; an upper bound is grey and dashed."""
    if upper_bound:
        return "#5b6670", {"marker": "_", "linestyle": (0, (4, 2))}
    style = "-" if place < len(COLOURS) else (0, (2, 1))
    return COLOURS[place % len(COLOURS)], {
        "marker": MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
        "linestyle": style,
    }


def _mean_and_deviation(values: Floats) -> tuple[Floats, Floats]:
    """Mean and spread over the first axis; a deviation of 0 where there is a single value."""
    flat = values.reshape(len(values), -1)
    spreads = [mean_and_spread(column) for column in flat.T.tolist()]
    mean = np.array([spread.mean for spread in spreads]).reshape(values.shape[1:])
    deviation = np.nan_to_num([spread.deviation for spread in spreads]).reshape(values.shape[1:])
    return mean, deviation


def _curves(curves: Sequence[Curve]) -> tuple[Figure, Axes]:
    """Draw lines in percent with their names at the right.

    Few lines have their spreads, over the whole range; for many, the range begins at the ten below the lowest.
    """
    height = max(3.2, 0.27 * len(curves))
    figure, axes = _axes(4.5, height)
    for place, curve in enumerate(curves):
        colour, look = _look(curve.upper_bound, place)
        axes.plot(curve.x, curve.mean, color=colour, linewidth=1.8, markersize=4.5, **look)
        if len(curves) <= FEW:
            low, high = curve.mean - curve.deviation, curve.mean + curve.deviation
            axes.fill_between(curve.x, low, high, color=colour, alpha=0.16, linewidth=0)
    lowest = float(np.nanmin([np.nanmin(curve.mean) for curve in curves]))
    axes.set_ylim(0 if len(curves) <= FEW else 10 * (lowest // 10), _TOP)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    _label_lines(axes, curves, 0.163 / height)
    return figure, axes


_TOP = 102.0  # percent at the upper edge of a plot of curves


def _label_lines(axes: Axes, curves: Sequence[Curve], line_height: float) -> None:
    """Write the names at the right end of the lines, moved apart where they would overlap.

    A line of text takes the share ``line_height`` of the plot's. A thin stroke leads from a line's end to its name.
    """
    bottom, top = axes.get_ylim()
    ends = [(float(np.nan_to_num(curve.mean[-1])) - bottom) / (top - bottom) for curve in curves]
    words = [textwrap.fill(curve.name, 20) if len(curves) <= FEW else curve.name for curve in curves]
    heights = [line_height * (word.count("\n") + 1) for word in words]
    order = sorted(range(len(ends)), key=lambda place: (ends[place], place))
    middles: dict[int, float] = {}
    floor = 0.0
    for place in order:
        middles[place] = max(ends[place], floor + heights[place] / 2)
        floor = middles[place] + heights[place] / 2
    ceiling = 1.01
    for place in reversed(order):
        middles[place] = min(middles[place], ceiling - heights[place] / 2)
        ceiling = middles[place] - heights[place] / 2
    for place, (curve, word) in enumerate(zip(curves, words, strict=True)):
        colour, _ = _look(curve.upper_bound, place)
        to = axes.transAxes
        axes.plot([1.005, 1.03], [ends[place], middles[place]], transform=to, color=colour, lw=0.7, clip_on=False)
        axes.text(1.04, middles[place], word, transform=to, color=colour, va="center", size=8.5)
