"""Instance discrimination with a memory bank."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast import KeyQueue, SlotBank, contrast
from moco_tf.encoders.encode import encode
from moco_tf.encoders.heads import projection_encoder
from moco_tf.exchange import gather
from moco_tf.methods.base import RECENT, ContrastiveModel
from moco_tf.methods.views import Views, two_view_batch, unit_rows


@keras.saving.register_keras_serializable(package="moco_tf")
class MemoryBank(ContrastiveModel):
    """Each image against its own slot in a bank of all images and slots of others.

    The bank remembers an embedding of every training image from when it was last
    seen. Three departures from the original, effects not measured: InfoNCE stands for
    NCE, as in the MoCo paper's comparison; the negatives are drawn once a step for all
    queries, since a draw for each would gather batch x count x dim numbers; and where
    a query's own slot, its positive, is drawn, it is not counted as a negative too.

    Args:
        encoder: the backbone, images -> (N, F), or a KerasCV backbone, whose
            feature maps are then pooled.
        num_examples: images of the training set; their ids are 0 to that less 1.
        projection: head on the backbone: "linear" (the original's) or "mlp".
        dim: length of a projection.
        num_negatives: slots drawn from the bank, uniformly and with replacement;
            4096 in the original.
        slot_momentum: how much of itself a slot keeps when its image is seen.
        proximal: weight of the squared distance of each query from its own slot,
            which is added to what is minimised and not to the loss in the logs.
        temperature: divides the similarities; 0.07 in the original.
        augment: keras layer, uint8 -> float32, that augments the views inside the
            step (see `moco_tf.augment`); None takes the batch's views as given.
        bn_groups: parts of a replica's batch with batch-norm statistics of their
            own, see `MoCo`; nothing leaks here, so it only makes terms equal.
        seed: of the draws from the bank.
        name: of the model.

    Attributes:
        bank: the `SlotBank`; `moco_tf.contrast.bank_bytes` says beforehand how much
            memory it takes on each replica.

    `fit` takes the same dataset as `MoCo`, of which the key view is not used; "id" is
    required.

    Source: Wu et al. 2018 (arXiv 1805.01978), section 3; He et al. 2020
    (arXiv 1911.05722), figure 2b.
    """

    def __init__(
        self,
        encoder: keras.Model,
        num_examples: int,
        projection: str = "linear",
        dim: int = 128,
        num_negatives: int = 4096,
        slot_momentum: float = 0.5,
        proximal: float = 0.0,
        temperature: float = 0.07,
        augment: keras.layers.Layer | None = None,
        bn_groups: int = 1,
        seed: int = 0,
        name: str = "memory_bank",
    ):
        if num_negatives < 1:
            raise ValueError(
                f"num_negatives={num_negatives} is less than 1; the original uses 4096."
            )
        if proximal < 0:
            raise ValueError(f"proximal={proximal} is negative; 0 leaves it out.")
        super().__init__(encoder, temperature, augment, name)
        self.num_examples = num_examples
        self.projection = projection
        self.dim = dim
        self.num_negatives = num_negatives
        self.slot_momentum = slot_momentum
        self.proximal = proximal
        self.bn_groups = bn_groups
        self.seed = seed
        self.query_encoder = projection_encoder(
            self.encoder, projection, dim, "query_encoder"
        )
        self.bank = SlotBank(num_examples, dim, slot_momentum, seed, self.variable_type)
        self.recent = KeyQueue(RECENT, dim, self.variable_type)

    def negatives(self, batch_size: int) -> int:
        """The slots drawn, whatever the batch."""
        return self.num_negatives

    def parts(self) -> dict[str, tf.Module]:
        """The encoder, the bank and the newest embeddings."""
        return {**super().parts(), "bank": self.bank}

    def views(self, batch: dict) -> Views:
        """As other methods', but each image must have a slot.

        Raises:
            ValueError: if the batch has no ids.
            tf.errors.InvalidArgumentError: if an id is beyond the bank.
        """
        batch = two_view_batch(batch)
        if "id" not in batch:
            raise ValueError(
                'the batch has no "id", which MemoryBank needs to find each image\'s '
                "slot; give int64 ids from 0."
            )
        ids = tf.cast(batch["id"], tf.int64)
        # A GPU would read zeros beyond the bank and drop what is written there.
        is_within = tf.debugging.assert_less(
            tf.reduce_max(ids),
            tf.constant(self.num_examples, tf.int64),
            f"an image's id is not below num_examples={self.num_examples}; give the "
            "bank as many examples as the training set has.",
        )
        with tf.control_dependencies([is_within]):
            return super().views({**batch, "id": tf.identity(ids)})

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The mechanism of figure 2b on this replica's share of a batch."""
        views = self.views(batch)
        own = self.bank.read(views.id)
        with tf.GradientTape() as tape:
            query = self._encode(views)
            result = self._contrast(query, own, views)
            distance = tf.reduce_sum(tf.math.squared_difference(query, own), axis=1)
            loss = self.scaled(result.loss + self.proximal * distance)
        self.descend(tape.gradient(loss, self.trained_variables))
        ids, embeddings = gather(views.id), gather(query)
        self.bank.update(ids, embeddings)
        self.keep_recent(embeddings, ids)
        return self.record_contrast(result)

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of a batch of training images; nothing moves."""
        views = self.views(batch)
        query = self._encode(views, training=False)
        own = self.bank.read(views.id)
        return self.record_contrast(self._contrast(query, own, views))

    def _encode(self, views, training=True):
        return unit_rows(
            encode(self.query_encoder, views.query, self.bn_groups, training)
        )

    def _contrast(self, query, own, views):
        drawn = self.bank.draw(self.num_negatives, self.optimizer.iterations)
        negatives, is_own = self.bank.read(drawn), views.id[:, None] == drawn[None, :]
        return contrast(query, own, negatives, self.temperature, masked=is_own)
