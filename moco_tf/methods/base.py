"""What every pretraining method is: a `keras.Model` over batches of two views."""

from __future__ import annotations

import time
from typing import NamedTuple

import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.heads import pooled


class Views(NamedTuple):
    """A batch as the networks see it.

    Attributes:
        query: float (N, S, S, C), the query view of each image.
        key: float (N, S, S, C), the key views, in the order of `position`.
        position: int32 (N,), whose key each row of `key` is, in the global batch.
        id: int64 (N,), the image of each query; -1 where the batch names none.
    """

    query: tf.Tensor
    key: tf.Tensor
    position: tf.Tensor
    id: tf.Tensor


class ContrastiveModel(keras.Model):
    """Base of the methods: views, metrics, features and the timing of input.

    Attributes:
        encoder: the query backbone, images -> (N, F).
        augment: layer uint8 -> float32 that acts inside the step, or None.
        input_seconds: seconds that training has waited for batches, ever growing.
    """

    def __init__(self, encoder: keras.Model, augment=None, name: str | None = None):
        """See the methods."""
        super().__init__(name=name)
        self.encoder = pooled(encoder)
        self.augment = augment
        self.variable_type = keras.mixed_precision.global_policy().variable_dtype
        self.input_seconds = 0.0
        self._means = {}
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features of images, as `predict` gives them.

        Args:
            images: (N, H, W, C), uint8 0..255 where the model has `augment` (which
                then only normalises), else as the encoder takes them.
            training: whether batch norm uses the batch.

        Returns:
            float32 (N, F), not normalised.
        """
        return self.encoder(self.normalise(images), training=training)

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """Images as the encoder takes them, without augmentation."""
        if self.augment is None:
            return tf.cast(images, self.variable_type)
        return self.augment(images, training=False)

    def predict_step(self, batch) -> tf.Tensor:
        """Features of a batch: images, or a dict that has them as "image"."""
        images = batch["image"] if isinstance(batch, dict) else batch
        return self(images[0] if isinstance(images, tuple) else images)

    def views(self, batch: dict) -> Views:
        """Augments a batch of two uint8 views; without `augment` takes it as it is."""
        count = tf.shape(batch["query"])[0]
        query, key = batch["query"], batch["key"]
        if self.augment is not None:
            query = self.augment(query, batch.get("query_seed"), training=True)
            key = self.augment(key, batch.get("key_seed"), training=True)
        position = batch.get("position")
        if position is None:
            position = _own_positions(count)
        return Views(
            tf.cast(query, self.variable_type),
            tf.cast(key, self.variable_type),
            tf.cast(position, tf.int32),
            tf.cast(batch["id"], tf.int64)
            if "id" in batch
            else tf.fill([count], tf.constant(-1, tf.int64)),
        )

    def record(self, **values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds values of this step to the running means and returns those."""
        for name, value in values.items():
            self._means[name].update_state(tf.cast(value, self._means[name].dtype))
        return {name: mean.result() for name, mean in self._means.items()}

    def _add_means(self, *names: str) -> None:
        for name in names:
            self._means[name] = keras.metrics.Mean(name, dtype=self.variable_type)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means, which Keras resets every epoch."""
        return list(self._means.values())

    def scaled(self, losses: tf.Tensor) -> tf.Tensor:
        """The replica's mean loss as its share of the global mean, for the tape."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        # Keras's optimisers add gradients up over replicas.
        loss = tf.reduce_mean(losses) / replicas
        if hasattr(self.optimizer, "get_scaled_loss"):  # float16 only
            loss = self.optimizer.get_scaled_loss(loss)
        return loss

    def descend(self, tape: tf.GradientTape, scaled: tf.Tensor, variables) -> None:
        """One optimiser step on what `scaled` gave."""
        gradients = tape.gradient(scaled, variables)
        if hasattr(self.optimizer, "get_unscaled_gradients"):
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        self.optimizer.apply_gradients(zip(gradients, variables))

    def make_train_function(self, force: bool = False):
        """Keras's step, but for the wait for the next batch, which is timed outside.

        `steps_per_execution` is not used: one call trains on one batch.
        """
        if self.train_function is not None and not force:
            return self.train_function
        strategy = self.distribute_strategy

        def run_step(batch):
            logs = self.train_step(batch)
            self._train_counter.assign_add(1)
            return logs

        if self.jit_compile:
            run_step = tf.function(run_step, jit_compile=True)

        def run(batch):
            logs = strategy.run(run_step, args=(batch,))
            return tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], logs
            )

        if not self.run_eagerly:
            run = tf.function(run)
        self.train_tf_function = run

        def train_function(iterator):
            start = time.perf_counter()
            batch = next(iterator)
            self.input_seconds += time.perf_counter() - start
            return run(batch)

        self.train_function = train_function
        return train_function


def _own_positions(count):
    context = tf.distribute.get_replica_context()
    start = tf.convert_to_tensor(context.replica_id_in_sync_group) * count
    return start + tf.range(count)
