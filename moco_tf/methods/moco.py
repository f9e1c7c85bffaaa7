"""Momentum Contrast, versions 1 and 2."""

from __future__ import annotations

import logging

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast import KeyQueue, contrast, move_towards
from moco_tf.contrast.loss import Contrast
from moco_tf.contrast.queue import NO_IMAGE
from moco_tf.encoders.encode import encode
from moco_tf.encoders.heads import clone, projection_encoder
from moco_tf.exchange import gather, in_order, local_replicas
from moco_tf.methods.base import ContrastiveModel
from moco_tf.methods.parts import over_parts
from moco_tf.methods.views import unit_rows

log = logging.getLogger("moco_tf")


@keras.saving.register_keras_serializable(package="moco_tf")
class MoCo(ContrastiveModel):
    """Momentum Contrast: queries against a queue of keys of a slow encoder.

    Args:
        encoder: the backbone, images -> (N, F), or a KerasCV backbone, whose
            feature maps are then pooled. It becomes the query backbone itself.
        projection: head on the backbone: "linear" (v1) or "mlp" (v2).
        dim: length of a projection.
        queue_size: keys kept as negatives, at least the keys of a step: the global
            batch, or twice that with `symmetric`.
        key_momentum: how much of its weights the key encoder keeps in a step.
        temperature: divides the similarities; 0.07 in v1, 0.2 in v2.
        augment: keras layer, uint8 -> float32, that augments the views inside the
            step (see `moco_tf.augment`); None takes the batch's views as given.
        bn_groups: parts of a replica's batch with batch-norm statistics of their
            own. A host's only replica should have several: with one, a query and its
            key are normalised together with the same images, and the encoders can
            match those statistics instead of the contents.
        mask_same_image: leave out queue keys of the query's own image, which are
            false negatives (they occur when the queue reaches back an epoch); of
            batches that name a "group", those of its whole group.
        symmetric: contrast both ways, each view being once the query and once the
            key. The gradient is of the sum of both losses, of which the logs show
            the mean; the keys of both views are enqueued.
        accumulate: parts of a replica's batch that are encoded one after the other, in
            the memory of one, for the same step; divides bn_groups.
        name: of the model.

    Attributes:
        encoder: the query backbone, images -> (N, F); what training is for.
        query_encoder: `encoder` and its head, images -> (N, dim), not normalised.
        key_encoder: a twin of it that follows by momentum and gets no gradient.
        queue: the `KeyQueue`.

    `fit` takes a `tf.data.Dataset` of dicts: "query" and "key", the two views
    (N, S, S, C); "position", int32 (N,), whose key each row of "key" is within the
    global batch (ShuffleBN: the loader permutes the key views; left out, they are
    in order); "id", int64 (N,), the image of each query; and where keys are views of
    other images of a group "group", int64 (N,).

    Source: He et al. 2020 (arXiv 1911.05722), algorithm 1; Chen et al. 2020
    (arXiv 2003.04297); `symmetric` as in the official CIFAR-10 demo.
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
        symmetric: bool = False,
        accumulate: int = 1,
        name: str = "moco",
    ):
        if not 0 <= key_momentum <= 1:
            raise ValueError(
                f"key_momentum={key_momentum} is outside [0, 1]; the papers use 0.999."
            )
        if bn_groups < 1:
            raise ValueError(f"bn_groups={bn_groups} is less than 1; use 1 or more.")
        if accumulate < 1 or bn_groups % accumulate:
            raise ValueError(
                f"accumulate={accumulate} does not divide bn_groups={bn_groups}, whose "
                "groups are normalised apart whichever part they are in; change one."
            )
        super().__init__(encoder, temperature, augment, name)
        self.projection = projection
        self.dim = dim
        self.queue_size = queue_size
        self.key_momentum = key_momentum
        self.bn_groups = bn_groups
        self.mask_same_image = mask_same_image
        self.symmetric = symmetric
        self.accumulate = accumulate
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
        self._add_means("false_negative_rate")

    @property
    def recent(self) -> KeyQueue:
        """The queue, which holds the newest embeddings anyway."""
        return self.queue

    def negatives(self, batch_size: int) -> int:
        """The queue's size, whatever the batch."""
        return self.queue_size

    def parts(self) -> dict[str, tf.Module]:
        """Both encoders and the queue."""
        return {
            "query_encoder": self.query_encoder,
            "key_encoder": self.key_encoder,
            "queue": self.queue,
        }

    def compile(self, optimizer: keras.optimizers.Optimizer, **kwargs) -> None:
        """Sets the optimiser; the loss is InfoNCE.

        Args:
            optimizer: of the query encoder, as `moco_tf.optimizers.SGD`.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        if self.bn_groups == 1 and local_replicas(self.distribute_strategy) == 1:
            log.info(
                "MoCo on one replica a host with bn_groups=1: a query and its key "
                "share batch-norm statistics and may leak through them; bn_groups=8 "
                "avoids it."
            )

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Algorithm 1 of the paper on this replica's share of a batch."""
        directions = self._directions(self.views(batch))
        # The paper encodes the queries first; the keys do not depend on them.
        move_towards(
            self.key_encoder.trainable_variables,
            self.query_encoder.trainable_variables,
            self.key_momentum,
        )
        keys = [self._keys(views) for views in directions]
        gradients, contrasts = self._gradients(directions, keys)
        self.descend(gradients)
        logs = self._record(directions, contrasts)
        self._enqueue(directions[0], keys)
        return logs

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of a batch; nothing moves, batch norm uses running statistics."""
        directions = self._directions(self.views(batch))
        contrasts = [
            self._contrast(views, self._keys(views, training=False), training=False)
            for views in directions
        ]
        return self._record(directions, contrasts)

    def _directions(self, views):
        return [views, views.swapped()] if self.symmetric else [views]

    def _unit(self, encoder, images, training, part=None):
        groups = self.bn_groups // (part.total if part else 1)
        return unit_rows(encode(encoder, images, groups, training, part=part))

    def _keys(self, views, training=True):
        """Keys of the global batch in its order, from keys encoded shuffled."""
        if not training or self.accumulate == 1:
            keys = self._unit(self.key_encoder, views.key, training)
        else:

            def of_part(part, images):
                return (), [self._unit(self.key_encoder, images, True, part)]

            kinds = [self.queue.keys.dtype]
            _, (keys,) = over_parts(of_part, self.accumulate, views.key, (), kinds)
            keys = tf.reshape(keys, (-1, self.dim))
        return in_order(keys, views.position)

    def _gradients(self, directions, keys):
        """Those of the sum of the directions' losses, and the contrasts."""
        if self.accumulate == 1:
            with tf.GradientTape() as tape:
                contrasts = [self._contrast(*each) for each in zip(directions, keys)]
                loss = tf.add_n([self.scaled(result.loss) for result in contrasts])
            return tape.gradient(loss, self.trained_variables), contrasts
        gradients = [tf.zeros_like(variable) for variable in self.trained_variables]
        contrasts = []
        for views, own in zip(directions, keys):

            def of_part(part, views, own=own):
                with tf.GradientTape() as tape:
                    result = self._contrast(views, own, part=part)
                    loss = self.scaled(result.loss) / part.total
                return tape.gradient(loss, self.trained_variables), result

            kind = own.dtype
            kinds = Contrast(kind, tf.int32, kind, kind)
            gradients, results = over_parts(
                of_part, self.accumulate, views, gradients, kinds
            )
            joined = [tf.reshape(result, (-1,)) for result in results]
            contrasts.append(Contrast(*joined[:3], tf.reduce_mean(joined[3])))
        return gradients, contrasts

    def _contrast(self, views, keys, training=True, part=None):
        """Queries of this replica against their own keys and the queue."""
        return contrast(
            self._unit(self.query_encoder, views.query, training, part),
            tf.gather(keys, views.order),
            self.queue.keys,
            self.temperature,
            masked=self._same_image(views) if self.mask_same_image else None,
        )

    def _same_image(self, views):
        """Bool (N, queue_size): where the queue has a key of the query's image."""
        same = views.id[:, None] == self.queue.ids[None, :]
        return same & (views.id[:, None] != NO_IMAGE)

    def _record(self, directions, contrasts):
        # Both directions have the same images.
        same = tf.cast(self._same_image(directions[0]), tf.float32)
        return self.record_contrast(
            *contrasts, false_negative_rate=tf.reduce_mean(same)
        )

    def _enqueue(self, views, keys):
        """Enqueues the keys of each direction, those of the first view first."""
        ids = gather(views.id)
        # The first view gives the keys of the last direction, as in the demo.
        self.queue.enqueue(tf.concat(keys[::-1], 0), tf.concat([ids] * len(keys), 0))
