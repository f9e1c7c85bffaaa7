"""What a run leaves for the eye: curves, a neighbour gallery, the closing table."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moco_tf.evaluation.knn import nearest_neighbours

_BLUE, _ORANGE, _GREY = "#2166ac", "#d9730d", "#7a7a7a"
_RIGHT, _WRONG = "#2a9d5c", "#d1495b"
_INK = "#333333"
_DPI = 150


def plot_history(
    history_csv: str | os.PathLike,
    out_path: str | os.PathLike,
    *,
    negatives: int | None = None,
    raw_knn: float | None = None,
    raw_linear: float | None = None,
    title: str = "",
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

    Returns:
        `out_path`, as a `Path`.

    Raises:
        ValueError: the file holds no rows.
    """
    history = _read_history(history_csv)
    figure = Figure(figsize=(12, 8), facecolor="white")
    grid = figure.add_gridspec(
        2, 2, left=0.04, right=0.885, top=0.9, bottom=0.06, wspace=0.45, hspace=0.28
    )
    loss, contrast, probes = (figure.add_subplot(grid[i]) for i in (0, 1, 2))
    strips = grid[3].subgridspec(3, 1, hspace=0.25).subplots()
    figure.text(0.04, 0.955, title, fontsize=13, color=_INK)
    _plot_loss(loss, history, negatives)
    _plot_contrast(contrast, history)
    _plot_probes(probes, history, raw_knn, raw_linear)
    _plot_collapse(strips, history)
    for axes in figure.axes:
        _finish_axes(axes, history["epoch"])
    for axes in (probes, strips[-1]):
        axes.set_xlabel("epoch", fontsize=8.5, color=_GREY)
    return _save(figure, out_path)


