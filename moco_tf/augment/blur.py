"""Pillow's Gaussian blur for a batch of images with a radius each."""

from __future__ import annotations

import math

import tensorflow as tf


def _box_weights(sigma: tf.Tensor, reach: int) -> tf.Tensor:
    """Weights (batch, reach + 1) at distances 0..reach of one extended box filter."""
    square = tf.square(sigma)
    inner = tf.floor((tf.sqrt(4.0 * square + 1.0) - 1.0) / 2.0)
    outer = inner + 1.0
    edge = (2.0 * inner + 1.0) * (inner * outer - square)
    edge /= 6.0 * (square / 3.0 - outer * outer)
    weight = 1.0 / (2.0 * (inner + edge) + 1.0)
    distance = tf.range(reach + 1, dtype=tf.float32)[None, :]
    inner, edge, weight = inner[:, None], edge[:, None], weight[:, None]
    share = tf.where(
        distance <= inner, 1.0, tf.where(distance > inner + 1.0, 0.0, edge)
    )
    return share * weight


def _filter_rows(rows: tf.Tensor, weights: tf.Tensor, whole: bool) -> tf.Tensor:
    """One box filter along axis 1 of (batch, length, width)."""
    reach = weights.shape[1] - 1
    length = tf.shape(rows)[1]
    padded = tf.concat([rows[:, :1]] * reach + [rows] + [rows[:, -1:]] * reach, axis=1)
    weights = weights[:, :, None, None]
    total = weights[:, 0] * rows
    for distance in range(1, reach + 1):
        after = padded[:, reach + distance : reach + distance + length]
        before = padded[:, reach - distance : reach - distance + length]
        total += weights[:, distance] * (after + before)
    if whole:
        # Pillow's fixed-point weights are cut off, so exact halves go down.
        total = tf.floor(total + 0.4999)
    total.set_shape(rows.shape)
    return total


def _filter_thrice(rows: tf.Tensor, weights: tf.Tensor, whole: bool) -> tf.Tensor:
    # A loop although it is short: XLA fuses three passes written out one after the
    # other and computes each tap of the last from scratch, 25 times as slow on CPU.
    return tf.while_loop(
        lambda turn, _: turn < 3,
        lambda turn, rows: (turn + 1, _filter_rows(rows, weights, whole)),
        (tf.constant(0), rows),
    )[1]


def gaussian_blur(
    images: tf.Tensor, sigma: tf.Tensor, max_sigma: float = 2.0, whole: bool = True
) -> tf.Tensor:
    """Blurs as Pillow's `GaussianBlur(radius=sigma)`: edges are replicated.

    Three extended box filters along each axis, to 8 bits after each; within one grey
    level of Pillow. Sigma 0 leaves an image exactly as it is.

    Args:
        images: float32 or uint8 (batch, height, width, channels), whole numbers 0..255.
        sigma: float32 (batch,), 0..`max_sigma`, in pixels; larger values are lowered.
        max_sigma: Python float; sets the filter length (5 taps for 2.0).
        whole: whether each filter rounds to whole numbers, as Pillow does; images of
            more than 8 bits are not rounded.

    Returns:
        float32, shape of `images`, 0..255.

    Source: Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by
    extended box filtering"; Pillow's BoxBlur.c.
    """
    reach = math.floor((math.sqrt(4.0 * max_sigma**2 + 1.0) - 1.0) / 2.0) + 1
    sigma = tf.minimum(tf.convert_to_tensor(sigma, tf.float32), max_sigma)
    weights = _box_weights(sigma, reach)
    images = tf.cast(images, tf.float32)
    batch, height, width, channels = tf.unstack(tf.shape(images))
    # Filter along the slow axis, so that the inner loops run over contiguous values.
    columns = tf.transpose(images, (0, 2, 1, 3))
    columns = tf.reshape(columns, (batch, width, height * channels))
    columns = _filter_thrice(columns, weights, whole)
    columns = tf.reshape(columns, (batch, width, height, channels))
    rows = tf.transpose(columns, (0, 2, 1, 3))
    rows = tf.reshape(rows, (batch, height, width * channels))
    rows = _filter_thrice(rows, weights, whole)
    return tf.ensure_shape(
        tf.reshape(rows, (batch, height, width, channels)), images.shape
    )
