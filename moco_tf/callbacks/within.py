"""Checkpoints within an epoch, by time or because the process is asked to stop."""

from __future__ import annotations

import math
import pathlib
import re
import time

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.callbacks.checkpoints import is_whole, restore, whole_or_none
from moco_tf.callbacks.divergence import require_finite
from moco_tf.callbacks.steps import mean_parts, running_sums
from moco_tf.exchange import hosts, of_hosts
from moco_tf.stops import TRY_AGAIN, Asked, Stopped

# Seconds between two exchanges of several hosts on whether to save.
_BEAT = 5.0
# Newest ones kept: a host that died may lack one that another host has.
_KEPT = 2


class WithinEpoch(keras.callbacks.Callback):
    """Saves what `Checkpoints` saves, and the place in the epoch and running means.

    All hosts save after the same step. Files are called epoch-E+S: S steps after E
    whole epochs. Put it behind `Checkpoints`, whose files make these superfluous.

    Args:
        folder: of the checkpoints.
        minutes: between two checkpoints; None saves only before the process stops.
        asked: whether the process is asked to stop, which it then does with `Stopped`.

    Raises:
        RunError: if a checkpoint cannot be written, or holds what is not finite.
        Stopped: once all is saved.
    """

    def __init__(
        self, folder: pathlib.Path, minutes: float | None = None,
        asked: Asked | None = None,
    ):  # fmt: skip
        super().__init__()
        self.folder, self.minutes = folder, minutes
        self.asked = asked or Asked()
        self.first_epoch = self.first_step = 0
        # Otherwise Keras turns the logs into numbers every step.
        self._supports_tf_logs = True

    def set_model(self, model: keras.Model) -> None:
        """Makes the variables that a checkpoint adds to the model's own."""
        if self.model is model:
            return
        super().set_model(model)
        self._strategy = model.distribute_strategy
        self._epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._means = tf.Variable(
            self._running(), dtype=tf.float64, trainable=False, shape=[None]
        )
        self._state = tf.train.Checkpoint(
            **model.parts(),
            optimizer=model.optimizer,
            epoch=self._epoch,
            step=self._step,
            means=self._means,
        )

    def newest(self) -> tuple[int, int]:
        """Whole epochs and further steps that the newest whole one has behind it.

        A damaged one is passed over; (0, 0) where there is none.
        """
        whole = (place for place in self._places() if is_whole(self._path(*place)))
        return next(whole, (0, 0))

    def has(self, epoch: int, step: int) -> bool:
        """Whether there is a checkpoint of that place."""
        return (epoch, step) in self._places()

    def restore(self, epoch: int, step: int) -> None:
        """Restores the checkpoint of that place, and begins `fit` there.

        Raises:
            RunError: if it is of another model or unreadable.
        """
        restore(self._state.read, str(self._path(epoch, step)))
        self.first_epoch, self.first_step = epoch, step

    def maybe_load_initial_counters_from_ckpt(self, steps, initial_epoch, mode):
        """Epoch and step to start at; Keras asks its own restoring callback so."""
        return initial_epoch, self.first_step

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Has Keras begin at the step."""
        self._saved = self._beaten = time.monotonic()
        self._until_beat = self._steps_to_beat = 1
        self.model._training_state = self
        self.asked.is_training = True

    def on_train_end(self, logs: dict | None = None) -> None:
        """Takes all of them away: the last epoch has a checkpoint of its own."""
        self.asked.is_training = False
        self._prune(keep=0)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Goes on with the running means, which Keras has just reset."""
        self._done, self.model._training_state = epoch, None
        if epoch == self.first_epoch and self.first_step:
            self._go_on(self._means.numpy())

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Saves, and stops, when that is due on any host."""
        step = batch + 1
        if step == self.params["steps"]:
            return  # measured and saved as an epoch
        wish = max(self._wishes())
        if wish:
            require_finite(self.model, logs, self._done)
            self._save(self._done, step)
            if wish == 2:
                self._stop(f"step {step:,} of epoch {self._done + 1}")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Stops when that is due, saving the epoch where `Checkpoints` did not."""
        self.first_step = 0
        if epoch + 1 == self.params["epochs"]:
            return
        if max(of_hosts(self._strategy, self.asked.code)):
            if not (self.folder / f"epoch-{epoch + 1}.index").is_file():
                self._save(epoch + 1, 0)
            self._stop(f"epoch {epoch + 1}")
        # Those of this epoch stay, for hosts that did not come to its end.
        self._prune(keep=_KEPT, after=epoch)

    def stop_if_asked(self, epochs: int) -> None:
        """After training: stops where that was asked in its last epoch.

        Args:
            epochs: of the run, all saved.

        Raises:
            Stopped: on all hosts alike.
        """
        if max(of_hosts(self._strategy, self.asked.code)):
            self._stop(f"epoch {epochs}")

    def _stop(self, saved):
        self.asked.is_training = False
        # Another host may have been asked, and this one not.
        raise Stopped(self.asked.code or TRY_AGAIN, saved)

    def _wishes(self):
        """Of each host: 0 nothing, 1 a checkpoint, 2 a checkpoint and the end."""
        is_due = (
            self.minutes is not None
            and time.monotonic() - self._saved >= 60 * self.minutes
        )
        own = 2 if self.asked.code else int(is_due)
        if hosts(self._strategy) == 1:
            return [own]
        self._until_beat -= 1
        if self._until_beat:
            return [0]
        now = time.monotonic()
        pace = max(now - self._beaten, 1e-3) / self._steps_to_beat
        wanted = min(10 * self._steps_to_beat, math.ceil(_BEAT / pace))
        self._steps_to_beat = self._until_beat = max(of_hosts(self._strategy, wanted))
        self._beaten = now
        return of_hosts(self._strategy, own)

    def _save(self, epoch, step):
        self._epoch.assign(epoch)
        self._step.assign(step)
        self._means.assign(self._running())
        path = self._path(epoch, step)
        with whole_or_none(
            path,
            f"the checkpoint {path} could not be written",
            "earlier ones are kept",
        ):
            self._state.write(str(path))
        self._saved = time.monotonic()
        self._prune(keep=_KEPT)

    def _prune(self, keep, after=0):
        places = self._places()
        for place in [p for p in places if p < (after, 0)] + places[keep:]:
            for part in self.folder.glob(f"{self._path(*place).name}.*"):
                part.unlink()

    def _places(self):
        """(epochs, steps) of the checkpoints in the folder, the newest first."""
        names = [path.name for path in self.folder.glob("epoch-*+*.index")]
        found = [re.fullmatch(r"epoch-(\d+)\+(\d+)\.index", name) for name in names]
        return sorted(((int(m[1]), int(m[2])) for m in found if m), reverse=True)

    def _path(self, epoch, step):
        return self.folder / f"epoch-{epoch}+{step}"

    def _running(self):
        # As they are on each replica: TensorFlow would save and share out their sum.
        return running_sums(self.model).ravel()

    def _go_on(self, values):
        parts = mean_parts(self.model)
        if len(values) != len(parts):  # of another number of replicas: on the first one
            count = sum(len(mean.variables) for mean in self.model.metrics)
            sums = values.reshape(count, -1).sum(axis=1)
            values = np.zeros((count, len(parts) // count))
            values[:, 0] = sums
        for part, value in zip(parts, np.ravel(values)):
            part.assign(value)
