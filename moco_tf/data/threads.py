"""How many images are read and decoded at once: one for each core, untuned."""

from __future__ import annotations

import os

import tensorflow as tf

CORES = os.cpu_count() or 1


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same dataset without TensorFlow's tuner of threads and buffers.

    TensorFlow 2.15 wakes its tuner at an iterator's end before it says that there is an
    end; the tuner may sleep on, for as long as the iterator has lived and up to a
    minute, and the caller waits. Here it has nothing to tune: `CORES` is what there is.

    Args:
        dataset: any; what is made of it later on is not tuned either.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