def neighbour_gallery(
    images: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    out_path: str | os.PathLike,
    queries: int = 8,
    k: int = 7,
) -> Path:
    """Draw some images, each with its nearest neighbours in feature space.

    Args:
        images: uint8 (N,H,W,C); a channel count other than 3 shows the first, grey.
        features: float (N,F), of the same images.
        labels: int (N,); -1 where unlabelled. A neighbour gets a solid green frame
            where its label is the query's and a dashed red one where it is not.
        class_names: name of each label; may be empty.
        out_path: the PNG to write; its folder is made.
        queries: rows, spread over the classes when labelled.
        k: neighbours of each query, at most N - 1.

    Returns:
        `out_path`, as a `Path`.

    Raises:
        ValueError: fewer than two images.
    """
    labels = np.asarray(labels)
    k = min(k, len(images) - 1)
    if k < 1:
        raise ValueError(
            f"A neighbour gallery of {len(images)} images has no neighbours to show; "
            "give it at least two images."
        )
    chosen = _spread_queries(labels, queries)
    index, similarity = nearest_neighbours(
        features, np.asarray(features)[chosen], k + 1
    )
    width, height = 1.05 * (k + 1.2) + 0.2, 1.25 * len(chosen) + 0.3
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.subplots(
        len(chosen),
        k + 2,
        squeeze=False,
        width_ratios=[1, 0.15] + [1] * k,  # the gap keeps the query apart
        gridspec_kw={
            "left": 0.1 / width,
            "right": 1 - 0.1 / width,
            "top": 1 - 0.3 / height,
            "bottom": 0.2 / height,
            "wspace": 0.08,
            "hspace": 0.2,
        },
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for row, query, near, cosines in zip(grid, chosen, index, similarity):
        _draw_image(row[0], images[query], _class_name(labels[query], class_names))
        others = [pair for pair in zip(near, cosines) if pair[0] != query]
        for axes, (neighbour, cosine) in zip(row[2:], others):
            _draw_image(axes, images[neighbour], f"{cosine:.2f}")
            if labels[query] >= 0 and labels[neighbour] >= 0:
                _draw_frame(axes, labels[query] == labels[neighbour])
    grid[0, 0].set_title("query", fontsize=9, color=_INK)
    grid[0, 2].set_title(
        "nearest neighbours, cosine below", fontsize=9, color=_INK, loc="left"
    )
    return _save(figure, out_path)


def view_grid(
    query_views: np.ndarray,
    key_views: np.ndarray,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    columns: int = 4,
) -> np.ndarray:
    """The two augmented views of some images side by side, for TensorBoard.

    Args:
        query_views: (N,H,W,C): uint8, or float normalised by `mean` and `std`.
        key_views: the same images' other views, of the same shape and dtype.
        mean: C values in 0..1 units; None when floats are in [0, 1] as they are.
        std: C values in 0..1 units, with `mean`.
        columns: pairs in a row.

    Returns:
        uint8 (height, width, 3): pairs in rows, a thin gap inside a pair and a wide
        one between pairs. A channel count other than 3 shows the first, grey.
    """
    left = _displayable(query_views, mean, std)
    right = _displayable(key_views, mean, std)
    count, height, width, _ = left.shape
    thin, wide = max(1, width // 32), max(4, width // 8)
    columns = min(columns, count)
    rows = -(-count // columns)
    step_y, step_x = height + wide, 2 * width + thin + wide
    grid = np.full((rows * step_y + wide, columns * step_x + wide, 3), 255, np.uint8)
    for i in range(count):
        top = wide + (i // columns) * step_y
        start = wide + (i % columns) * step_x
        middle = start + width + thin
        grid[top : top + height, start : start + width] = left[i]
        grid[top : top + height, middle : middle + width] = right[i]
    return grid


def closing_table(
    rows: Sequence[tuple[str, float | None, float | None]],
    artefacts: Mapping[str, object],
    next_commands: Mapping[str, str],
) -> str:
    """Plain text that ends a run: accuracies, where things are, what to type next.

    Args:
        rows: (representation, kNN accuracy, linear accuracy), accuracies in [0, 1] or
            None where not measured. A column without any figure is left out.
        artefacts: what -> where.
        next_commands: purpose -> command.

    Returns:
        Lines without a final newline.
    """
    lines = []
    if rows:
        names = ("kNN", "linear")
        shown = [i for i in (0, 1) if any(row[1 + i] is not None for row in rows)]
        width = max(len(row[0]) for row in rows)
        head = "".join(f"{names[i]:>10}" for i in shown)
        lines += [" " * (2 + width) + head, "  " + "-" * (width + len(head))]
        for name, *figures in rows:
            cells = "".join(f"{_percent(figures[i]):>10}" for i in shown)
            lines.append(f"  {name:<{width}}{cells}")
    for heading, pairs in (("Written", artefacts), ("Next", next_commands)):
        if pairs:
            width = max(len(name) for name in pairs)
            lines += ["", heading] if lines else [heading]
            lines += [f"  {name:<{width}}  {value}" for name, value in pairs.items()]
    return "\n".join(lines)


def _percent(figure):
    return "-" if figure is None else f"{100 * figure:.1f} %"


def _read_history(path):
    """Column name -> float array, NaN where a cell is empty."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(
            f"{path} holds no epochs; train for at least one before drawing."
        )
    return {
        name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]
    }


def _plot_loss(axes, history, negatives):
    _title(axes, "InfoNCE loss, nats")
    ends = [_line(axes, history, "loss", _BLUE, "loss")]
    top = np.nanmax([*history["loss"], 1e-3])
    if negatives:
        ceiling = float(np.log1p(negatives))
        ends.append(
            _level(axes, ceiling, f"uninformed\n{ceiling:.2f} = ln(1+K)", _GREY)
        )
        top = max(top, ceiling)
    axes.set_ylim(0, 1.1 * top)
    _label_ends(axes, ends)


def _plot_contrast(axes, history):
    _title(axes, "Own key found among the 1+K, %")
    ends = [
        _line(axes, history, "top1", _BLUE, "top-1", 100),
        _line(axes, history, "top5", _ORANGE, "top-5", 100),
    ]
    axes.set_ylim(0, 102)
    _label_ends(axes, ends)


def _plot_probes(axes, history, raw_knn, raw_linear):
    _title(axes, "Accuracy of the frozen features, %")
    ends = []
    for name, label, raw, colour in (
        ("knn", "kNN", raw_knn, _BLUE),
        ("linear", "linear", raw_linear, _ORANGE),
    ):
        ends.append(_line(axes, history, name, colour, label, 100, marker="o"))
        untrained = history[name][history["epoch"] == 0] if name in history else []
        if len(untrained) and np.isfinite(untrained[0]):
            text = f"{label}, untrained"
            ends.append(_level(axes, 100 * untrained[0], text, colour))
        if raw is not None:
            ends.append(_level(axes, 100 * raw, f"{label}, raw pixels", colour, ":"))
    axes.set_ylim(0, 102)
    _label_ends(axes, ends)


def _plot_collapse(strips, history):
    _title(strips[0], "Collapsed if rank and deviation near 0, or negatives near 1")
    for axes, lines in zip(
        strips,
        (
            (("effective_rank", _BLUE, "effective rank"),),
            (("feature_std", _BLUE, "feature deviation"),),
            (
                ("positive_similarity", _BLUE, "cosine, own key"),
                ("negative_similarity", _ORANGE, "cosine, negatives"),
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


def _title(axes, text):
    axes.set_title(text, loc="left", fontsize=10.5, color=_INK)


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
    low, high = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()
    line = 0.17 / inches  # of the axes' height
    place = -np.inf
    for height, label, colour in sorted(end for end in ends if end is not None):
        lines = 1 + label.count("\n")
        place = max((height - low) / (high - low), place + line * (lines + 1) / 2)
        axes.text(
            1.015, place, label, transform=axes.transAxes, color=colour, fontsize=8.5,
            va="center", linespacing=1.1,
        )  # fmt: skip


def _finish_axes(axes, epochs):
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#bbbbbb")
    axes.tick_params(colors=_GREY, labelsize=8.5, length=3)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    last = max(1, np.max(epochs))
    axes.set_xlim(min(0, np.min(epochs)), last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _spread_queries(labels, count):
    """Row numbers of up to `count` images, cycling through the classes."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(groups) == 1:
        return np.unique(np.linspace(0, len(labels) - 1, count).astype(int))
    longest = max(len(group) for group in groups)
    turns = [g[i] for i in range(longest) for g in groups if i < len(g)]
    return np.array(turns[:count])


def _class_name(label, class_names):
    return class_names[label] if 0 <= label < len(class_names) else ""


def _draw_image(axes, image, caption):
    image = image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)
    axes.set_axis_on()
    axes.imshow(image, interpolation="nearest" if len(image) <= 64 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=8, color=_GREY, labelpad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_frame(axes, right):
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(_RIGHT if right else _WRONG)
        spine.set_linewidth(2.5)
        spine.set_linestyle("-" if right else (0, (2, 1)))
        spine.set_capstyle("butt")


def _displayable(views, mean, std):
    """Uint8 (N,H,W,3)."""
    views = np.asarray(views)
    if views.dtype != np.uint8:
        views = views.astype(np.float32)
        if mean is not None:
            views = views * np.asarray(std) + np.asarray(mean)
        views = np.clip(np.round(255 * views), 0, 255).astype(np.uint8)
    return views if views.shape[-1] == 3 else np.repeat(views[..., :1], 3, axis=-1)


def _save(figure, path):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    return path
