"""Pictures of nearest neighbours, for a person to judge what was learnt."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moco_tf.evaluation.knn.vote import nearest_neighbours
from moco_tf.report import look
from moco_tf.report.sheet import Tile, draw_sheet, short_name


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
    chosen = spread_queries(labels, queries)
    index, _ = nearest_neighbours(features, np.asarray(features)[chosen], k + 1)

    def tile(image, query):
        caption = _class_name(labels[image], class_names)
        if len(file_names):
            caption = short_name(file_names[image])
        is_right = None
        if image != query and labels[query] >= 0 and labels[image] >= 0:
            is_right = bool(labels[query] == labels[image])
        return Tile(images[image], caption, is_right)

    rows = [
        [tile(image, query) for image in (query, *near[near != query][:k])]
        for query, near in zip(chosen, index)
    ]
    is_labelled = (labels[chosen] >= 0).any()
    return draw_sheet(
        rows,
        "nearest neighbours by what was learnt, nearest first",
        heads=("query", *map(str, range(1, k + 1))),
        legend=("same class", "another") if is_labelled else None,
        is_first_apart=True,
    )


def spread_queries(labels: np.ndarray, count: int) -> np.ndarray:
    """Row numbers of up to `count` images, cycling through the classes.

    Args:
        labels: int (N,); -1 where unlabelled.
        count: how many.

    Returns:
        int (at most count,).
    """
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if len(groups) == 1:
        return np.unique(np.linspace(0, len(labels) - 1, count).astype(int))
    longest = max(len(group) for group in groups)
    turns = [g[i] for i in range(longest) for g in groups if i < len(g)]
    return np.array(turns[:count])


def _class_name(label, class_names):
    return class_names[label] if 0 <= label < len(class_names) else ""
