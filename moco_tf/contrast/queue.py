"""The FIFO queue of keys."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

# Ids of data sets start at 0, so rows that no image has filled yet match none.
NO_IMAGE = -1


class KeyQueue(keras.layers.Layer):
    """A ring of the newest keys, oldest overwritten first.

    Any size at least as large as the global batch works: a batch that reaches
    the end of the ring goes on at its start and no key is lost.

    Attributes:
        keys: float32 (size, dim), unit rows; at first normalised Gaussian rows.
        ids: int64 (size,), image of each key, -1 where no image has been yet.
        cursor: int64 (), the row that the next key goes to.

    Source: He et al. 2020 (arXiv 1911.05722), section 3.2.
    """

    def __init__(self, size: int, dim: int, dtype: str = "float32"):
        """Makes a queue of random unit rows.

        Args:
            size: number of keys held, at least the global batch.
            dim: length of a key.
            dtype: of the keys; float64 serves numerical proofs.

        Raises:
            ValueError: if size or dim is not positive.
        """
        if size < 1 or dim < 1:
            raise ValueError(
                f"queue of size={size} and dim={dim} cannot hold a key; "
                "both must be at least 1."
            )
        super().__init__(name="queue", dtype=dtype, trainable=False)
        self.size, self.dim = size, dim
        # Every replica computes and writes the same rows, so each keeps its own
        # copy and reading outside replicas takes the first.
        settings = {
            "trainable": False,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.keys = self.add_weight(
            "keys", (size, dim), dtype, initializer=_random_unit_rows, **settings
        )
        self.ids = self.add_weight(
            "ids",
            (size,),
            tf.int64,
            initializer=keras.initializers.Constant(NO_IMAGE),
            **settings,
        )
        self.cursor = self.add_weight(
            "cursor", (), tf.int64, initializer="zeros", **settings
        )
        self.built = True

    def enqueue(self, keys: tf.Tensor, ids: tf.Tensor) -> None:
        """Writes the keys of a global batch over the oldest ones.

        Call it in replica context, with the same values on every replica.

        Args:
            keys: (count, dim), unit rows, count at most `size`.
            ids: int64 (count,), the image of each key.

        Raises:
            ValueError: if there are more keys than rows; where the graph does not know
                their number, `tf.errors.InvalidArgumentError`.
        """
        advice = "make the queue at least as large as the batch"
        count = keys.shape[0] if keys.shape[0] is not None else tf.shape(keys)[0]
        if isinstance(count, int) and count > self.size:
            raise ValueError(
                f"queue_size={self.size} is smaller than the global batch of "
                f"{count}; {advice}."
            )
        if not isinstance(count, int):  # as collectives, and partial batches, leave it
            fits = tf.debugging.assert_less_equal(
                count,
                self.size,
                f"queue_size={self.size} is smaller than the global batch; {advice}",
            )
            with tf.control_dependencies([fits] if fits is not None else []):
                count = tf.identity(count)
        rows = (self.cursor + tf.range(count, dtype=tf.int64)) % self.size
        rows = rows[:, None]
        cursor = (self.cursor + tf.cast(count, tf.int64)) % self.size

        def write(strategy, keys, ids, rows, cursor):
            update = strategy.extended.update
            update(self.keys, scatter, args=(rows, keys), group=True)
            update(self.ids, scatter, args=(rows, ids), group=True)
            update(self.cursor, _assign, args=(cursor,), group=True)

        tf.distribute.get_replica_context().merge_call(
            write, args=(keys, ids, rows, cursor)
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"size": self.size, "dim": self.dim, "dtype": self.dtype}


def _random_unit_rows(shape, dtype=None, **_):
    rows = tf.random.normal(shape, dtype=dtype)
    return rows / tf.norm(rows, axis=1, keepdims=True)


def _assign(variable, value):
    return variable.assign(value)


def scatter(variable: tf.Variable, rows: tf.Tensor, values: tf.Tensor) -> tf.Variable:
    """Writes rows in place; an update for `strategy.extended.update`, also of the bank.

    It must get a replica's own copy: a mirrored variable as a whole has no scatter.

    Args:
        variable: (size, ...).
        rows: int64 (count, 1), which ones.
        values: (count, ...).
    """
    return variable.scatter_nd_update(rows, values)
