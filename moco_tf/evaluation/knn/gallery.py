"""Pictures of nearest neighbours, for a person to judge what was learnt."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from moco_tf.evaluation.knn.vote import nearest_neighbours
from moco_tf.report import look
from moco_tf.report.views import coloured

# Inches: an image's side, and from one to the next across and down.
_SIDE, _STEP, _ROW = 0.98, 1.05, 1.25


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
    # One pair of axes in inches: a hundred of their own would take seconds.
    width, height = _STEP * (k + 1.2) + 0.2, _ROW * len(chosen) + 0.65
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    lefts = [0.1, *(0.1 + _STEP * (place + 1.15) for place in range(k))]

    def caption(image):
        if len(file_names):
            return _short(file_names[image])
        return _class_name(labels[image], class_names)

    for left, head in zip(lefts, ("query", *map(str, range(1, k + 1)))):
        _write(axes, left + _SIDE / 2, 0.5, head, 9)
    for row, (query, near) in enumerate(zip(chosen, index)):
        top = 0.6 + _ROW * row
        others = [neighbour for neighbour in near if neighbour != query]
        for left, image in zip(lefts, (query, *others)):
            _draw_image(axes, left, top, images[image])
            _write(axes, left + _SIDE / 2, top + _SIDE + 0.1, caption(image), 8)
            if image != query and labels[query] >= 0 and labels[image] >= 0:
                is_right = labels[query] == labels[image]
                _draw_frame(axes, left, top, _SIDE, _SIDE, is_right)
    axes.text(0.1, 0.2, "nearest neighbours by what was learnt, nearest first",
              fontsize=10, color=look.INK, va="center")  # fmt: skip
    if (labels[chosen] >= 0).any():
        for left, text in ((width - 2.35, "same class"), (width - 1.2, "another")):
            _draw_frame(axes, left, 0.15, 0.14, 0.1, text == "same class")
            axes.text(left + 0.22, 0.2, text, fontsize=9, color=look.INK,
                      va="center")  # fmt: skip
    return figure


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


def _write(axes, middle, base, text, size):
    axes.text(middle, base, text, fontsize=size, color=look.GREY, ha="center",
              va="center")  # fmt: skip


def _draw_image(axes, left, top, image):
    axes.imshow(
        coloured(image),
        extent=(left, left + _SIDE, top + _SIDE, top),
        interpolation="nearest" if len(image) <= 64 else "antialiased",
        aspect="auto",
    )


def _draw_frame(axes, left, top, width, height, is_right):
    axes.add_patch(
        Rectangle(
            (left, top), width, height,
            fill=False,
            edgecolor=look.GREEN if is_right else look.RED,
            linewidth=2.5,
            linestyle="-" if is_right else (0, (2, 1)),
            capstyle="butt",
            joinstyle="miter",
        )
    )  # fmt: skip
