"""Images laid out for the eye: nearest neighbours, and the two views."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moco_tf.evaluation.knn import nearest_neighbours
from moco_tf.report import look


@dataclass(frozen=True)
class Album:
    """How to get images to show, when they are shown, and their features.

    Attributes:
        load: gives the images, uint8 (N,H,W,C), and their labels, int (N,), -1 where
            unlabelled.
        class_names: name of each label; may be empty.
        features: gives float (N,F), of the encoder as it is when called.
        file_names: a name for each image; empty where they have none.
    """

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    class_names: Sequence[str]
    features: Callable[[], np.ndarray]
    file_names: Sequence[str] = ()


def neighbour_gallery(
    images: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    out_path: str | os.PathLike,
    queries: int = 8,
    k: int = 7,
    file_names: Sequence[str] = (),
) -> Path:
    """Draw some images, each with its nearest neighbours in feature space.

    Args:
        images: uint8 (N,H,W,C); a channel count other than 3 shows the first, grey.
        features: float (N,F), of the same images; compared by their cosines.
        labels: int (N,); -1 where unlabelled. A neighbour gets a solid green frame
            where its label is the query's and a dashed red one where it is not.
        class_names: name of each label; may be empty.
        out_path: the PNG to write; its folder is made.
        queries: rows, spread over the classes when labelled.
        k: neighbours of each query, at most N - 1.
        file_names: written below the images; empty writes their classes.

    Returns:
        `out_path`, as a `Path`.

    Raises:
        ValueError: fewer than two images.
    """
    figure = draw_neighbours(
        images, features, labels, class_names, queries, k, file_names
    )
    return look.save(figure, out_path)


@look.literal
def draw_neighbours(
    images: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    queries: int = 8,
    k: int = 7,
    file_names: Sequence[str] = (),
) -> Figure:
    """As `neighbour_gallery`, as a figure."""
    labels = np.asarray(labels)
    k = min(k, len(images) - 1)
    if k < 1:
        raise ValueError(
            f"A neighbour gallery of {len(images)} images has no neighbours to show; "
            "give it at least two images."
        )
    chosen = _spread_queries(labels, queries)
    index, _ = nearest_neighbours(features, np.asarray(features)[chosen], k + 1)
    width, height = 1.05 * (k + 1.2) + 0.2, 1.25 * len(chosen) + 0.65
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.subplots(
        len(chosen),
        k + 2,
        squeeze=False,
        width_ratios=[1, 0.15] + [1] * k,  # the gap keeps the query apart
        gridspec_kw={
            "left": 0.1 / width,
            "right": 1 - 0.1 / width,
            "top": 1 - 0.6 / height,
            "bottom": 0.25 / height,
            "wspace": 0.08,
            "hspace": 0.2,
        },
    )
    for axes in grid.flat:
        axes.set_axis_off()

    def caption(image):
        if len(file_names):
            return _short(file_names[image])
        return _class_name(labels[image], class_names)

    for row, query, near in zip(grid, chosen, index):
        _draw_image(row[0], images[query], caption(query))
        others = [neighbour for neighbour in near if neighbour != query]
        for axes, neighbour in zip(row[2:], others):
            _draw_image(axes, images[neighbour], caption(neighbour))
            if labels[query] >= 0 and labels[neighbour] >= 0:
                _draw_frame(axes, labels[query] == labels[neighbour])
    for rank, axes in enumerate(grid[0, 2:], 1):
        axes.set_title(str(rank), fontsize=9, color=look.GREY)
    grid[0, 0].set_title("query", fontsize=9, color=look.GREY)
    top = 1 - 0.2 / height
    figure.text(0.1 / width, top, "nearest neighbours by what was learnt, nearest "
                "first", fontsize=10, color=look.INK, va="center")  # fmt: skip
    if (labels[chosen] >= 0).any():
        _legend(figure, width, top)
    return figure


def view_grid(
    query_views: np.ndarray,
    key_views: np.ndarray,
    columns: int = 4,
) -> np.ndarray:
    """The two augmented views of some images side by side, for TensorBoard.

    Args:
        query_views: uint8 (N,H,W,C), or float as normalised for the encoder.
        key_views: the same images' other views, of the same shape.
        columns: pairs in a row.

    Returns:
        uint8 (height, width, 3): pairs in rows, a thin gap inside a pair and a wide
        one between pairs. A channel count other than 3 shows the first, grey.
    """
    left, right = (_coloured(_displayable(v)) for v in (query_views, key_views))
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


def _displayable(views):
    """Normalised views as uint8: 2.2 deviations either way fill the range."""
    if views.dtype == np.uint8:
        return views
    return np.clip(127.5 + views / 2.2 * 127.5, 0, 255).astype(np.uint8)


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


def _short(name, most=17):
    """A file's path where there is room, else its name, long ones without middle."""
    if len(name) > most:
        name = os.path.basename(name)
    if len(name) <= most:
        return name
    return f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def _legend(figure, width, top):
    for place, right, text in ((2.35, True, "same class"), (1.2, False, "another")):
        axes = figure.add_axes([1 - place / width, top - 0.006, 0.14 / width, 0.012])
        axes.set_xticks([])
        axes.set_yticks([])
        _draw_frame(axes, right)
        figure.text(1 - (place - 0.22) / width, top, text, fontsize=9, color=look.INK,
                    va="center")  # fmt: skip


def _draw_image(axes, image, caption):
    axes.set_axis_on()
    axes.imshow(
        _coloured(image), interpolation="nearest" if len(image) <= 64 else "antialiased"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption, fontsize=8, color=look.GREY, labelpad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_frame(axes, right):
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(look.GREEN if right else look.RED)
        spine.set_linewidth(2.5)
        spine.set_linestyle("-" if right else (0, (2, 1)))
        spine.set_capstyle("butt")


def _coloured(images):
    """With three channels, (...,H,W,3): as they are, or the first of them, grey."""
    return images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)
