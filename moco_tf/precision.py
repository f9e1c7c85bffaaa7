"""Float32 in full, where figures are claimed to its last digits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Keeps GPUs from rounding factors to TensorFloat-32, which is their default.

    That has 10 bits: enough to train with, too few to compare features to 1e-4 or to
    rank neighbours as float32 does.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
