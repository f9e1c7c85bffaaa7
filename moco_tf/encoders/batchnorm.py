"""Batch normalisation as the references keep it: whole, in groups, over replicas."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.normalise import is_fused, normalise, normalise_over_replicas


class Part(NamedTuple):
    """One of equally large parts of a batch that are encoded one after the other.

    Running statistics follow the mean over all of them, as they do over groups.

    Attributes:
        number: int32 (), from 0.
        total: how many there are.
    """

    number: tf.Tensor
    total: int


class Settings(NamedTuple):
    """What a call of an encoder asks of its batch norm.

    Attributes:
        groups: see `BatchNormalization`.
        sync: the same.
        part: which part of a batch the call has; None: the whole.
        follow: whether the running statistics move.
    """

    groups: int
    sync: bool
    part: Part | None = None
    follow: bool = True


# What `encode` asks of the layers that this thread calls.
_call = threading.local()


@keras.saving.register_keras_serializable(package="moco_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation over (N, ..., C) in torch's convention.

    Differs from Keras's own layer in four ways: torch's momentum and epsilon are
    the defaults; the running variance is the unbiased one in every dtype (Keras:
    only on its fused path); each replica keeps its own running statistics and the
    first replica's count, as under DistributedDataParallel; and a batch can be
    split into groups, or joined with those of the other replicas.

    Args:
        groups: contiguous equal parts of the batch that are normalised each with
            its own statistics, exactly as that many replicas would do. The running
            statistics follow the mean over groups. May be set after construction,
            before the layer is traced.
        sync: take the statistics, and their gradients, over all replicas (SyncBN),
            which must have equally large batches; with groups, over the same part of
            every replica's. May be set like `groups`.
        momentum: weight of the old running value; 0.9 is torch's 0.1.
        epsilon: added to the variance.
        **kwargs: further arguments of `keras.layers.BatchNormalization`.

    Source: He et al. 2020 (arXiv 1911.05722), section 3.3; groups as `SplitBatchNorm`
    in the reference's CIFAR-10 demo, which interleaves the groups instead.
    """

    def __init__(
        self,
        groups: int = 1,
        sync: bool = False,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs,
    ):
        """Takes Keras's arguments, with torch's defaults, `groups` and `sync`."""
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        self.groups = groups
        self.sync = sync

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes gamma, beta and the running statistics.

        Raises:
            ValueError: for a setting of Keras's layer that this one does not have.
        """
        super().build(input_shape)
        if (
            list(self.axis) != [len(input_shape) - 1]
            or self.synchronized
            or self.renorm
            or self.virtual_batch_size
        ):
            raise ValueError(
                f"axis={list(self.axis)}, synchronized={self.synchronized}, "
                f"renorm={self.renorm}, virtual_batch_size={self.virtual_batch_size} "
                f"of '{self.name}' are not supported together; only the last axis is, "
                "and `sync` for statistics over replicas, so leave them out."
            )

    def add_weight(self, *args, **kwargs) -> tf.Variable:
        """As Keras's, but replicas' statistics are read from the first replica."""
        if kwargs.get("synchronization") == tf.VariableSynchronization.ON_READ:
            # Keras asks for their mean; DistributedDataParallel keeps rank 0's.
            kwargs["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return super().add_weight(*args, **kwargs)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Normalises; in training by the batch, otherwise by running statistics.

        Raises:
            ValueError: if the batch does not split into `groups` equal parts.
        """
        training = self._get_training_value(training)
        if tf.is_tensor(training):  # while Keras records a functional model
            return tf.cond(
                training,
                lambda: self._by_batch(inputs),
                lambda: self._by_running_statistics(inputs),
            )
        if training:
            return self._by_batch(inputs)
        return self._by_running_statistics(inputs)

    def _by_batch(self, inputs):
        settings = getattr(_call, "settings", None) or Settings(self.groups, self.sync)
        groups, sync, part, follow = settings
        sync = sync and _has_replicas()
        whole = groups == 1 and not sync and part is None and follow
        if whole and is_fused(inputs) and 0 < self.momentum < 1:
            return self._fused(inputs)
        kernel = normalise_over_replicas if sync else normalise
        # No name of a comprehension may be one of the function's: from Python 3.12 on
        # AutoGraph takes it for the same.
        normalised = [
            kernel(group, self._affine(), self.epsilon)
            for group in split(inputs, groups)
        ]
        outputs, means, variances = zip(*normalised)
        if follow:
            self._follow(self.moving_mean, means, part)
            self._follow(self.moving_variance, variances, part)
        return tf.concat(outputs, axis=0) if len(outputs) > 1 else outputs[0]

    def _fused(self, inputs):
        """The whole batch, in one operation that moves the running statistics too."""
        gamma, beta = self._affine()
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=self.moving_mean,
            variance=self.moving_variance,
            epsilon=self.epsilon,
            exponential_avg_factor=1 - self.momentum,
            is_training=True,
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return outputs

    def _by_running_statistics(self, inputs):
        statistics = self.moving_mean, self.moving_variance
        return normalise(inputs, self._affine(), self.epsilon, statistics)[0]

    def _affine(self):
        """Gamma and beta, or their neutral values where the layer has none."""
        gamma = tf.ones_like(self.moving_mean) if self.gamma is None else self.gamma
        beta = tf.zeros_like(self.moving_mean) if self.beta is None else self.beta
        return gamma, beta

    def _follow(self, variable, values, part):
        count, kept = len(values), self.momentum
        if part is not None:
            count *= part.total
            kept = tf.where(part.number == 0, tf.constant(kept, variable.dtype), 1)
        change = (1 - self.momentum) / count * tf.add_n(values)
        variable.assign(kept * variable + change)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "groups": self.groups, "sync": self.sync}


def _has_replicas():
    """Whether there are replicas to join here; none while a model is recorded."""
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


def split(batch: tf.Tensor, groups: int) -> list[tf.Tensor]:
    """Cuts a batch into contiguous equal parts.

    Args:
        batch: (N, ...).
        groups: number of parts, which divides N.

    Raises:
        ValueError: if it does not, or is not positive.
    """
    count = batch.shape[0]
    if groups < 1 or (count or 0) % groups:
        raise ValueError(
            f"a batch of {count or 'any size'} does not split into {groups} batch-norm "
            "groups of one size; change the batch or the groups."
        )
    return tf.split(batch, groups) if groups > 1 else [batch]


@contextlib.contextmanager
def asked(settings: Settings) -> Iterator[None]:
    """What this module's layers do in calls of this thread, whatever their own are.

    A strategy runs each replica in a thread of its own, and all share the layers.
    """
    before = getattr(_call, "settings", None)
    _call.settings = settings
    try:
        yield
    finally:
        _call.settings = before


def share_statistics(model: keras.Model) -> None:
    """Gives every replica the first replica's running statistics.

    Call it in cross-replica context before inference under a strategy; in training
    each replica's own copy drifts, as it would between a reference's broadcasts.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, BatchNormalization) and layer.built:
            for variable in (layer.moving_mean, layer.moving_variance):
                variable.assign(variable.read_value())
