"""Training a classifier through all layers of an encoder, on many labels or few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf import optimizers
from moco_tf.data.labelled import labelled_crops
from moco_tf.data.order import steps_per_epoch
from moco_tf.data.sources import Source
from moco_tf.encoders import BatchNormalization, clone
from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.evaluation.features import FeatureExtractor, checked_labels
from moco_tf.evaluation.finetune.settings import Finetune


class HeadSGD(optimizers.SGD):
    """SGD whose rate for some variables is a multiple: torch's parameter groups.

    Args:
        learning_rate: see `SGD`.
        head: the variables that have the other rate.
        head_multiplier: their rate over the others'.
        **kwargs: further arguments of `SGD`.
    """

    def __init__(
        self,
        learning_rate: float | optimizers.Schedule,
        head: Sequence[tf.Variable] = (),
        head_multiplier: float = 1.0,
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        self.head_multiplier = head_multiplier
        self._head = {self._var_key(variable) for variable in head}

    def _direction(self, gradient, variable):
        direction = super()._direction(gradient, variable)
        # The velocity is linear in it: scaling it scales the rate, decay and all.
        if self._var_key(variable) in self._head:
            direction *= self.head_multiplier
        return direction


def build_classifier(
    encoder: keras.Model,
    num_classes: int,
    normalise,
    pretrained: bool = True,
    dtype: str = "uint8",
) -> keras.Model:
    """Makes a copy of an encoder with a linear head, all of it trainable.

    Args:
        encoder: normalised float (N, H, W, C) -> (N, F).
        num_classes: of the head, which starts as N(0, 0.01) without bias.
        normalise: layer of images (N, H, W, C) -> float32.
        pretrained: keep the encoder's weights; False starts from random ones.
        dtype: of the images.

    Returns:
        A model (N, H, W, C) -> float32 logits (N, num_classes), whose batch norm
        uses each replica's whole batch. Its last layer is the head.

    Raises:
        ValueError: the encoder's layers cannot be copied.
    """
    twin = clone(encoder) if pretrained else keras.models.clone_model(encoder)
    for layer in twin._flatten_layers():
        layer.trainable = True
        if isinstance(layer, BatchNormalization):
            layer.groups = 1
    images = keras.Input(encoder.input_shape[1:], dtype=dtype, name="images")
    logits = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype=tf.float32,
        name="head",
    )(twin(normalise(images, training=False)))
    return keras.Model(images, logits, name="classifier")


def encoder_of(model: keras.Model) -> keras.Model:
    """The encoder in what `build_classifier` made, without normalisation and head."""
    return model.layers[-2]


def fit_classifier(
    model: keras.Model,
    source: Source,
    settings: Finetune,
    *,
    image_size: int,
    channels: int,
    learning_rate: float,
    head_multiplier: float,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Trains all layers on random crops by SGD with momentum 0.9.

    Args:
        model: what `build_classifier` made.
        source: the labelled images.
        settings: epochs, batch, schedule, decay, crops and seed.
        image_size: side of the crops.
        channels: of the images.
        learning_rate: for a batch of 256; scaled linearly.
        head_multiplier: the head's rate over the encoder's.
        callbacks: for `fit`.

    Returns:
        "loss" and "top1" of each epoch, on the crops; fewer than `settings.epochs`,
        and the last loss not finite, where training diverged.

    Raises:
        DataError: the source is smaller than a batch.

    Source: the semi-supervised recipe that self-supervised papers share (SwAV, Caron
    et al. 2020, arXiv 2006.09882, appendix A.4: 20 epochs, x0.2 at 12 and 16).
    """
    batch = settings.batch_size
    steps = steps_per_epoch(source, batch)
    schedule = optimizers.make_schedule(
        "step",
        learning_rate * batch / 256,
        epochs=settings.epochs,
        steps_per_epoch=steps,
        milestones=settings.drops,
        decay_factor=settings.decay_factor,
    )
    crops = labelled_crops(
        source,
        batch_size=batch,
        image_size=image_size,
        channels=channels,
        crop_scale=settings.crop_scale,
        seed=settings.seed,
    )

    def is_whole(batch_of):
        return tf.shape(batch_of["label"])[0] == batch

    def example(batch_of):
        shape = (batch, *batch_of["image"].shape[1:])
        image = tf.ensure_shape(batch_of["image"], shape)
        return image, tf.ensure_shape(batch_of["label"], (batch,))

    # Batch statistics of a left-over image or two would be noise.
    batches = crops.filter(is_whole).map(example)
    with model.distribute_strategy.scope():
        model.compile(
            HeadSGD(
                schedule,
                model.layers[-1].trainable_variables,
                head_multiplier,
                momentum=0.9,
                weight_decay=settings.weight_decay,
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            [keras.metrics.SparseCategoricalAccuracy("top1")],
        )
    history = model.fit(
        batches,
        epochs=settings.epochs,
        steps_per_epoch=steps,
        callbacks=[*callbacks, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    share_statistics(model)
    return {name: list(map(float, history.history[name])) for name in ("loss", "top1")}


def classifier_accuracy(
    model: keras.Model, batches: tf.data.Dataset, progress: str | None = None
) -> dict[str, float]:
    """Share of images whose label is the model's best, and among its best five.

    Args:
        model: what `fit_classifier` trained.
        batches: of `labelled_batches`.
        progress: title of a progress bar on stderr; None shows none.

    Returns:
        "top1" and "top5", in [0, 1].

    Raises:
        ValueError: some images have no label.
    """
    # Logits are features of a kind, and the extractor knows about replicas.
    extractor = FeatureExtractor(model, tf.identity, model.distribute_strategy)
    found = extractor.extract(batches, progress)
    labels = checked_labels(found.labels, found.features, "test", "classifier")
    own = np.take_along_axis(found.features, labels[:, None], axis=1)
    # Ties are lost, so that collapse is not rewarded; so is every comparison with NaN.
    rank = np.sum(~(found.features < own), axis=1) - 1
    return {f"top{k}": float(np.mean(rank < k)) for k in (1, 5)}
