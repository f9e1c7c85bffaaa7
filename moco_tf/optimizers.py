"""Optimisers and learning-rate schedules of the papers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.lanes import require_keras_2

if TYPE_CHECKING:  # typing has it from Python 3.10
    from typing import TypeAlias

# What the updates of one step have in common.
_shared = threading.local()

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable(package="moco_tf")
class SGD(keras.optimizers.Optimizer):
    """SGD with momentum in torch's convention, as MoCo's recipes assume.

    For a gradient g of a parameter w: g += weight_decay * w;
    velocity = momentum * velocity + g; w -= learning_rate * velocity.
    Keras's own SGD keeps the learning rate inside the velocity and decouples the
    decay, which drifts apart from this one as soon as the rate changes.

    Args:
        learning_rate: float or `LearningRateSchedule`. Kept in float64, and the numbers
            of Keras's schedules too, so that float64 runs reproduce the reference to
            rounding.
        momentum: weight of the old velocity, 0 to 1 (not the key encoder's).
        weight_decay: added to the gradient of every parameter, biases and
            batch-norm parameters too, as in the reference.
        name: of the optimiser.
        **kwargs: further arguments of `keras.optimizers.Optimizer`. Its jit_compile is
            False unless given: Keras's True compiles each variable's update apart on
            GPUs.

    Raises:
        ValueError: if momentum is outside [0, 1) or weight_decay is negative.
        TypeError: if learning_rate is a function, or a schedule of Keras 3.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        name: str = "SGD",
        **kwargs,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} is outside [0, 1); use 0.9.")
        if weight_decay is None or weight_decay < 0:
            raise ValueError(
                f"weight_decay={weight_decay} is not a number from 0; use 1e-4, or 0 "
                "for none."
            )
        kwargs.setdefault("jit_compile", False)
        super().__init__(name=name, weight_decay=weight_decay, **kwargs)
        self.momentum = momentum
        self._learning_rate = self._build_learning_rate(learning_rate)

    def _build_learning_rate(self, learning_rate):
        if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return super()._build_learning_rate(_in_double(learning_rate))
        if callable(learning_rate):
            require_keras_2(learning_rate, Schedule, "learning_rate")
        with tf.init_scope():
            return tf.Variable(
                learning_rate, name="learning_rate", dtype=tf.float64, trainable=False
            )

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes one velocity for each variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self.velocities = [
            self.add_variable_from_reference(variable, "velocity")
            for variable in var_list
        ]
        self._built = True

    def _apply_weight_decay(self, variables):
        # Keras's decoupled decay would come on top of the one in update_step.
        del variables

    def _distributed_apply_gradients_fn(self, *args, **kwargs):
        # Not where each variable's update is a compiled function of its own.
        _shared.rates = None if self.jit_compile else {}
        try:
            return super()._distributed_apply_gradients_fn(*args, **kwargs)
        finally:
            _shared.rates = None

    def _rate(self, variable):
        """The learning rate, which a device reads once for all of its variables."""
        rates = getattr(_shared, "rates", None)
        where = variable.device, variable.dtype
        if rates is None:
            rates = {}
        if where not in rates:
            rates[where] = tf.cast(self.learning_rate, variable.dtype)
        return rates[where]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable."""
        velocity = self.velocities[self._index_dict[self._var_key(variable)]]
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=velocity.handle,
            lr=self._rate(variable),
            grad=self._direction(tf.convert_to_tensor(gradient), variable),
            momentum=self.momentum,
        )

    def _direction(self, gradient, variable):
        if not self._use_weight_decay(variable):  # see `exclude_from_weight_decay`
            return gradient
        return gradient + self.weight_decay * variable

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        config = super().get_config()
        config.update(
            learning_rate=self._serialize_hyperparameter(self._learning_rate),
            momentum=self.momentum,
        )
        config.pop("is_legacy_optimizer", None)
        return config


@keras.saving.register_keras_serializable(package="moco_tf")
class LARS(SGD):
    """SGD whose steps are scaled to the norm of each parameter, for large batches.

    For a gradient g of a parameter w of rank 2 or more: g += weight_decay * w;
    g *= trust * |w| / |g|, unless a norm is 0; then as `SGD`. Biases and batch-norm
    parameters, of rank 1, get neither decay nor scaling. The learning rate stays
    outside the velocity, as in MoCo v3's code; SimCLR's has it inside, which differs
    while the rate changes (effect not measured).

    Args:
        learning_rate: float or `LearningRateSchedule`, see `SGD`.
        momentum: weight of the old velocity, 0 to 1.
        weight_decay: added to the gradient of parameters of rank 2 or more.
        trust: norm of a step at learning rate 1, relative to the parameter's.
        name: of the optimiser.
        **kwargs: further arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: as `SGD`, or if trust is not positive.

    Source: You et al. 2017 (arXiv 1708.03888), as MoCo v3 uses it.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 4.8,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
        name: str = "LARS",
        **kwargs,
    ):
        if trust <= 0:
            raise ValueError(f"trust={trust} is not positive; use 0.001.")
        super().__init__(learning_rate, momentum, weight_decay, name, **kwargs)
        self.trust = trust

    def _direction(self, gradient, variable):
        if variable.shape.rank <= 1:
            return gradient
        gradient = super()._direction(gradient, variable)
        norm, step = tf.norm(variable), tf.norm(gradient)
        scale = self.trust * tf.math.divide_no_nan(norm, step)
        return gradient * tf.where((norm > 0) & (step > 0), scale, 1)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "trust": self.trust}


