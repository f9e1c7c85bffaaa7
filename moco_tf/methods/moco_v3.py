"""MoCo v3: no queue, a predictor, and keys of a momentum encoder in the batch."""

from __future__ import annotations

import functools
import math

import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast import KeyQueue, in_batch, move_towards
from moco_tf.encoders import ViT
from moco_tf.encoders.encode import encode
from moco_tf.encoders.heads import clone, mlp_head, with_head
from moco_tf.exchange import in_order
from moco_tf.methods.base import RECENT, ContrastiveModel
from moco_tf.methods.views import unit_rows


@keras.saving.register_keras_serializable(package="moco_tf")
class MoCoV3(ContrastiveModel):
    """MoCo v3: each view predicts the momentum encoder's key of the other view.

    The negatives of a query are the keys of the other images of the global batch.
    Batch norm, in the backbone and in the heads, takes its statistics over each view
    of all replicas. The heads are the paper's: for a `ViT` a projector of three layers
    and a predictor of two, both ending in batch norm; for any other backbone a
    projector of two, and a predictor of two that does not.

    Args:
        encoder: the backbone, images -> (N, F), or a KerasCV backbone, whose
            feature maps are then pooled. It becomes the query backbone itself.
        total_steps: optimiser steps of the whole run, at whose end the momentum is 1.
        dim: length of a projection.
        hidden: width of the heads' inner layers.
        key_momentum: how much of its weights the key encoder keeps in the first step.
        temperature: divides the similarities; 1 for ResNet-50, 0.2 for ViTs.
        augment: keras layer, uint8 -> float32, that augments the views inside the
            step (see `moco_tf.augment.moco_v3`); None takes the batch's views as given.
        name: of the model.

    Attributes:
        encoder: the query backbone, images -> (N, F); what training is for.
        query_encoder: `encoder` and the projector, images -> (N, dim).
        predictor: what queries pass in addition, (N, dim) -> (N, dim).
        key_encoder: a twin of `query_encoder` that follows by momentum and gets no
            gradient.

    The gradient is of the paper's loss: the sum of both directions' InfoNCE, times
    2 x temperature. The logs show the mean of both, in nats, as of the other methods.
    `fit` takes the same dataset as `MoCo`.

    Raises:
        ValueError: if key_momentum is outside [0, 1] or total_steps not positive.

    Source: Chen et al. 2021 (arXiv 2104.02057), algorithm 1 and section 4; heads,
    momentum and SyncBN as in its code.
    """

    def __init__(
        self,
        encoder: keras.Model,
        total_steps: int,
        dim: int = 256,
        hidden: int = 4096,
        key_momentum: float = 0.99,
        temperature: float = 1.0,
        augment: keras.layers.Layer | None = None,
        name: str = "moco_v3",
    ):
        if not 0 <= key_momentum <= 1:
            raise ValueError(
                f"key_momentum={key_momentum} is outside [0, 1]; the paper uses 0.99."
            )
        if total_steps < 1:
            raise ValueError(
                f"total_steps={total_steps} is not positive; give the run's optimiser "
                "steps, over which the momentum rises."
            )
        super().__init__(encoder, temperature, augment, name)
        self.total_steps = total_steps
        self.dim = dim
        self.hidden = hidden
        self.key_momentum = key_momentum
        is_vit = isinstance(self.encoder, ViT)
        projector = functools.partial(
            mlp_head,
            widths=(hidden, hidden, dim) if is_vit else (hidden, dim),
            prefix="head" if is_vit else "fc",
        )
        self.query_encoder = with_head(self.encoder, projector, "query_encoder")
        # Left trainable and out of the gradient's list: Keras runs the batch norm of
        # layers that are not trainable in inference mode.
        self.key_encoder = with_head(clone(self.encoder), projector, "key_encoder")
        self.key_encoder.set_weights(self.query_encoder.get_weights())
        self.predictor = _predictor(dim, hidden, last_batch_norm=is_vit)
        self.recent = KeyQueue(RECENT, dim, self.variable_type)
        self._add_means("key_momentum")

    @property
    def trained_variables(self) -> list[tf.Variable]:
        """Those of the query encoder and of the predictor."""
        return [
            *self.query_encoder.trainable_variables,
            *self.predictor.trainable_variables,
        ]

    def negatives(self, batch_size: int) -> int:
        """The keys of all other images."""
        return batch_size - 1

    def parts(self) -> dict[str, tf.Module]:
        """Both encoders, the predictor and the newest keys."""
        return {
            **super().parts(),
            "key_encoder": self.key_encoder,
            "predictor": self.predictor,
        }

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Algorithm 1 of the paper on this replica's share of a batch."""
        first = self.views(batch)
        second = first.swapped()
        momentum = rising_momentum(
            self.key_momentum, self.optimizer.iterations, self.total_steps
        )
        # The paper encodes the queries first; the keys do not depend on them.
        move_towards(
            self.key_encoder.trainable_variables,
            self.query_encoder.trainable_variables,
            tf.cast(momentum, self.variable_type),
        )
        first_keys, second_keys = self._keys(first), self._keys(second)
        with tf.GradientTape() as tape:
            results = (
                self._contrast(first, second_keys),
                self._contrast(second, first_keys),
            )
            loss = tf.add_n([self.scaled(result.loss) for result in results])
            loss *= 2 * self.temperature
        self.descend(tape.gradient(loss, self.trained_variables))
        self.keep_recent(second_keys, in_order(first.id, first.order))
        return self.record_contrast(*results, key_momentum=momentum)

    def test_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of a batch; nothing moves, batch norm uses running statistics."""
        first = self.views(batch)
        second = first.swapped()
        results = [
            self._contrast(views, self._keys(other, training=False), training=False)
            for views, other in ((first, second), (second, first))
        ]
        return self.record_contrast(*results)

    def _keys(self, views, training=True):
        """Keys of the view that `views` has as queries, in the order of the batch."""
        keys = encode(self.key_encoder, views.query, training=training, sync=True)
        return in_order(unit_rows(keys), views.order)

    def _contrast(self, views, keys, training=True):
        """Predictions of this replica's queries against the keys of all images."""
        query = encode(self.query_encoder, views.query, training=training, sync=True)
        query = encode(self.predictor, query, training=training, sync=True)
        return in_batch(unit_rows(query), keys, views.order, self.temperature)


def rising_momentum(start: float, step: tf.Tensor, total_steps: int) -> tf.Tensor:
    """The key encoder's momentum, which rises to 1 by half a cosine.

    Args:
        start: momentum of the first step, 0 to 1.
        step: whole number from 0, of optimiser steps done.
        total_steps: of the run; the momentum stays 1 after them.

    Returns:
        float64, in the shape of `step`.

    Source: Chen et al. 2021, section 4; a function of the step as in its code.
    """
    done = tf.minimum(tf.cast(step, tf.float64) / total_steps, 1)
    return 1 - (1 - start) * (1 + tf.cos(math.pi * done)) / 2


def _predictor(dim, hidden, last_batch_norm):
    dtype = keras.mixed_precision.global_policy().variable_dtype
    projections = keras.Input((dim,), name="projections", dtype=dtype)
    x = mlp_head(
        projections,
        (hidden, dim),
        last_batch_norm=last_batch_norm,
        prefix="predictor",
    )
    x = keras.layers.Activation("linear", dtype=dtype, name="prediction")(x)
    return keras.Model(projections, x, name="predictor")
