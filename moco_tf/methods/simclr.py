"""SimCLR: both views through one encoder, negatives from the batch."""

from __future__ import annotations

import functools

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast import KeyQueue, nt_xent
from moco_tf.encoders.encode import encode
from moco_tf.encoders.heads import mlp_head, with_head
from moco_tf.exchange import gather, in_order
from moco_tf.methods.base import RECENT, ContrastiveModel
from moco_tf.methods.views import unit_rows


@keras.saving.register_keras_serializable(package="moco_tf")
class SimCLR(ContrastiveModel):
    """SimCLR: each view finds the other view of its image in the global batch.

    Both views go through one encoder in one pass. Batch norm, in the backbone and in
    the head, takes its statistics over both views of all replicas, and gradients flow
    to every replica's views.

    Args:
        encoder: the backbone, images -> (N, F), or a KerasCV backbone, whose
            feature maps are then pooled.
        dim: length of a projection; the head is F -> F -> dim with batch norm.
        temperature: divides the similarities; 0.1 at the paper's batch of 4096, 0.5
            on CIFAR-10.
        augment: keras layer, uint8 -> float32, that augments the views inside the
            step (see `moco_tf.augment`); None takes the batch's views as given.
        name: of the model.

    `fit` takes the same dataset as `MoCo`.

    Source: Chen et al. 2020 (arXiv 2002.05709), algorithm 1.
    """

    def __init__(
        self,
        encoder: keras.Model,
        dim: int = 128,
        temperature: float = 0.1,
        augment: keras.layers.Layer | None = None,
        name: str = "simclr",
    ):
        super().__init__(encoder, temperature, augment, name)
        self.dim = dim
        widths = (self.encoder.output_shape[-1], dim)
        head = functools.partial(mlp_head, widths=widths, last_scale=True)
        self.query_encoder = with_head(self.encoder, head, "query_encoder")
        self.recent = KeyQueue(RECENT, dim, self.variable_type)

    def negatives(self, batch_size: int) -> int:
        """Both views of all other images."""
        return 2 * batch_size - 2

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Algorithm 1 of the paper on this replica's share of a batch."""
        views = self.views(batch)
        with tf.GradientTape() as tape:
            query, key = self._encode(views)
            result = self._contrast(query, key, views)
            loss = self.scaled(result.loss)
        self.descend(tape.gradient(loss, self.trained_variables))
        self.keep_recent(gather(query), gather(views.id))
        return self.record_contrast(result)

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of a batch; nothing moves, batch norm uses running statistics."""
        views = self.views(batch)
        query, key = self._encode(views, training=False)
        return self.record_contrast(self._contrast(query, key, views))

    def _encode(self, views, training=True):
        images = tf.concat([views.query, views.key], axis=0)
        projections = encode(self.query_encoder, images, training=training, sync=True)
        return tf.split(unit_rows(projections), 2)

    def _contrast(self, query, key, views):
        queries, keys = gather(query), in_order(key, views.position)
        count = tf.shape(queries)[0]
        return nt_xent(
            tf.concat([query, key], axis=0),
            tf.concat([queries, keys], axis=0),
            own=tf.concat([views.order, count + views.position], axis=0),
            other=tf.concat([count + views.order, views.position], axis=0),
            temperature=self.temperature,
        )
