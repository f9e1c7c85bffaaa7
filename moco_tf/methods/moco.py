"""Momentum Contrast, versions 1 and 2."""

from __future__ import annotations

import logging

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast import KeyQueue, contrast, move_towards
from moco_tf.contrast.queue import NO_IMAGE
from moco_tf.distribution import gather, own_share, unshuffle
from moco_tf.encoders.batchnorm import encode
from moco_tf.encoders.heads import clone, projection_encoder
from moco_tf.methods.base import ContrastiveModel

log = logging.getLogger("moco_tf")


@keras.saving.register_keras_serializable(package="moco_tf")
class MoCo(ContrastiveModel):
    """Momentum Contrast: queries against a queue of keys of a slow encoder.

    Args:
        encoder: the backbone, images -> (N, F), or a KerasCV backbone, whose
            feature maps are then pooled. It becomes the query backbone itself.
        projection: head on the backbone: "linear" (v1) or "mlp" (v2).
        dim: length of a projection.
        queue_size: keys kept as negatives, at least the global batch.
        key_momentum: how much of its weights the key encoder keeps in a step.
        temperature: divides the similarities; 0.07 in v1, 0.2 in v2.
        augment: keras layer, uint8 -> float32, that augments the views inside the
            step (see `moco_tf.augment`); None takes the batch's views as given.
        bn_groups: parts of a replica's batch with batch-norm statistics of their
            own. One replica alone should have several: with one, a query and its
            key are normalised together with the same images, and the encoders can
            match those statistics instead of the contents.
        mask_same_image: leave out queue keys of the query's own image, which are
            false negatives (they occur when the queue reaches back an epoch).
        name: of the model.

    Attributes:
        encoder: the query backbone, images -> (N, F); what training is for.
        query_encoder: `encoder` and its head, images -> (N, dim), not normalised.
        key_encoder: a twin of it that follows by momentum and gets no gradient.
        queue: the `KeyQueue`.

    `fit` takes a `tf.data.Dataset` of dicts: "query" and "key", the two views
    (N, S, S, C); "position", int32 (N,), whose key each row of "key" is within the
    global batch (ShuffleBN: the loader permutes the key views; left out, they are
    in order); "id", int64 (N,), the image of each query.

    Source: He et al. 2020 (arXiv 1911.05722), algorithm 1; Chen et al. 2020
    (arXiv 2003.04297).
    """

    def __init__(
        self,
        encoder: keras.Model,
        projection: str = "mlp",
        dim: int = 128,
        queue_size: int = 65536,
        key_momentum: float = 0.999,
        temperature: float = 0.2,
        augment: keras.layers.Layer | None = None,
        bn_groups: int = 1,
        mask_same_image: bool = False,
        name: str = "moco",
    ):
        if not 0 <= key_momentum <= 1:
            raise ValueError(
                f"key_momentum={key_momentum} is outside [0, 1]; the papers use 0.999."
            )
        if temperature <= 0:
            raise ValueError(
                f"temperature={temperature} is not positive; the papers use 0.07 and "
                "0.2."
            )
        if bn_groups < 1:
            raise ValueError(f"bn_groups={bn_groups} is less than 1; use 1 or more.")
        super().__init__(encoder, augment, name)
        self.projection = projection
        self.dim = dim
        self.queue_size = queue_size
        self.key_momentum = key_momentum
        self.temperature = temperature
        self.bn_groups = bn_groups
        self.mask_same_image = mask_same_image
        self.query_encoder = projection_encoder(
            self.encoder, projection, dim, "query_encoder"
        )
        # Left trainable and out of the gradient's list: Keras runs the batch norm of
        # layers that are not trainable in inference mode.
        self.key_encoder = projection_encoder(
            clone(self.encoder), projection, dim, "key_encoder"
        )
        self.key_encoder.set_weights(self.query_encoder.get_weights())
        self.queue = KeyQueue(queue_size, dim, self.variable_type)
        self._add_means(
            "loss",
            "top1",
            "top5",
            "positive_similarity",
            "negative_similarity",
            "false_negative_rate",
        )

    def compile(self, optimizer: keras.optimizers.Optimizer, **kwargs) -> None:
        """Sets the optimiser; the loss is InfoNCE.

        Args:
            optimizer: of the query encoder, as `moco_tf.optimizers.SGD`.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        # Before the first step, so that this is traced once and can be restored.
        with self.distribute_strategy.scope():
            self.optimizer.build(self.query_encoder.trainable_variables)
        if self.bn_groups == 1 and self.distribute_strategy.num_replicas_in_sync == 1:
            log.info(
                "MoCo on one replica with bn_groups=1: a query and its key share "
                "batch-norm statistics and may leak through them; bn_groups=8 avoids "
                "it."
            )

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Algorithm 1 of the paper on this replica's share of a batch."""
        views = self.views(batch)
        with tf.GradientTape() as tape:
            query = self._unit(self.query_encoder, views.query)
            with tape.stop_recording():
                move_towards(
                    self.key_encoder.trainable_variables,
                    self.query_encoder.trainable_variables,
                    self.key_momentum,
                )
                keys = self._keys(views)
            result, false_negatives = self._contrast(query, keys, views)
            loss = self.scaled(result.loss)
        self.descend(tape, loss, self.query_encoder.trainable_variables)
        self.queue.enqueue(keys, gather(views.id))
        return self._record(result, false_negatives)

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of a batch; nothing moves, batch norm uses running statistics."""
        views = self.views(batch)
        query = self._unit(self.query_encoder, views.query, training=False)
        keys = self._keys(views, training=False)
        return self._record(*self._contrast(query, keys, views))

    def _unit(self, encoder, images, training=True):
        projection = encode(encoder, images, self.bn_groups, training)
        return tf.math.l2_normalize(projection, axis=1, epsilon=1e-24)

    def _keys(self, views, training=True):
        """Keys of the global batch in its order, from keys encoded shuffled."""
        keys = self._unit(self.key_encoder, views.key, training)
        return unshuffle(gather(keys), gather(views.position))

    def _contrast(self, query, keys, views):
        own = own_share(keys, query.shape[0] or tf.shape(query)[0])
        same = views.id[:, None] == self.queue.ids[None, :]
        same &= views.id[:, None] != NO_IMAGE
        result = contrast(
            query,
            own,
            self.queue.keys,
            self.temperature,
            masked=same if self.mask_same_image else None,
        )
        return result, tf.reduce_mean(tf.cast(same, tf.float32))

    def _record(self, result, false_negatives):
        return self.record(
            loss=tf.reduce_mean(result.loss),
            top1=tf.reduce_mean(tf.cast(result.rank < 1, tf.float32)),
            top5=tf.reduce_mean(tf.cast(result.rank < 5, tf.float32)),
            positive_similarity=tf.reduce_mean(result.positive_similarity),
            negative_similarity=result.negative_similarity,
            false_negative_rate=false_negatives,
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "encoder": serialize(self.encoder),
            "projection": self.projection,
            "dim": self.dim,
            "queue_size": self.queue_size,
            "key_momentum": self.key_momentum,
            "temperature": self.temperature,
            "augment": None if self.augment is None else serialize(self.augment),
            "bn_groups": self.bn_groups,
            "mask_same_image": self.mask_same_image,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict) -> MoCo:
        """Makes a model from `get_config`'s dict, with fresh weights."""
        config = dict(config)
        for key in ("encoder", "augment"):
            if config[key] is not None:
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)
