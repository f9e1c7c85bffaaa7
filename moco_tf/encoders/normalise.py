"""Normalisation by a batch's statistics, or those of all replicas' batches."""

from __future__ import annotations

import tensorflow as tf


def is_fused(inputs: tf.Tensor) -> bool:
    """Whether TensorFlow's fused kernels take such inputs."""
    return inputs.shape.rank == 4 and inputs.dtype != tf.float64


def normalise(
    inputs: tf.Tensor,
    affine: tuple[tf.Tensor, tf.Tensor],
    epsilon: float,
    statistics: tuple[tf.Tensor, tf.Tensor] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises each channel.

    Args:
        inputs: (N, ..., C).
        affine: gamma and beta, (C,).
        epsilon: added to the variance.
        statistics: mean and variance, (C,); None takes the inputs' own.

    Returns:
        The outputs, the mean and the unbiased variance, these in gamma's dtype.
    """
    gamma, beta = affine
    training = statistics is None
    mean, variance = statistics or (None, None)
    if is_fused(inputs):
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


def normalise_over_replicas(
    inputs: tf.Tensor, affine: tuple[tf.Tensor, tf.Tensor], epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """As `normalise` in training, with the statistics of all replicas' inputs."""
    gamma, beta = (tf.convert_to_tensor(values) for values in affine)
    if is_fused(inputs):
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
        own_mean, own_variance = normalise(x, (scale, offset), epsilon)[1:]
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
