"""The end of a run that has diverged, before anything of it is kept."""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow import keras

from moco_tf.callbacks.checkpoints import RunError
from moco_tf.callbacks.steps import finite_steps
from moco_tf.exchange import together

# Steps between two looks at the loss: each look waits for the device.
_STEPS = 200


class NotFinite(RunError):
    """A run has diverged.

    Attributes:
        epoch: in which, counted from 0.
        step: of that epoch, counted from 0, whose loss was the first not to be finite,
            or would have been.
    """

    epoch: int
    step: int


class FiniteLoss(keras.callbacks.Callback):
    """Ends a run whose loss, or what a checkpoint would hold, is not finite.

    Put it before everything that measures or saves. The loss in the logs is a mean
    since the epoch's start, so it stays not finite once one step's was, and a look now
    and then is enough. A step that float16's loss scaling skips does not end a run: its
    gradients overflow, not its loss.

    Raises:
        NotFinite: at the end of such an epoch, or some steps after it happened.
    """

    def __init__(self):
        super().__init__()
        # Otherwise Keras turns the logs into numbers every step.
        self._supports_tf_logs = True

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Remembers the epoch, which Keras does not tell with a step."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Looks at the loss when its turn has come."""
        if (batch + 1) % _STEPS == 0:
            _require(self.model, math.isfinite(logs["loss"]), "loss", self._epoch)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Looks at the loss, and at what the last step has made of the model."""
        require_finite(self.model, logs, epoch)


def require_finite(model: keras.Model, logs: dict, epoch: int) -> None:
    """Refuses what a checkpoint must not hold; all hosts call it after the same step.

    Args:
        model: whose parts would be saved.
        logs: with the running mean of the loss.
        epoch: counted from 0.

    Raises:
        NotFinite: on a host where the loss or the model is not finite.
        HostFailed: on the others.
    """
    _require(model, math.isfinite(logs["loss"]), "loss", epoch)
    # The loss is of before that step, and ReLU turns NaN into 0 on a CPU.
    finite = [
        tf.reduce_all(tf.math.is_finite(variable))
        for part in model.parts().values()
        for variable in part.variables
        if variable.dtype.is_floating
    ]
    _require(model, tf.reduce_all(finite), "model", epoch)


def _require(model, finite, what, epoch):
    # Losses and running statistics are each host's own.
    with together(model.distribute_strategy):
        if finite:
            return
        good = finite_steps(model)
        error = NotFinite(
            f"the {what} is not finite in epoch {epoch + 1}, of which nothing is "
            "saved; the run has diverged, so start it again under another --name "
            "with an optimizer.learning_rate ten times lower."
        )
        error.epoch, error.step = epoch, good
        raise error
