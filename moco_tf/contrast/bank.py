"""The memory bank: one embedding for each training image."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast.queue import scatter


class SlotBank(keras.layers.Layer):
    """A slot for each image, which follows the image's embeddings.

    Every replica holds the whole bank and writes the same rows to it.

    Attributes:
        slots: float32 (num_examples, dim), unit rows once they have been written; at
            first uniform of about unit length, as in the original.

    Source: Wu et al. 2018 (arXiv 1805.01978), section 3.1.
    """

    def __init__(
        self,
        num_examples: int,
        dim: int,
        momentum: float = 0.5,
        seed: int = 0,
        dtype: str = "float32",
    ):
        """Makes a bank of random rows.

        Args:
            num_examples: images of the training set, whose ids are 0 to that less 1.
            dim: length of an embedding.
            momentum: how much of itself a slot keeps when its image is seen.
            seed: of the draws.
            dtype: of the slots; float64 serves numerical proofs.

        Raises:
            ValueError: if a number is out of range.
        """
        if num_examples < 1 or dim < 1:
            raise ValueError(
                f"a memory bank of num_examples={num_examples} and dim={dim} cannot "
                "hold an embedding; both must be at least 1."
            )
        if not 0 <= momentum < 1:
            raise ValueError(
                f"slot_momentum={momentum} is outside [0, 1); the paper uses 0.5."
            )
        super().__init__(name="bank", dtype=dtype, trainable=False)
        self.num_examples, self.dim = num_examples, dim
        self.momentum, self.seed = momentum, seed
        limit = (dim / 3) ** -0.5
        self.slots = self.add_weight(
            "slots",
            (num_examples, dim),
            dtype,
            initializer=keras.initializers.RandomUniform(-limit, limit),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.built = True

    def read(self, ids: tf.Tensor) -> tf.Tensor:
        """Slots of images, (count, dim), without a gradient.

        Args:
            ids: int64 (count,), from 0 to num_examples - 1.
        """
        return tf.stop_gradient(tf.gather(self.slots, ids))

    def draw(self, count: int, step: tf.Tensor) -> tf.Tensor:
        """Ids of `count` slots, uniform and with replacement.

        Args:
            count: of the ids.
            step: int64 (), of the training: the same step draws the same slots on
                every replica and in a resumed run, another step others.

        Returns:
            int64 (count,).
        """
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)])
        return tf.random.stateless_uniform(
            (count,), seed, maxval=self.num_examples, dtype=tf.int64
        )

    def update(self, ids: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Moves the slots of images towards their new embeddings.

        Call it in replica context, with the same values on every replica. If an id
        occurs twice, one of its embeddings counts.

        Args:
            ids: int64 (count,), the images.
            embeddings: (count, dim), unit rows.
        """
        moved = self.momentum * self.read(ids) + (1 - self.momentum) * embeddings
        rows = tf.math.l2_normalize(moved, axis=1, epsilon=1e-24)

        def write(strategy, places, rows):
            strategy.extended.update(
                self.slots, scatter, args=(places, rows), group=True
            )

        tf.distribute.get_replica_context().merge_call(write, args=(ids[:, None], rows))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "num_examples": self.num_examples,
            "dim": self.dim,
            "momentum": self.momentum,
            "seed": self.seed,
            "dtype": self.dtype,
        }


def bank_bytes(num_examples: int, dim: int = 128, dtype: str = "float32") -> int:
    """Memory that a bank takes on each replica; a checkpoint takes as much."""
    return num_examples * dim * tf.as_dtype(dtype).size
