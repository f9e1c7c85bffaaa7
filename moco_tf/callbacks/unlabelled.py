"""Quality of the backbone's features, for which no labels are needed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.evaluation.unlabelled import quality
from moco_tf.exchange import take_first_hosts


class FeatureQuality(keras.callbacks.Callback):
    """Adds "rankme", "alignment" and "uniformity" to the logs every few epochs.

    They are of the backbone's features, in inference mode, of two augmented views of
    some images; `moco_tf.evaluation.unlabelled` says what they are.

    Args:
        batches: of two views as the model trains on, the keys in the queries' order;
            each time the same ones.
        every: epochs between measurements; the last epoch always has one.
    """

    def __init__(self, batches: Iterable[dict[str, tf.Tensor]], every: int = 1):
        super().__init__()
        self.batches, self.every = batches, every

    def set_model(self, model: keras.Model) -> None:
        """Takes the model whose encoder is measured."""
        if self.model is model:  # `fit` says again what was said for a first measure
            return
        super().set_model(model)

        def features(batch):
            views = model.views(batch)
            images = tf.concat([views.query, views.key], axis=0)
            return tf.split(model.encoder(images, training=False), 2)

        self._features = tf.function(features)

    def measure(self) -> dict[str, float]:
        """Figures of the encoder as it is now."""
        share_statistics(self.model)
        # Those that are exported; each host has some of its own.
        statistics = getattr(self.model.encoder, "non_trainable_variables", [])
        take_first_hosts(self.model.distribute_strategy, statistics)
        pairs = [self._features(batch) for batch in self.batches]
        query, key = (np.concatenate(views) for views in zip(*pairs))
        return quality(query, key)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Measures when its turn has come."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            logs.update(self.measure())
