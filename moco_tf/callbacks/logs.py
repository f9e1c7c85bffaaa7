"""Logs of a run for people and programs: history.csv and TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hparams
from tensorflow import keras

from moco_tf.report import Album, view_grid

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_GROUPS = {
    "knn": "probe",
    "linear": "probe",
    "learning_rate": "optimizer",
    "images_per_second": "speed",
    "input_wait": "speed",
    "peak_memory_mib": "memory",
    "loss": "contrast",
    "loss_ceiling": "contrast",
    "top1": "contrast",
    "top5": "contrast",
}


class HistoryCSV(keras.callbacks.Callback):
    """Writes one row of logs per epoch, epochs counted from 1.

    Rows of epochs that a resumed run is about to repeat are dropped; a new column
    leaves the earlier rows' cells empty.

    Args:
        path: the file; replaced whole each epoch, so that it is never half-written.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = pathlib.Path(path)

    def read(self) -> list[dict[str, str]]:
        """Returns the rows written so far."""
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return list(csv.DictReader(file))

    def add(self, epoch: int, values: dict[str, float]) -> None:
        """Writes the row of an epoch; 0 is the untrained encoder."""
        rows = [row for row in self.read() if int(row["epoch"]) < epoch]
        rows.append({"epoch": str(epoch), **{k: f"{v:.6g}" for k, v in values.items()}})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        staging = self.path.with_suffix(".tmp")
        with open(staging, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(staging, self.path)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes the epoch's row."""
        self.add(epoch + 1, logs)


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars, the views, the embeddings and the hyper-parameters.

    Args:
        log_dir: for the event files.
        views: a small batch of two uint8 views, which a grid shows as augmented at
            the start; None shows none.
        config: a dataclass tree whose leaves are written as hyper-parameters.
        album: images that the projector gets at the end, with their features; None
            writes none.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        views: dict | None = None,
        config: DataclassInstance | None = None,
        album: Album | None = None,
    ):
        super().__init__()
        self.log_dir = pathlib.Path(log_dir)
        self.views, self.config, self.album = views, config, album

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Writes the views and the hyper-parameters."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=0):
            if self.config is not None:
                hparams.hparams(dict(_leaves(dataclasses.asdict(self.config))))
            if self.views is not None:
                shown = self.model.views(self.views)
                order = np.argsort(shown.position.numpy())
                grid = view_grid(
                    _displayable(shown.query.numpy()),
                    _displayable(shown.key.numpy()[order]),
                )
                tf.summary.image("views/query and key", grid[None])
                self.views = None

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes the epoch's scalars."""
        with self._writer.as_default(step=epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(f"{_GROUPS.get(name, 'health')}/{name}", value)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Writes the embeddings and closes the files."""
        if self.album is not None:
            self._project(self.album)
        self._writer.close()

    def _project(self, album):
        images, labels = album.load()
        np.savetxt(self.log_dir / "embeddings.tsv", album.features(), "%.5g", "\t")
        names = [
            album.class_names[label] if label >= 0 and album.class_names else str(label)
            for label in labels
        ]
        (self.log_dir / "labels.tsv").write_text("\n".join(names) + "\n")
        config = projector.ProjectorConfig()
        embedding = config.embeddings.add()
        embedding.tensor_name = "features"
        embedding.tensor_path = "embeddings.tsv"
        embedding.metadata_path = "labels.tsv"
        if images.shape[-1] in (1, 3):
            sheet, size = _sprites(images)
            png = tf.io.encode_png(sheet).numpy()
            (self.log_dir / "sprites.png").write_bytes(png)
            embedding.sprite.image_path = "sprites.png"
            embedding.sprite.single_image_dim.extend([size, size])
        projector.visualize_embeddings(str(self.log_dir), config)


def _sprites(images, largest=64):
    """A square sheet of small images, row by row, and the side of one of them.

    TensorBoard takes sheets of up to 8192 pixels a side.
    """
    count, size = len(images), min(images.shape[1], largest)
    if size < images.shape[1]:
        images = np.uint8(tf.image.resize(images, (size, size), "area").numpy() + 0.5)
    side, channels = math.ceil(math.sqrt(count)), images.shape[-1]
    sheet = np.zeros((side * side, size, size, channels), np.uint8)
    sheet[: len(images)] = images
    sheet = sheet.reshape(side, side, size, size, channels).swapaxes(1, 2)
    return sheet.reshape(side * size, side * size, channels), size


def _displayable(views):
    """Normalised views as uint8: 2.2 deviations either way fill the range."""
    return np.clip(127.5 + views / 2.2 * 127.5, 0, 255).astype(np.uint8)


def _leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            plain = isinstance(value, (bool, int, float, str))
            yield f"{prefix}{name}", value if plain else str(value)
