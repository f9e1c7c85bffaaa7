"""The pictures that TensorBoard gets of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

import numpy as np

from moco_tf.config import Config
from moco_tf.evaluation.knn.gallery import Album, draw_neighbours
from moco_tf.methods import ContrastiveModel
from moco_tf.pretrain.monitor import Monitor
from moco_tf.report import confusion_matrix, look, view_grid


def board_pictures(
    config: Config,
    model: ContrastiveModel,
    monitor: Monitor | None,
    album: Album,
    views_at: Callable[[int], dict],
) -> Mapping[str, Callable[[int], np.ndarray | None]]:
    """What `TensorBoard` draws: views, neighbours, and classes taken for each other.

    Args:
        config: the run.
        model: whose augmentation and features are shown.
        monitor: None where there is no labelled set.
        album: images among which neighbours are found.
        views_at: gives a small batch of two uint8 views after so many epochs.
    """

    def views(epochs):
        shown = model.views(views_at(epochs))
        order = np.argsort(shown.position.numpy())
        return view_grid(shown.query.numpy(), shown.key.numpy()[order])

    def neighbours(epochs):
        # Without a monitor features are extracted for this picture alone.
        if monitor is None and epochs < config.train.epochs:
            return None
        images, labels = album.load()
        if len(images) < 2:
            return None
        return look.pixels(
            draw_neighbours(
                images,
                album.features(),
                labels,
                album.class_names,
                file_names=album.file_names,
            )
        )

    pictures = {"views/query and key": views, "neighbours": neighbours}
    if monitor is not None:
        knn = monitor.probes[0]

        def confusion(epochs):
            if knn.confusion is None:
                return None
            # Classes that the few images lack have their place too.
            missing = len(monitor.class_names) - len(knn.confusion)
            counts = np.pad(knn.confusion, (0, max(0, missing)))
            title = f"kNN: {100 * np.trace(counts) / max(1, counts.sum()):.1f} %"
            return look.pixels(confusion_matrix(counts, monitor.class_names, title))

        pictures["confusion"] = confusion
    return pictures
