"""Random numbers that depend on a per-image seed and on nothing else.

`tf.random.stateless_uniform` takes one seed per call, so a batch in which each image
has its own seed would need a loop. Here each number is a hash of the image's seed and
of the number's index, in whole-batch integer arithmetic: the draws are bit-identical
eagerly, in a graph, under XLA, and whatever the batch or the parallelism.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_GOLDEN_RATIO = 0x9E3779B9


def _rotate_left(words: tf.Tensor, bits: int) -> tf.Tensor:
    high = tf.bitwise.left_shift(words, tf.constant(bits, tf.uint32))
    low = tf.bitwise.right_shift(words, tf.constant(32 - bits, tf.uint32))
    return tf.bitwise.bitwise_or(high, low)


def _xor_shift(words: tf.Tensor, bits: int) -> tf.Tensor:
    shifted = tf.bitwise.right_shift(words, tf.constant(bits, tf.uint32))
    return tf.bitwise.bitwise_xor(words, shifted)


def _finish(words: tf.Tensor) -> tf.Tensor:
    words = _xor_shift(words, 16) * tf.constant(0x85EBCA6B, tf.uint32)
    words = _xor_shift(words, 13) * tf.constant(0xC2B2AE35, tf.uint32)
    return _xor_shift(words, 16)


def hash_words(seeds: tf.Tensor, states: tf.Tensor) -> tf.Tensor:
    """Hashes each seed with each state, by MurmurHash3 x86_32 of the seed's 8 bytes.

    Args:
        seeds: int32 (batch, 2).
        states: uint32 (count,), the hash's own seed.

    Returns:
        uint32 (batch, count).

    Source: A. Appleby, MurmurHash3 (public domain).
    """
    words = tf.bitcast(seeds, tf.uint32)
    result = states[None, :]
    for index in range(2):
        block = words[:, index : index + 1] * tf.constant(0xCC9E2D51, tf.uint32)
        block = _rotate_left(block, 15) * tf.constant(0x1B873593, tf.uint32)
        result = _rotate_left(tf.bitwise.bitwise_xor(result, block), 13)
        result = result * tf.constant(5, tf.uint32) + tf.constant(0xE6546B64, tf.uint32)
    length = tf.constant(8, tf.uint32)
    return _finish(tf.bitwise.bitwise_xor(result, length))


def _states(first: int, count: int) -> tf.Tensor:
    # Spread over all 32 bits, so that nearby states and nearby seeds do not cancel.
    indices = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    return tf.constant((indices * _GOLDEN_RATIO % 2**32).astype(np.uint32))


def uniforms(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Draws `count` independent numbers for each image.

    Args:
        seeds: int32 (batch, 2), one seed per image.
        count: numbers per image; the first ones do not depend on it.

    Returns:
        float32 (batch, count), uniform in [0, 1), multiples of 2**-24.
    """
    words = hash_words(seeds, _states(0, count))
    bits = tf.bitwise.right_shift(words, tf.constant(8, tf.uint32))
    # By way of int32: there are float kernels for it on every device.
    return tf.cast(tf.bitcast(bits, tf.int32), tf.float32) * 2.0**-24


def fold_in(seeds: tf.Tensor, index: int) -> tf.Tensor:
    """Derives seeds for the `index`-th consumer (0, 1, ...) of the same seeds.

    Args:
        seeds: int32 (batch, 2).
        index: which consumer.

    Returns:
        int32 (batch, 2), independent of `seeds` and of other indices.
    """
    return tf.bitcast(hash_words(seeds, _states(2**20 + 2 * index, 2)), tf.int32)


def fresh_seeds(batch_size: tf.Tensor, seed: int | None) -> tf.Tensor:
    """Draws new seeds from TensorFlow's stateful generator (see `tf.random.set_seed`).

    Args:
        batch_size: number of images.
        seed: operation seed of `tf.random.uniform`, or None.

    Returns:
        int32 (batch_size, 2).
    """
    return tf.random.uniform(
        (batch_size, 2), tf.int32.min, tf.int32.max, dtype=tf.int32, seed=seed
    )
