"""Signs of health of a contrastive run, and what to make of them."""

from __future__ import annotations

import logging
import math
import sys
import time

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.report.health import diagnose

log = logging.getLogger("moco_tf")


class TrainingHealth(keras.callbacks.Callback):
    """Adds signs of health to the logs of each epoch and warns in plain words.

    Adds: "loss_ceiling" (ln(1+negatives), the loss of an uninformed encoder),
    "feature_std" (standard deviation of the embeddings per dimension x sqrt(dim): 1
    when they fill the sphere, 0 when collapsed), "effective_rank" (exp of the entropy
    of their covariance's spectrum, 1 to dim), "queue_age" (mean age of the keys, in
    steps; with a queue), "key_distance" (of the key encoder's parameters from the
    query encoder's, relative to the norm of these; with a key encoder),
    "learning_rate", "images_per_second", "input_wait" (share of the training time
    spent waiting for batches) and "peak_memory_mib" (see `peak_memory`). Put it first
    in the list, so that other callbacks' time is not counted.

    Args:
        batch_size: the global batch.
        first_step: of the first epoch, where that is continued within.

    Source of the effective rank: Roy and Vetterli 2007 (EUSIPCO).
    """

    def __init__(self, batch_size: int, first_step: int = 0):
        super().__init__()
        self.batch_size = batch_size
        self._before = first_step
        self._said: set[str] = set()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()
        self._waited = self.model.input_seconds

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Adds the signs to the logs."""
        seconds = time.perf_counter() - self._start
        model, steps = self.model, self.params["steps"]
        logs["loss_ceiling"] = math.log1p(model.negatives(self.batch_size))
        logs["feature_std"], logs["effective_rank"] = spread(model.embeddings())
        if hasattr(model, "queue"):
            a_step = self.batch_size * (2 if model.symmetric else 1)
            newest = min(model.queue.size, (epoch + 1) * steps * a_step)
            logs["queue_age"] = float(np.mean(np.arange(newest) // a_step))
        if hasattr(model, "key_encoder"):
            logs["key_distance"] = _distance(
                model.key_encoder.trainable_variables,
                model.query_encoder.trainable_variables,
            )
        logs["learning_rate"] = float(model.optimizer.learning_rate.numpy())
        trained, self._before = steps - self._before, 0
        logs["images_per_second"] = trained * self.batch_size / seconds
        logs["input_wait"] = (model.input_seconds - self._waited) / seconds
        logs["peak_memory_mib"] = peak_memory()
        for topic, sentence in diagnose(logs, epoch).items():
            if topic not in self._said:
                self._said.add(topic)
                log.warning(sentence)


def peak_memory() -> float:
    """The most memory that this process has held so far, in MiB.

    It is what TensorFlow allocated on the busiest GPU, or, without one, the whole
    process, data and probes included.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        # With workers a name starts with /job:worker/replica:0/task:0.
        names = [gpu.name.rpartition("device:")[2] for gpu in gpus]
        usage = [tf.config.experimental.get_memory_info(name) for name in names]
        return max(gpu["peak"] for gpu in usage) / 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def spread(embeddings: np.ndarray) -> tuple[float, float]:
    """How far embeddings fill their space.

    Args:
        embeddings: float (count, dim), unit rows.

    Returns:
        The mean standard deviation per dimension x sqrt(dim), and the effective rank;
        NaN for fewer than two embeddings, or where one is not finite.
    """
    count, dim = embeddings.shape
    if count < 2 or not np.isfinite(embeddings).all():
        return math.nan, math.nan
    centred = embeddings - embeddings.mean(axis=0)
    deviation = float(centred.std(axis=0).mean() * math.sqrt(dim))
    spectrum = np.linalg.eigvalsh(centred.T.astype(np.float64) @ centred)
    share = np.maximum(spectrum, 1e-30) / np.maximum(spectrum, 1e-30).sum()
    return deviation, float(np.exp(-np.sum(share * np.log(share))))


def _distance(keys, queries):
    difference = sum(
        float(tf.reduce_sum(tf.math.squared_difference(key.read_value(), query)))
        for key, query in zip(keys, queries)
    )
    norm = sum(float(tf.reduce_sum(tf.square(query.read_value()))) for query in queries)
    return math.sqrt(difference / norm)
