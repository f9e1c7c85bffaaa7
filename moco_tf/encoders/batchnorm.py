"""Batch normalisation as the references keep it: whole, in groups, over replicas."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras


class Part(NamedTuple):
    """One of equally large parts of a batch that are encoded one after the other.

    Running statistics follow the mean over all of them, as they do over groups.

    Attributes:
        index: int32 (), from 0.
        count: of all parts.
    """

    index: tf.Tensor
    count: int


class _Settings(NamedTuple):
    groups: int
    sync: bool
    part: Part | None = None


# What `encode` asks of the layers that this thread calls.
_call = threading.local()
# Keras's own layers that threads have joined: how many, and the settings of before.
_joined: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_lock = threading.Lock()


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
        settings = getattr(_call, "settings", None) or _Settings(self.groups, self.sync)
        groups, sync, part = settings
        sync = sync and _has_replicas()
        whole = groups == 1 and not sync and part is None
        if whole and _is_fused(inputs) and 0 < self.momentum < 1:
            return self._fused(inputs)
        normalise = _normalise_over_replicas if sync else _normalise
        parts = split(inputs, groups)
        normalised = [normalise(part, self._affine(), self.epsilon) for part in parts]
        outputs, means, variances = zip(*normalised)
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
        return _normalise(inputs, self._affine(), self.epsilon, statistics)[0]

    def _affine(self):
        """Gamma and beta, or their neutral values where the layer has none."""
        gamma = tf.ones_like(self.moving_mean) if self.gamma is None else self.gamma
        beta = tf.zeros_like(self.moving_mean) if self.beta is None else self.beta
        return gamma, beta

    def _follow(self, variable, values, part):
        count, kept = len(values), self.momentum
        if part is not None:
            count *= part.count
            kept = tf.where(part.index == 0, tf.constant(kept, variable.dtype), 1)
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


def _is_fused(inputs):
    return inputs.shape.rank == 4 and inputs.dtype != tf.float64


def _normalise(inputs, affine, epsilon, statistics=None):
    """Returns the outputs, the mean and the unbiased variance, in gamma's dtype."""
    gamma, beta = affine
    training = statistics is None
    mean, variance = statistics or (None, None)
    if _is_fused(inputs):
        # The raw operation, as tf.nn's raises epsilon to 1.001e-5.
        empty = tf.constant([], gamma.dtype)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=empty if training else mean,
            variance=empty if training else variance,
            epsilon=epsilon,
            is_training=training,
        )
        return outputs, mean, variance
    wide = tf.cast(inputs, gamma.dtype)
    if training:
        mean, variance = tf.nn.moments(wide, list(range(inputs.shape.rank - 1)))
    outputs = tf.nn.batch_normalization(wide, mean, variance, beta, gamma, epsilon)
    if training:
        variance = _unbiased(variance, _values_per_channel(inputs))
    return tf.cast(outputs, inputs.dtype), mean, variance


def _normalise_over_replicas(inputs, affine, epsilon):
    """As `_normalise` in training, with the statistics of all replicas' inputs."""
    gamma, beta = (tf.convert_to_tensor(values) for values in affine)
    if _is_fused(inputs):
        return _fused_over_replicas(inputs, gamma, beta, epsilon)
    wide = tf.cast(inputs, gamma.dtype)
    own = tf.nn.moments(wide, list(range(inputs.shape.rank - 1)))
    mean, variance = _over_replicas(*own)
    outputs = tf.nn.batch_normalization(wide, mean, variance, beta, gamma, epsilon)
    return tf.cast(outputs, inputs.dtype), mean, _unbiased(variance, _count(inputs))


def _fused_over_replicas(inputs, gamma, beta, epsilon):
    """The same on TensorFlow's fused kernels, each way with one all-reduce."""

    def inferred(scale, offset, mean, variance):
        return tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=offset, mean=mean, variance=variance,
            epsilon=epsilon, is_training=False,
        )  # fmt: skip

    @tf.custom_gradient
    def normalised(x, scale, offset):
        own_mean, own_variance = _normalise(x, (scale, offset), epsilon)[1:]
        own = _values_per_channel(x)
        mean, variance = _over_replicas(own_mean, _biased(own_variance, own))
        outputs, *_, reserve = inferred(scale, offset, mean, variance)

        def gradients(of_outputs, of_mean, of_variance):
            del of_mean, of_variance  # for the running statistics, which learn nothing
            with_fixed, of_scale, of_offset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=of_outputs, x=x, scale=scale, reserve_space_1=mean,
                reserve_space_2=variance, reserve_space_3=reserve, epsilon=epsilon,
                is_training=False,
            )  # fmt: skip
            # What flows through mean and variance, which all replicas' outputs share.
            sums = _all_reduced([of_scale, of_offset], tf.distribute.ReduceOp.SUM)
            step = scale * tf.math.rsqrt(variance + epsilon)
            step /= tf.cast(_count(x), step.dtype)
            through = inferred(step * sums[0], step * sums[1], mean, variance)[0]
            return with_fixed - through, of_scale, of_offset

        return (outputs, mean, _unbiased(variance, _count(x))), gradients

    return normalised(inputs, gamma, beta)


