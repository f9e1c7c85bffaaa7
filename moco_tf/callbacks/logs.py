"""Logs of a run for people and programs: history.csv and TensorBoard."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from typing import Callable

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hparams
from tensorflow import keras

from moco_tf.callbacks.measures import MEASURES, OTHER
from moco_tf.callbacks.steps import StepFigures
from moco_tf.evaluation.knn.gallery import Album
from moco_tf.paths import to_path


class HistoryCSV(keras.callbacks.Callback):
    """Writes one row of logs per epoch, epochs counted from 1.

    Rows of epochs that a resumed run is about to repeat are dropped; a new column
    leaves the earlier rows' cells empty.

    Args:
        path: the file; replaced whole each epoch, so that it is never half-written.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = to_path(path)

    def read(self) -> list[dict[str, str]]:
        """Returns the rows written so far."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def epochs(self) -> int:
        """How many epochs of training the rows have; 0 without any."""
        return max((int(row["epoch"]) for row in self.read()), default=0)

    def add(self, epoch: int, values: dict[str, float]) -> None:
        """Writes the row of an epoch; 0 is the untrained encoder."""
        rows = [row for row in self.read() if int(row["epoch"]) < epoch]
        rows.append({"epoch": str(epoch), **{k: f"{v:.6g}" for k, v in values.items()}})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        staging = self.path.with_suffix(".tmp")
        with staging.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        staging.replace(self.path)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes the epoch's row."""
        self.add(epoch + 1, logs)


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars, pictures, the embeddings and the hyper-parameters.

    Args:
        log_dir: for the event files.
        untrained: probes' accuracies of the untrained encoder, shown at epoch 0.
        pictures: tag -> function of how many epochs are done, which draws uint8
            (height, width, 3), or gives None where it has nothing to show.
        every: epochs between pictures; the first are drawn before training, the last
            after it.
        every_steps: steps between scalars within an epoch, "steps/" before their names,
            which this callback counts over the whole run; None writes none.
        batch_size: of the global batch, for the speed of these steps.
        histograms: also write how weights and embeddings are distributed, when
            pictures are drawn.
        hyperparameters: name -> value, to compare runs by.
        album: images that the projector gets at the end, with their features; None
            writes none.
        is_untrained: False where the first epoch is continued within.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        untrained: Mapping[str, float] | None = None,
        pictures: Mapping[str, Callable[[int], np.ndarray | None]] | None = None,
        every: int = 1,
        every_steps: int | None = None,
        batch_size: int = 1,
        histograms: bool = False,
        hyperparameters: Mapping[str, object] | None = None,
        album: Album | None = None,
        is_untrained: bool = True,
    ):
        super().__init__()
        self.is_untrained = is_untrained
        self.log_dir = to_path(log_dir)
        self.untrained = untrained or {}
        self.pictures, self.every = pictures or {}, every
        self.every_steps, self.batch_size = every_steps, batch_size
        self.histograms, self.hyperparameters = histograms, hyperparameters
        self.album = album
        # Otherwise Keras turns the logs into numbers every step.
        self._supports_tf_logs = True

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the files and writes the hyper-parameters."""
        if self.every_steps:
            self._figures = StepFigures(self.model, self.batch_size)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._writer = tf.summary.create_file_writer(str(self.log_dir))
        if self.hyperparameters:
            with self._writer.as_default(step=0):
                hparams.hparams(dict(self.hyperparameters))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Before the first epoch, writes what is known of the untrained encoder."""
        self._begins = True
        if epoch == 0 and self.is_untrained:
            with self._writer.as_default(step=0):
                _write_scalars(self.untrained)
                self._draw(0)

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Before an epoch's first step, when all callbacks have begun it, looks."""
        if self._begins and self.every_steps:
            self._figures.begin()
        self._begins = False

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Writes scalars of the last steps when their turn has come."""
        if self.every_steps and (batch + 1) % self.every_steps == 0:
            step = int(self.model.optimizer.iterations.numpy())
            with self._writer.as_default(step=step):
                _write_scalars(self._figures.since(), self.every_steps)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes the epoch's scalars and, when their turn has come, the pictures."""
        done = epoch + 1
        with self._writer.as_default(step=done):
            _write_scalars(logs)
            if done % self.every == 0 or done == self.params["epochs"]:
                self._draw(done)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Writes the embeddings and closes the files."""
        if self.album is not None:
            self._project(self.album)
        self._writer.close()

    def _draw(self, done):
        for tag, draw in self.pictures.items():
            if (picture := draw(done)) is not None:
                tf.summary.image(tag, picture[None])
        if self.histograms:
            for variable in self.model.trained_variables:
                tf.summary.histogram(f"weights/{variable.name}", variable)
            tf.summary.histogram("embeddings", self.model.embeddings())

    def _project(self, album):
        images, labels = album.load()
        with (self.log_dir / "embeddings.tsv").open("w") as file:
            np.savetxt(file, album.features(), "%.5g", "\t")
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


def _write_scalars(values, steps=None):
    """Writes figures of an epoch, or of so many steps."""
    for name, value in values.items():
        measure = MEASURES.get(name, OTHER)
        tag, about = f"{measure.group}/{name}", measure.about
        if steps:
            tag = f"steps/{name}"
            about = f"Each {steps} steps: {about.replace('the epoch', 'these')}"
        tf.summary.scalar(tag, value, description=about)
