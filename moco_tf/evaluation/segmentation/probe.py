"""The classifier of pixels: fitted to feature maps, and scored by its overlaps."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.data.sources.masks import IGNORED

# Training compares every fourth pixel, which a bilinear enlargement hardly tells from
# its neighbours; scores are of all pixels.
_THINNED = 4


class PixelClassifier:
    """Softmax regression of each place of a feature map, enlarged to the pixels.

    Args:
        maps: float32 (images, rows, columns, dim), whose channels' mean and deviation
            standardise all maps.
        num_classes: of the pixels.
        seed: of the weights and the order of the batches.
    """

    def __init__(self, maps: np.ndarray, num_classes: int, seed: int):
        """See the class docstring."""
        self.num_classes, self.seed = num_classes, seed
        axes = (0, 1, 2)
        self.mean = maps.mean(axes, dtype=np.float64).astype(np.float32)
        deviation = np.sqrt(np.square(maps - self.mean).mean(axes, dtype=np.float64))
        self.deviation = np.where(deviation < 1e-6, 1, deviation).astype(np.float32)
        start = keras.initializers.RandomNormal(0.0, 0.01, seed)
        self.weights = tf.Variable(start((maps.shape[-1], num_classes), tf.float32))
        self.bias = tf.Variable(tf.zeros(num_classes))

    def logits(self, maps: tf.Tensor, side: int) -> tf.Tensor:
        """Of square images of `side` pixels, float32 (N, side, side, classes)."""
        places = tf.matmul((maps - self.mean) / self.deviation, self.weights)
        # Linear maps commute: enlarged logits are those of enlarged features.
        return tf.image.resize(places + self.bias, (side, side))

    def fit(
        self,
        maps: np.ndarray,
        masks: np.ndarray,
        epochs: int,
        batch_size: int,
        learning_rate: float,
    ) -> list[float]:
        """Fits to labelled pixels.

        Args:
            maps: float32 (images, rows, columns, dim).
            masks: uint8 (images, side, side), 255 where a pixel does not count.
            epochs: passes over the images.
            batch_size: images in a step.
            learning_rate: Adam's first.

        Returns:
            The mean loss of each epoch, nats.
        """
        steps = -(-len(maps) // batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
        optimizer = keras.optimizers.Adam(schedule)
        variables = [self.weights, self.bias]
        optimizer.build(variables)
        thinned = masks[:, _THINNED // 2 :: _THINNED, _THINNED // 2 :: _THINNED]

        @tf.function(reduce_retracing=True)
        def step(maps, labels):
            with tf.GradientTape() as tape:
                logits = self.logits(maps, labels.shape[1])
                counts = tf.cast(labels != IGNORED, tf.float32)
                known = tf.where(labels == IGNORED, 0, tf.cast(labels, tf.int32))
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(known, logits)
                loss = tf.reduce_sum(losses * counts)
                loss = tf.math.divide_no_nan(loss, tf.reduce_sum(counts))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return loss

        random = np.random.default_rng(self.seed)
        history = []
        for _ in range(epochs):
            order = random.permutation(len(maps))
            parts = (
                order[start : start + batch_size]
                for start in range(0, len(order), batch_size)
            )
            losses = [step(maps[rows], thinned[rows]) for rows in parts]
            history.append(float(np.mean([loss.numpy() for loss in losses])))
        return history

    def confusion(
        self, maps: np.ndarray, masks: np.ndarray, batch_size: int
    ) -> np.ndarray:
        """Counts of pixels, int64 (classes, classes): rows by mask, columns by guess.

        Args:
            maps: float32 (images, rows, columns, dim).
            masks: uint8 (images, side, side); pixels of 255 do not count.
            batch_size: images classified at once.
        """
        predict = tf.function(
            lambda maps: tf.argmax(self.logits(maps, masks.shape[1]), -1, tf.int32),
            reduce_retracing=True,
        )
        counts = np.zeros((self.num_classes, self.num_classes), np.int64)
        for start in range(0, len(maps), batch_size):
            labels = masks[start : start + batch_size]
            guesses = predict(maps[start : start + batch_size]).numpy()
            known = labels != IGNORED
            pairs = labels[known].astype(np.int64) * self.num_classes + guesses[known]
            counts += np.bincount(pairs, minlength=self.num_classes**2).reshape(
                counts.shape
            )
        return counts


def overlaps(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, NaN where neither mask nor guess has it.

    Args:
        confusion: int (classes, classes), see `PixelClassifier.confusion`.

    Source: Everingham et al. 2015 (the PASCAL VOC challenge), section 4.3.
    """
    shared = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - shared
    return np.divide(shared, union, out=np.full(len(shared), np.nan), where=union > 0)