def _over_replicas(mean, variance):
    """Mean and variance of all replicas' values, of those of each replica's own."""
    # In float64 the difference of squares loses nothing; these are small vectors.
    wide_mean, wide = tf.cast(mean, tf.float64), tf.cast(variance, tf.float64)
    moments = [wide_mean, wide + tf.square(wide_mean)]
    first, second = _all_reduced(moments, tf.distribute.ReduceOp.MEAN)
    return tf.cast(first, mean.dtype), tf.cast(second - first**2, mean.dtype)


def _all_reduced(vectors, how):
    """Two vectors of every channel in one exchange of float64."""
    joined = tf.stack([tf.cast(each, tf.float64) for each in vectors])
    joined = tf.distribute.get_replica_context().all_reduce(how, joined)
    return [tf.cast(each, vectors[0].dtype) for each in tf.unstack(joined)]


def _count(inputs):
    """Values of a channel on all replicas, which have equally many."""
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    return _values_per_channel(inputs) * replicas


def _values_per_channel(inputs):
    return tf.size(inputs, tf.int64) // inputs.shape[-1]


def _unbiased(variance, count):
    count = tf.cast(count, variance.dtype)
    return variance * count / tf.maximum(count - 1, 1)


def _biased(variance, count):
    count = tf.cast(count, variance.dtype)
    return variance * (count - 1) / count


def encode(
    encoder: keras.Model,
    images: tf.Tensor,
    groups: int = 1,
    training: bool = True,
    sync: bool = False,
    part: Part | None = None,
) -> tf.Tensor:
    """Runs an encoder with batch-norm statistics of parts of the batch, or of more.

    Encoders made of this module's layers split inside the layers. Any other (KerasCV's
    backbones) is run once for each part: slower, with the same result but for the
    running statistics, which then follow the parts one after the other.

    Args:
        encoder: images -> (N, F), or a head (N, F) -> (N, dim).
        images: (N, H, W, C), or what the encoder takes.
        groups: number of contiguous equal parts; 1 means the whole batch.
        training: whether batch norm uses the batch's statistics.
        sync: take the statistics over all replicas, see `BatchNormalization`.
        part: which part of a batch `images` is; None: the whole.

    Returns:
        (N, F).
    """
    layers = [
        layer
        for layer in encoder._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    inside = all(isinstance(layer, BatchNormalization) for layer in layers)
    parts = [images] if inside else split(images, groups)
    others = [layer for layer in layers if not isinstance(layer, BatchNormalization)]
    settings = _Settings(groups if inside else 1, sync, part)
    with _asked(settings), _synchronised(others, sync):
        outputs = [encoder(part, training=training) for part in parts]
    return tf.concat(outputs, axis=0) if len(outputs) > 1 else outputs[0]


@contextlib.contextmanager
def _asked(settings):
    """What this module's layers do in calls of this thread, whatever their own are.

    A strategy runs each replica in a thread of its own, and all share the layers.
    """
    before = getattr(_call, "settings", None)
    _call.settings = settings
    try:
        yield
    finally:
        _call.settings = before


@contextlib.contextmanager
def _synchronised(layers, sync):
    """Keras's own layers joined over replicas, until the last thread has left.

    They have no other way than an attribute of the layer, which threads share.
    """
    if not sync:
        yield
        return
    settings = {"synchronized": True, "fused": False}  # that has no fused kernel
    with _lock:
        for layer in layers:
            count, before = _joined.get(layer, (0, None))
            before = before or {name: getattr(layer, name) for name in settings}
            _joined[layer] = count + 1, before
            for name, value in settings.items():
                setattr(layer, name, value)
    try:
        yield
    finally:
        with _lock:
            for layer in layers:
                count, before = _joined.pop(layer)
                if count > 1:
                    _joined[layer] = count - 1, before
                    continue
                for name, value in before.items():
                    setattr(layer, name, value)


def share_statistics(model: keras.Model) -> None:
    """Gives every replica the first replica's running statistics.

    Call it in cross-replica context before inference under a strategy; in training
    each replica's own copy drifts, as it would between a reference's broadcasts.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, BatchNormalization) and layer.built:
            for variable in (layer.moving_mean, layer.moving_variance):
                variable.assign(variable.read_value())
