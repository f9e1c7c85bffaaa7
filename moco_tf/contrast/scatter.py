"""Writing rows of a variable of which every replica has its own copy."""

from __future__ import annotations

import tensorflow as tf


def scatter(variable: tf.Variable, rows: tf.Tensor, values: tf.Tensor) -> tf.Variable:
    """Writes rows in place; an update for `strategy.extended.update`.

    It must get a replica's own copy: a mirrored variable as a whole has no scatter.

    Args:
        variable: (size, ...).
        rows: int64 (count, 1), which ones.
        values: (count, ...).
    """
    return variable.scatter_nd_update(rows, values)
