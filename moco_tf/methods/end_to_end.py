"""The end-to-end mechanism that the MoCo paper compares with."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast import KeyQueue, in_batch
from moco_tf.encoders.encode import encode
from moco_tf.encoders.heads import clone, projection_encoder
from moco_tf.encoders.recompute import cut
from moco_tf.exchange import gather, in_order
from moco_tf.methods.base import RECENT, ContrastiveModel
from moco_tf.methods.views import unit_rows


@keras.saving.register_keras_serializable(package="moco_tf")
class EndToEnd(ContrastiveModel):
    """Queries against the keys of the same batch, gradients to both encoders.

    The negatives of a query are the keys of all other images of the global batch, so
    there are as many as the devices' memory allows. As in the paper, ShuffleBN is
    used as for MoCo.

    Args:
        encoder: the backbone, images -> (N, F), or a KerasCV backbone, whose
            feature maps are then pooled. It becomes the query backbone itself.
        projection: head on the backbone: "linear" or "mlp", as `MoCo`'s.
        dim: length of a projection.
        temperature: divides the similarities.
        augment: keras layer, uint8 -> float32, that augments the views inside the
            step (see `moco_tf.augment`); None takes the batch's views as given.
        bn_groups: parts of a replica's batch with batch-norm statistics of their
            own, see `MoCo`.
        name: of the model.

    Attributes:
        key_encoder: a twin of `query_encoder` that starts equal to it and is trained
            by gradients of its own.

    `fit` takes the same dataset as `MoCo`.

    Source: He et al. 2020 (arXiv 1911.05722), figure 2a and sections 3.2, 4.1.
    """

    def __init__(
        self,
        encoder: keras.Model,
        projection: str = "mlp",
        dim: int = 128,
        temperature: float = 0.2,
        augment: keras.layers.Layer | None = None,
        bn_groups: int = 1,
        name: str = "end_to_end",
    ):
        super().__init__(encoder, temperature, augment, name)
        self.projection = projection
        self.dim = dim
        self.bn_groups = bn_groups
        self.query_encoder = projection_encoder(
            self.encoder, projection, dim, "query_encoder"
        )
        self.key_encoder = projection_encoder(
            clone(self.encoder), projection, dim, "key_encoder"
        )
        self.key_encoder.set_weights(self.query_encoder.get_weights())
        self.recent = KeyQueue(RECENT, dim, self.variable_type)

    @property
    def trained_variables(self) -> list[tf.Variable]:
        """Those of both encoders."""
        return [
            *self.query_encoder.trainable_variables,
            *self.key_encoder.trainable_variables,
        ]

    def negatives(self, batch_size: int) -> int:
        """The keys of all other images."""
        return batch_size - 1

    def parts(self) -> dict[str, tf.Module]:
        """Both encoders and the newest keys."""
        return {**super().parts(), "key_encoder": self.key_encoder}

    def recompute_activations(self) -> None:
        """As of the base, for both encoders."""
        super().recompute_activations()
        cut(self.key_encoder, self.encoder.block_ends)

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The mechanism of figure 2a on this replica's share of a batch."""
        views = self.views(batch)
        with tf.GradientTape() as tape:
            query, keys = self._encode(views)
            result = in_batch(query, keys, views.order, self.temperature)
            loss = self.scaled(result.loss)
        self.descend(tape.gradient(loss, self.trained_variables))
        self.keep_recent(keys, gather(views.id))
        return self.record_contrast(result)

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of a batch; nothing moves, batch norm uses running statistics."""
        views = self.views(batch)
        query, keys = self._encode(views, training=False)
        return self.record_contrast(
            in_batch(query, keys, views.order, self.temperature)
        )

    def _encode(self, views, training=True):
        """This replica's queries, and the keys of all in the order of the batch."""
        query = encode(self.query_encoder, views.query, self.bn_groups, training)
        key = encode(self.key_encoder, views.key, self.bn_groups, training)
        return unit_rows(query), in_order(unit_rows(key), views.position)
