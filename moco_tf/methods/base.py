"""What every pretraining method is: a `keras.Model` over batches of two views."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast.loss import Contrast
from moco_tf.contrast.queue import NO_IMAGE
from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.encoders.heads import pooled
from moco_tf.encoders.recompute import cut
from moco_tf.lanes import refuse_keras_3, require_keras_2
from moco_tf.methods.timed import timed_train_function
from moco_tf.methods.views import (
    Views,
    called,
    grey_levels,
    own_positions,
    two_view_batch,
)

# Embeddings kept by methods without a queue; enough to see how far they spread.
RECENT = 1024
GRADIENT = "gradient_norm"
# Share of the steps of an epoch whose loss was finite; not in the logs.
FINITE = "finite"


class ContrastiveModel(keras.Model):
    """Base of the methods: views, metrics, features and the timing of input.

    A method makes `query_encoder` and `recent`, and says in `train_step` how a batch
    of two views trains them.

    Attributes:
        encoder: the query backbone, images -> (N, F); what training is for.
        query_encoder: `encoder` and its head, images -> (N, dim), not normalised.
        recent: `KeyQueue` of the newest embeddings and their images.
        augment: Keras layer uint8 -> float32 that acts inside the step, or None. Where
            it has a layer `key`, that one augments the key views. If its `call` takes
            `seeds`, it gets those of the batch; if it takes `training`, False asks it
            for normalisation alone.
        input_seconds: seconds that training has waited for batches, ever growing.
        measures_gradients: whether steps record "gradient_norm", that of the global
            batch's gradient. Set it before the first step.
        steps_made: by `fit` of this model, ever growing.
        own_logs: whether steps give the means of their replica alone, for which none
            waits for another; `fit` joins them.
        doing: what `fit` does now: waits for "images", runs a "step", or what comes
            "after" it, callbacks.
    """

    def __init__(
        self,
        encoder: keras.Model,
        temperature: float,
        augment: keras.layers.Layer | None = None,
        name: str | None = None,
    ):
        """See the methods.

        Raises:
            ValueError: if temperature is not positive.
            TypeError: if encoder or augment is not of Keras 2's API.
        """
        if temperature <= 0:
            raise ValueError(
                f"temperature={temperature} is not positive; MoCo's papers use 0.07 "
                "and 0.2."
            )
        super().__init__(name=name)
        self.encoder = pooled(encoder)
        if augment is not None:
            require_keras_2(augment, keras.layers.Layer, "augment")
        self.temperature = temperature
        self.augment = augment
        self.variable_type = keras.mixed_precision.global_policy().variable_dtype
        self.input_seconds = 0.0
        self.measures_gradients = False
        self.own_logs = False
        self.steps_made, self.doing = 0, "after"
        self._means: dict[str, keras.metrics.Metric] = {}
        self._add_means(
            "loss", "top1", "top5", "positive_similarity", "negative_similarity",
            GRADIENT, FINITE,
        )  # fmt: skip
        self.built = True
        # What Keras would take from a first call, to save a SavedModel before one.
        dtype = self.variable_type if augment is None else tf.uint8
        if getattr(augment, "value_range", None) is not None:
            dtype = tf.float32
        shape = (None, *self.encoder.input_shape[1:])
        self._set_save_spec(tf.TensorSpec(shape, dtype, "images"))

    def negatives(self, batch_size: int) -> int:
        """How many negatives a query has; ln(1 + that) is an uninformed loss.

        Args:
            batch_size: of the global batch.
        """
        raise NotImplementedError

    @property
    def trained_variables(self) -> list[tf.Variable]:
        """What the optimiser moves."""
        return self.query_encoder.trainable_variables

    def parts(self) -> dict[str, tf.Module]:
        """What a checkpoint must hold beside the optimiser, by name."""
        return {"query_encoder": self.query_encoder, "recent": self.recent}

    def embeddings(self) -> np.ndarray:
        """The newest embeddings, (count, dim), of images that have been seen."""
        seen = self.recent.ids.numpy() != NO_IMAGE
        return self.recent.keys.numpy()[seen]

    def recompute_activations(self) -> None:
        """Has the networks compute their activations again for the gradient.

        They keep those between blocks alone, which takes less memory and, for another
        forward pass, more time; the step stays the same. Call it before the first.

        Raises:
            ValueError: if the encoder is none of `moco_tf.encoders`.
        """
        if not hasattr(self.encoder, "block_ends"):
            raise ValueError(
                f"activations of encoder {self.encoder.name!r} cannot be computed "
                "again, as its blocks are not known, nor whether it draws random "
                "numbers; use one of moco_tf.encoders."
            )
        cut(self.query_encoder, self.encoder.block_ends)

    def start_from(self, weights: Sequence[np.ndarray]) -> None:
        """Gives the backbone its first weights, and with it the key encoder's.

        Args:
            weights: in the order of `encoder.weights`, and of their shapes.
        """
        self.encoder.set_weights(weights)
        if (key_encoder := getattr(self, "key_encoder", None)) is not None:
            key_encoder.set_weights(self.query_encoder.get_weights())

    def backbone_layers(self, names: Sequence[str]) -> list[keras.layers.Layer]:
        """Layers of the backbone, by their names, and the key backbone's of the same.

        Args:
            names: such as `moco_tf.encoders.stages.stage_layers` gives them.
        """
        encoders = [self.encoder]
        if (key_encoder := getattr(self, "key_encoder", None)) is not None:
            encoders.append(key_encoder)
        return [encoder.get_layer(name) for encoder in encoders for name in names]

    def compile(self, optimizer: keras.optimizers.Optimizer, **kwargs) -> None:
        """Sets the optimiser; the loss is the method's own.

        Args:
            optimizer: as `moco_tf.optimizers.SGD`.
            **kwargs: further arguments of `keras.Model.compile`.

        Raises:
            ValueError: if steps_per_execution is not 1, or the optimiser is one of
                Keras's former kind, or another model's, or XLA is to compile batch
                norm over several replicas.
            TypeError: if the optimiser is one of Keras 3.
        """
        refuse_keras_3(optimizer, "optimizer")
        several = kwargs.get("steps_per_execution")
        if several not in (None, 1):
            raise ValueError(
                f"steps_per_execution={several} is not supported, as one call trains "
                "on one batch; leave it out."
            )
        if kwargs.get("jit_compile") and not hasattr(self, "bn_groups"):
            replicas = self.distribute_strategy.num_replicas_in_sync
            if replicas > 1:
                raise ValueError(
                    f"jit_compile=True does not work for {type(self).__name__} on "
                    f"{replicas} replicas, as its batch norm is over all of them; "
                    "leave it out."
                )
        super().compile(optimizer=optimizer, **kwargs)
        if not hasattr(self.optimizer, "build"):
            raise ValueError(
                f"optimizer {type(optimizer).__name__} is of Keras's former kind "
                "(keras.optimizers.legacy), which is not supported; use one of "
                "moco_tf.optimizers or keras.optimizers."
            )
        self._refuse_used(getattr(self.optimizer, "inner_optimizer", self.optimizer))
        # Before the first step, so that this is traced once and can be restored.
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trained_variables)

    def _refuse_used(self, optimizer):
        known = getattr(optimizer, "_index_dict", {})
        own = (optimizer._var_key(variable) for variable in self.trained_variables)
        if known and not all(key in known for key in own):
            raise ValueError(
                f"optimizer {type(optimizer).__name__} has the state of another model; "
                "give each model an optimizer of its own."
            )

    def get_compile_config(self) -> dict:
        """What `compile` was given, for a `.keras` file."""
        serialize = keras.saving.serialize_keras_object
        return {
            "optimizer": serialize(self.optimizer),
            "jit_compile": self.jit_compile,
            "run_eagerly": self.run_eagerly,
        }

    def compile_from_config(self, config: dict) -> None:
        """Compiles as `get_compile_config` says; a `.keras` file brings the state."""
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"])
        settings = {key: config[key] for key in ("jit_compile", "run_eagerly")}
        self.compile(optimizer, **settings)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features of images, as `predict` gives them.

        Args:
            images: (N, H, W, C), uint8 0..255, or of the `value_range` of the
                recipe, where the model has `augment` (which then only normalises),
                else as the encoder takes them.
            training: whether batch norm uses the batch.

        Returns:
            float32 (N, F), not normalised.
        """
        return self.encoder(self.normalise(images), training=training)

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """Images as the encoder takes them, without augmentation."""
        if self.augment is None:
            return tf.cast(images, self.variable_type)
        images = grey_levels(images, self.augment)
        return called(self.augment, images, training=False)

    def predict(self, *args, **kwargs) -> np.ndarray:
        """As Keras's, with the first replica's batch-norm statistics on all."""
        share_statistics(self)
        return super().predict(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """As Keras's, with the first replica's batch-norm statistics on all."""
        share_statistics(self)
        return super().evaluate(*args, **kwargs)

    def predict_step(self, batch) -> tf.Tensor:
        """Features of a batch: images, or a dict that has them as "image"."""
        images = batch["image"] if isinstance(batch, dict) else batch
        return self(images[0] if isinstance(images, tuple) else images)

    def views(self, batch: dict) -> Views:
        """Augments a batch of two uint8 views; without `augment` takes it as it is."""
        batch = two_view_batch(batch)
        count = tf.shape(batch["query"])[0]
        query, key = batch["query"], batch["key"]
        if self.augment is not None:
            # A recipe that treats the views differently has a layer for the keys'.
            of_keys = getattr(self.augment, "key", None) or self.augment
            query = grey_levels(query, self.augment)
            key = grey_levels(key, self.augment)
            query = called(self.augment, query, batch.get("query_seed"))
            key = called(of_keys, key, batch.get("key_seed"))
        order = own_positions(count)
        of = "group" if "group" in batch else "id"
        position = batch.get("position")
        if position is None:
            position = order
        return Views(
            tf.cast(query, self.variable_type),
            tf.cast(key, self.variable_type),
            tf.cast(position, tf.int32),
            tf.cast(batch[of], tf.int64)
            if of in batch
            else tf.fill([count], tf.constant(NO_IMAGE, tf.int64)),
            order,
        )

    def record(self, **values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds values of this step to the running means and returns those."""
        values[FINITE] = tf.math.is_finite(values["loss"])
        for name, value in values.items():
            self._means[name].update_state(tf.cast(value, self._means[name].dtype))
        if not self.own_logs:
            return self.get_metrics_result()
        return {
            name: tf.math.divide_no_nan(mean.total, mean.count)
            for name, mean in self._shown().items()
        }

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """The running means, over all replicas of all hosts."""
        return {name: mean.result() for name, mean in self._shown().items()}

    def _shown(self):
        hidden = {FINITE} if self.measures_gradients else {FINITE, GRADIENT}
        return {name: m for name, m in self._means.items() if name not in hidden}

    def record_contrast(self, *results: Contrast, **values: tf.Tensor) -> dict:
        """Records what contrasts gave, their mean where there are several, and more."""
        rank = tf.stack([result.rank for result in results])
        return self.record(
            loss=tf.reduce_mean([result.loss for result in results]),
            top1=tf.reduce_mean(tf.cast(rank < 1, tf.float32)),
            top5=tf.reduce_mean(tf.cast(rank < 5, tf.float32)),
            positive_similarity=tf.reduce_mean(
                [result.positive_similarity for result in results]
            ),
            negative_similarity=tf.reduce_mean(
                [result.negative_similarity for result in results]
            ),
            **values,
        )

    def keep_recent(self, embeddings: tf.Tensor, ids: tf.Tensor) -> None:
        """Enqueues embeddings of the global batch, as many as `recent` can take."""
        self.recent.enqueue(embeddings[:RECENT], ids[:RECENT])

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

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """What the optimiser moves: no key encoder, whose weights follow."""
        return list(self.trained_variables)

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        """All the others: statistics, the key encoder, the queue."""
        moved = {id(variable) for variable in self.trainable_weights}
        return [variable for variable in self.weights if id(variable) not in moved]

    def descend(self, gradients: Sequence[tf.Tensor]) -> None:
        """One optimiser step along the gradients of what `scaled` gave."""
        if hasattr(self.optimizer, "get_unscaled_gradients"):
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        # What apply_gradients would do first; the norm is of what it is given.
        optimizer: Any = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        pairs = optimizer.aggregate_gradients(
            list(zip(gradients, self.trained_variables))
        )
        if self.measures_gradients:
            self._measure([gradient for gradient, _ in pairs])
        self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)

    def _measure(self, gradients):
        norm = tf.linalg.global_norm(gradients)
        # float16's loss scaling skips a step whose gradients overflow.
        counts = tf.cast(tf.math.is_finite(norm), self.variable_type)
        norm = tf.math.multiply_no_nan(tf.cast(norm, self.variable_type), counts)
        self._means[GRADIENT].update_state(norm, counts)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, which are attributes of their names."""
        _self, *names = inspect.signature(type(self).__init__).parameters
        config = {name: getattr(self, name) for name in names}
        for name in ("encoder", "augment"):
            if config[name] is not None:
                config[name] = keras.saving.serialize_keras_object(config[name])
        return config

    @classmethod
    def from_config(cls, config: dict) -> ContrastiveModel:
        """Makes a model from `get_config`'s dict, with fresh weights."""
        config = dict(config)
        for key in ("encoder", "augment"):
            if config[key] is not None:
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)

    def make_train_function(self, force: bool = False):
        """Keras's step, but for the wait for the next batch, which is timed outside."""
        if self.train_function is not None and not force:
            return self.train_function
        self.train_function: Callable | None = timed_train_function(self)
        return self.train_function
