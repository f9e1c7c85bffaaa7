"""A run's curves."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moco_tf.paths import to_path
from moco_tf.report import look

PROBES = {"knn": "kNN", "linear": "linear"}


@look.literal
def plot_history(
    history_csv: str | os.PathLike,
    out_path: str | os.PathLike,
    *,
    negatives: int | None = None,
    raw_knn: float | None = None,
    raw_linear: float | None = None,
    title: str = "",
    is_begun: bool = False,
) -> Path:
    """Draw loss, contrastive accuracy, probes and collapse indicators of a run.

    Args:
        history_csv: one row per epoch; empty cells are skipped. A row of epoch 0
            holds the untrained encoder's `knn` and `linear`.
        out_path: the PNG to write; its folder is made.
        negatives: K, for the ceiling ln(1 + K) of an uninformed encoder.
        raw_knn: kNN accuracy on raw pixels, in [0, 1].
        raw_linear: linear probe's accuracy on raw pixels, in [0, 1].
        title: line above the four panels.
        is_begun: whether the encoder of epoch 0 had weights from elsewhere.

    Returns:
        `out_path`, as a `Path`.

    Raises:
        ValueError: the file holds no rows.
    """
    history = _read_history(history_csv)
    has_probes = any(np.isfinite(history.get(name, [])).any() for name in PROBES)
    figure = Figure(figsize=(12, 8), facecolor="white")
    grid = figure.add_gridspec(
        2, 2, left=0.04, right=0.885, top=0.9, bottom=0.06, wspace=0.45, hspace=0.28
    )
    loss, contrast = (figure.add_subplot(grid[i]) for i in (0, 1))
    _plot_loss(loss, history, negatives)
    _plot_contrast(contrast, history)
    if has_probes:
        probes = figure.add_subplot(grid[2])
        before = "at the start" if is_begun else "untrained"
        _plot_probes(probes, history, raw_knn, raw_linear, before)
        probes.set_xlabel("epoch", fontsize=8.5, color=look.GREY)
    # Without labelled images the signs of collapse have the lower half for themselves.
    place = grid[3] if has_probes else grid[1, :]
    strips = place.subgridspec(3, 1, hspace=0.25).subplots(squeeze=False)[:, 0]
    _plot_collapse(strips, history)
    strips[-1].set_xlabel("epoch", fontsize=8.5, color=look.GREY)
    figure.text(0.04, 0.955, title, fontsize=13, color=look.INK)
    for axes in figure.axes:
        look.finish(axes)
        first, last = min(0, np.min(history["epoch"])), max(1, np.max(history["epoch"]))
        axes.set_xlim(first, last)
        look.whole_ticks(axes, first, last)
    return look.save(figure, out_path)


def _read_history(path):
    """Column name -> float array, NaN where a cell is empty."""
    with to_path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(
            f"{path} holds no epochs; train for at least one before drawing."
        )
    return {
        name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]
    }


def _plot_loss(axes, history, negatives):
    look.title(axes, "InfoNCE loss, nats")
    ends = [_line(axes, history, "loss", look.BLUE, "loss")]
    top = np.nanmax([*history["loss"], 1e-3])
    if negatives:
        ceiling = float(np.log1p(negatives))
        ends.append(
            _level(axes, ceiling, f"uninformed\n{ceiling:.2f} = ln(1+K)", look.GREY)
        )
        top = max(top, ceiling)
    axes.set_ylim(0, 1.1 * top)
    _label_ends(axes, ends)


def _plot_contrast(axes, history):
    look.title(axes, "Own key found among the 1+K, %")
    ends = [
        _line(axes, history, "top1", look.BLUE, "top-1", 100),
        _line(axes, history, "top5", look.ORANGE, "top-5", 100),
    ]
    axes.set_ylim(0, 102)
    _label_ends(axes, ends)


def _plot_probes(axes, history, raw_knn, raw_linear, before):
    look.title(axes, "Accuracy of the frozen features, %")
    ends = []
    raws, colours = (raw_knn, raw_linear), (look.BLUE, look.ORANGE)
    for (name, label), raw, colour in zip(PROBES.items(), raws, colours):
        ends.append(_line(axes, history, name, colour, label, 100, marker="o"))
        untrained = history[name][history["epoch"] == 0] if name in history else []
        if len(untrained) and np.isfinite(untrained[0]):
            ends.append(_level(axes, 100 * untrained[0], f"{label}, {before}", colour))
        if raw is not None:
            ends.append(_level(axes, 100 * raw, f"{label}, raw pixels", colour, ":"))
    axes.set_ylim(0, 102)
    _label_ends(axes, ends)


def _plot_collapse(strips, history):
    look.title(strips[0], "Collapse: rank near 1, deviation near 0, negatives near 1")
    for axes, lines in zip(
        strips,
        (
            (("effective_rank", look.BLUE, "effective rank"),),
            (("feature_std", look.BLUE, "feature deviation"),),
            (
                ("positive_similarity", look.BLUE, "cosine, own key"),
                ("negative_similarity", look.ORANGE, "cosine, negatives"),
            ),
        ),
    ):
        ends = [_line(axes, history, *line) for line in lines]
        low, high = axes.get_ylim()
        axes.set_ylim(min(0, low), 1.15 * high)
        axes.locator_params(axis="y", nbins=3)
        _label_ends(axes, ends)
    for axes in strips[:-1]:
        axes.tick_params(labelbottom=False)


def _line(axes, history, column, colour, label, scale=1, marker=None):
    """Draw a column's filled cells; return (height, label, colour) of its end."""
    values = scale * history.get(column, np.full(len(history["epoch"]), np.nan))
    filled = np.isfinite(values)
    if not filled.any():
        return None
    if filled.sum() == 1:
        marker = "o"  # a single point draws no line
    axes.plot(
        history["epoch"][filled],
        values[filled],
        color=colour,
        linewidth=1.8,
        marker=marker,
        markersize=3.5,
        clip_on=False,
    )
    return values[filled][-1], label, colour


def _level(axes, height, label, colour, style="--"):
    """Draw a horizontal reference; return (height, label, colour)."""
    axes.axhline(height, color=colour, linewidth=1, linestyle=style, alpha=0.7)
    return height, label, colour


def _label_ends(axes, ends):
    """Name each line at the right edge, kept apart where lines end close together."""
    ends = sorted((end for end in ends if end is not None), key=lambda end: end[0])
    if not ends:
        return
    low, high = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()
    line = 0.17 / inches  # of the axes' height
    sizes = [line * (1 + label.count("\n")) for _, label, _ in ends]
    gaps = [(one + other) / 2 for one, other in zip(sizes, sizes[1:])]
    wanted = [(height - low) / (high - low) for height, _, _ in ends]
    for (_, label, colour), place in zip(ends, look.apart(wanted, gaps)):
        axes.text(
            1.015, place, label, transform=axes.transAxes, color=colour, fontsize=8.5,
            va="center", linespacing=1.1,
        )  # fmt: skip
