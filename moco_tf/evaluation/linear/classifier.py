"""A linear classifier on a frozen encoder, trained by `fit` as the papers do."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow import keras

from moco_tf.evaluation.features import Features


class LinearClassifier(keras.Model):
    """A frozen encoder in inference mode and one trained linear layer.

    `fit` and `evaluate` take batches {"image": (N,H,W,C), "label": int (N,)} and,
    optionally, "weight": float (N,), 0 for rows that fill up a batch. Losses and
    gradients are means over the global batch. "loss", "top1" and "top5" are means over
    the images seen; in training, of each batch before its update.

    Args:
        encoder: float (N,H,W,C) -> float (N,F). Batch norm uses its running
            statistics, and nothing of it changes.
        num_classes: labels are 0 .. num_classes - 1.
        preprocess: uint8 (N,H,W,C) -> float (N,H,W,C), e.g. a `Normalize` layer;
            None hands the images to the encoder as they are.
        seed: of the initial weights, N(0, 0.01) with bias 0.
        name: of the model.

    Source: He et al. 2020 (arXiv 1911.05722), section 4.1.
    """

    def __init__(
        self,
        encoder: keras.Model | Callable,
        num_classes: int,
        preprocess: Callable | None = None,
        seed: int = 0,
        name: str = "linear_classifier",
    ):
        """See the class docstring."""
        dtype = keras.mixed_precision.global_policy().variable_dtype
        super().__init__(name=name, dtype=dtype)
        self.encoder = encoder
        self.preprocess = preprocess
        self.head = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=seed),
            dtype=dtype,
            name="head",
        )
        self.means = {
            name: keras.metrics.Mean(name, dtype=dtype)
            for name in ("loss", "top1", "top5")
        }

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits (N, num_classes); `training` changes nothing."""
        if self.preprocess is not None:
            images = self.preprocess(images)
        features = tf.stop_gradient(self.encoder(images, training=False))
        return self.head(tf.cast(features, self.head.dtype))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means, which Keras resets every epoch."""
        return list(self.means.values())

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """One step of the head."""
        weight = self._weight(batch)
        with tf.GradientTape() as tape:
            logits = self(batch["image"])
            losses = _cross_entropy(batch["label"], logits)
            # Keras's optimisers add gradients up over replicas.
            loss = tf.reduce_sum(weight * losses) / _over_replicas(weight)
        variables = self.head.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return self._record(batch["label"], logits, losses, weight)

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Scores one batch."""
        logits = self(batch["image"])
        losses = _cross_entropy(batch["label"], logits)
        return self._record(batch["label"], logits, losses, self._weight(batch))

    def _weight(self, batch):
        if "weight" in batch:
            return tf.cast(batch["weight"], self.head.dtype)
        return tf.ones(tf.shape(batch["label"]), self.head.dtype)

    def _record(self, labels, logits, losses, weight):
        values = {"loss": losses, **_hits(labels, logits)}
        for name, mean in self.means.items():
            mean.update_state(values[name], weight)
        return {name: mean.result() for name, mean in self.means.items()}

    def score(self, features: Features) -> dict[str, float]:
        """Scores the head on features of this encoder, without running it again.

        Args:
            features: of the test images.

        Returns:
            "loss", "top1" and "top5", means over the images.
        """
        logits = self.head(tf.cast(features.features, self.head.dtype))
        losses = _cross_entropy(features.labels, logits)
        values = {"loss": losses, **_hits(features.labels, logits)}
        return {
            name: float(tf.reduce_mean(tf.cast(value, tf.float64)))
            for name, value in values.items()
        }


def _cross_entropy(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _hits(labels, logits):
    """1 where the label is among the best 1 and 5, else 0; NaN hits nothing."""
    labels = tf.cast(labels, tf.int32)
    own = tf.gather(logits, labels, batch_dims=1)[:, None]
    # Of equal logits the first wins, as in argmax; tf.math.in_top_k lets all win, and
    # so gives collapsed features full marks.
    first = tf.range(logits.shape[-1]) < labels[:, None]
    better = (logits > own) | ((logits == own) & first)
    rank = tf.math.count_nonzero(better, axis=1)
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return {f"top{k}": tf.cast(finite & (rank < k), logits.dtype) for k in (1, 5)}


def _over_replicas(weight):
    """The weights' sum over the global batch."""
    total = tf.reduce_sum(weight)
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync > 1:
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
    return total
