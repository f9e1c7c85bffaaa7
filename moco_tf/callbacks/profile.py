"""A profile of some steps."""

from __future__ import annotations

import logging
import os

import tensorflow as tf
from tensorflow import keras

log = logging.getLogger("moco_tf")


class Profile(keras.callbacks.Callback):
    """Records what hosts and devices do in some steps, for TensorBoard.

    Args:
        log_dir: of the profile, as TensorBoard's.
        first: step, counted from 1 in the whole run.
        last: step, which is recorded too.
        done: steps that lie behind the run.
    """

    def __init__(self, log_dir: str | os.PathLike, first: int, last: int, done: int):
        super().__init__()
        self.log_dir, self.first, self.last = str(log_dir), first, last
        self._step, self._records = done, False
        # Otherwise Keras turns the logs into numbers every step.
        self._supports_tf_logs = True

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Starts before the first of them."""
        self._step += 1
        if self._step == self.first:
            tf.profiler.experimental.start(self.log_dir)
            self._records = True

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Stops after the last, once the devices have done it."""
        if self._step == self.last:
            float(logs["loss"])
            self._stop()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Stops where the run is shorter."""
        self._stop()

    def _stop(self):
        if self._records:
            tf.profiler.experimental.stop()
            self._records = False
            log.info("The profile is in %s/plugins/profile.", self.log_dir)
