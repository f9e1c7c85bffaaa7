"""Published augmentation recipes as one Keras layer each.

The random resized crop, which comes first in all of them, is made on the host by the
input pipeline. Colour operations exist for RGB only: with another number of channels
the recipes leave them out, and log it; blur, flip and normalisation remain.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from moco_tf.augment.base import SeededImageLayer
from moco_tf.augment.layers import (
    ColorJitter,
    Normalize,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomSolarize,
)
from moco_tf.augment.seeds import fold_in

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

_COLOR_LAYERS = (ColorJitter, RandomGrayscale, RandomSolarize)
_logger = logging.getLogger(__name__)


@keras.saving.register_keras_serializable(package="moco_tf")
class Recipe(SeededImageLayer):
    """Layers one after the other, compiled by XLA as one cluster of their own.

    Each layer derives its own seeds from an image's seed and its place in the recipe.
    With `training=False` only the normalisation remains. A gradient is not meant to
    pass through.

    Args:
        layers: `SeededImageLayer`s in the order of application.
        jit_compile: False leaves the arithmetic to TensorFlow's own kernels.
        **kwargs: see `SeededImageLayer`.
    """

    def __init__(
        self, layers: Sequence[SeededImageLayer], jit_compile: bool = True, **kwargs
    ):
        """See the class."""
        super().__init__(**kwargs)
        for layer in layers:
            if not isinstance(layer, SeededImageLayer):
                raise ValueError(
                    f"Recipe got the layer {layer!r}; give layers of moco_tf.augment, "
                    "which take seeds."
                )
        self.layers = list(layers)
        self.jit_compile = jit_compile
        self.draws = sum(layer.draws for layer in self.layers)
        self.moves_pixels = any(layer.moves_pixels for layer in self.layers)
        self._compiled = tf.function(self._apply, jit_compile=jit_compile)

    def _ensure_inputs_are_compute_dtype(self, inputs):
        # uint8 goes in as it is, the cast is part of the compiled cluster.
        return inputs if isinstance(inputs, dict) else tf.convert_to_tensor(inputs)

    def _call_unseeded(self, inputs, training):
        if training:
            return super()._call_unseeded(inputs, training)
        for layer in self.layers:
            inputs = layer(inputs, training=False)
        return inputs

    def _apply(self, images, seeds):
        images = tf.cast(images, tf.float32)
        for index, layer in enumerate(self.layers):
            images = layer.augment_with_seeds(images, fold_in(seeds, index))
        return images

    def augment_with_seeds(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """The recipe as a function of a batch of images and their seeds."""
        return self._compiled(images, seeds)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, the layers serialised."""
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        config = {"layers": layers, "jit_compile": self.jit_compile}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict) -> Recipe:
        """Rebuilds a recipe from `get_config`."""
        layers = [
            keras.saving.deserialize_keras_object(layer) for layer in config["layers"]
        ]
        return cls(**{**config, "layers": layers})


def _recipe(name, layers, channels, mean, std, rgb_statistics) -> Recipe:
    if channels < 1:
        raise ValueError(f"{name} got channels={channels}; give 1 or more.")
    if channels != 3:
        left_out = [
            type(item).__name__ for item in layers if type(item) in _COLOR_LAYERS
        ]
        layers = [item for item in layers if type(item) not in _COLOR_LAYERS]
        _logger.info(
            "%s: %s left out, images have %d channels and colour operations are "
            "defined for 3 (RGB) only.",
            name,
            " and ".join(left_out),
            channels,
        )
        rgb_statistics = ((0.5,) * channels, (0.25,) * channels)
    mean = rgb_statistics[0] if mean is None else tuple(mean)
    std = rgb_statistics[1] if std is None else tuple(std)
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(
                f"{name} got {len(values)} values of {key} for {channels} channels; "
                "give one per channel."
            )
    return Recipe([*layers, Normalize(mean, std)], name=name)


def moco_v1(
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Recipe:
    """MoCo v1: grayscale, jitter of everything by 0.4 always, flip, normalisation.

    Args:
        channels: of the images; other than 3, jitter and grayscale are left out.
        mean: per channel, for values 0..1; None is ImageNet's, or 0.5 unless RGB.
        std: per channel; None is ImageNet's, or 0.25 unless RGB.

    Returns:
        A layer from uint8 or float32 0..255 to float32.

    Source: He et al. 2020; the official code's default augmentation.
    """
    layers = [
        RandomGrayscale(0.2),
        ColorJitter(0.4, 0.4, 0.4, 0.4),
        RandomHorizontalFlip(0.5),
    ]
    statistics = (IMAGENET_MEAN, IMAGENET_STD)
    return _recipe("moco_v1", layers, channels, mean, std, statistics)


def moco_v2(
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Recipe:
    """MoCo v2 ("aug+"): jitter of 0.8 of the images, grayscale, blur of half, flip.

    Args:
        channels: of the images; other than 3, jitter and grayscale are left out.
        mean: per channel, for values 0..1; None is ImageNet's, or 0.5 unless RGB.
        std: per channel; None is ImageNet's, or 0.25 unless RGB.

    Returns:
        A layer from uint8 or float32 0..255 to float32.

    Source: Chen et al. 2020 (MoCo v2); the official code's `--aug-plus`.
    """
    layers = [
        ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        RandomGrayscale(0.2),
        RandomGaussianBlur((0.1, 2.0), 0.5),
        RandomHorizontalFlip(0.5),
    ]
    statistics = (IMAGENET_MEAN, IMAGENET_STD)
    return _recipe("moco_v2", layers, channels, mean, std, statistics)


def cifar(
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Recipe:
    """The official CIFAR-10 demo: flip, jitter of 0.8 of the images, grayscale.

    Args:
        channels: of the images; other than 3, jitter and grayscale are left out.
        mean: per channel, for values 0..1; None is CIFAR's, or 0.5 unless RGB.
        std: per channel; None is CIFAR's, or 0.25 unless RGB.

    Returns:
        A layer from uint8 or float32 0..255 to float32.

    Source: the official CIFAR-10 demo of MoCo.
    """
    layers = [
        RandomHorizontalFlip(0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        RandomGrayscale(0.2),
    ]
    statistics = (CIFAR_MEAN, CIFAR_STD)
    return _recipe("cifar", layers, channels, mean, std, statistics)