@keras.saving.register_keras_serializable(package="moco_tf")
class Warmup(Schedule):
    """Rises linearly from 0 for `steps`, then follows `schedule` from its start."""

    def __init__(self, schedule: Schedule, steps: int):
        """Wraps a schedule; `steps` is the length of the rise."""
        self.schedule, self.steps = _revived(schedule), steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate at an optimiser step."""
        rate = self.schedule(tf.maximum(step - self.steps, 0))
        rise = tf.cast(step, rate.dtype) / max(1, self.steps)
        return rate * tf.minimum(rise, 1)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps": self.steps}


@keras.saving.register_keras_serializable(package="moco_tf")
class PerEpoch(Schedule):
    """Holds the rate that `schedule` has at the start of each epoch.

    The reference sets the rate once an epoch; Keras schedules change every step.
    """

    def __init__(self, schedule: Schedule, steps_per_epoch: int):
        """Wraps a schedule; `steps_per_epoch` is the length of each stair."""
        self.schedule = _revived(schedule)
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate at an optimiser step."""
        return self.schedule(step // self.steps_per_epoch * self.steps_per_epoch)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "steps_per_epoch": self.steps_per_epoch}


def _in_double(schedule):
    """Keras's schedules compute in the precision of their numbers: float64, NumPy's."""
    if type(schedule).__module__.partition(".")[0] not in ("keras", "tf_keras"):
        return schedule
    wide = {
        key: _wide(value) if key != "name" else value
        for key, value in schedule.get_config().items()
    }
    return type(schedule).from_config(wide)


def _wide(value):
    if isinstance(value, list):
        return [_wide(item) for item in value]
    return np.float64(value) if isinstance(value, float) else value


def _revived(schedule):
    if isinstance(schedule, dict):
        return keras.optimizers.schedules.deserialize(schedule)
    return schedule


def make_schedule(
    kind: str,
    learning_rate: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    milestones: Sequence[int] = (),
    decay_factor: float = 0.1,
    per_epoch: bool = False,
    warmup_epochs: float = 0,
) -> Schedule:
    """Makes the learning-rate schedule of a pretraining run.

    Args:
        kind: "cosine" (to 0 at the end of the run; MoCo v2) or "step" (v1).
        learning_rate: the highest rate.
        epochs: length of the run.
        steps_per_epoch: optimiser steps in an epoch.
        milestones: for "step", epochs at which the rate is multiplied; without any it
            stays the same.
        decay_factor: for "step", the multiplier.
        per_epoch: hold the rate within an epoch, as the reference does; not in the
            warm-up.
        warmup_epochs: length of a linear rise from 0, before the rest.

    Returns:
        A schedule over optimiser steps.

    Raises:
        ValueError: if kind is unknown.
    """
    rate = np.float64(learning_rate)
    warmup = round(warmup_epochs * steps_per_epoch)
    if kind == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(
            rate, max(1, epochs * steps_per_epoch - warmup)
        )
    elif kind == "step":
        # Keras wants a boundary at least; one at the very end changes nothing.
        milestones = milestones or (epochs,)
        # Keras keeps a value up to and including its boundary.
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps_per_epoch - warmup - 1 for epoch in milestones],
            [rate * decay_factor**n for n in range(len(milestones) + 1)],
        )
    else:
        raise ValueError(f'schedule="{kind}" is unknown; use "cosine" or "step".')
    if per_epoch:
        schedule = PerEpoch(schedule, steps_per_epoch)
    # The rise is by steps in any case: by epochs, the first one would learn nothing.
    return Warmup(schedule, warmup) if warmup else schedule
