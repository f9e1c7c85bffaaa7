"""Augmentations one after the other as one layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from moco_tf.augment.base import SeededImageLayer
from moco_tf.augment.seeds import fold_in
from moco_tf.pixels import ValueRange, to_unit


@keras.saving.register_keras_serializable(package="moco_tf")
class Recipe(SeededImageLayer):
    """Layers one after the other, compiled by XLA in clusters of their own.

    A layer that mixes pixels begins a cluster: fused with those before it, XLA computes
    their values anew for every pixel they go into.

    Each layer derives its own seeds from an image's seed and its place in the recipe.
    With `training=False` only the normalisation remains. A gradient is not meant to
    pass through.

    Args:
        layers: `SeededImageLayer`s in the order of application.
        key: the recipe of key views, where the two views of an image are treated
            differently and this is the query views' only; None where it is both's.
        jit_compile: False leaves the arithmetic to TensorFlow's own kernels.
        value_range: low and high of images that are no 8-bit grey levels, which are
            mapped to 0..255 first and from then on real numbers; None rounds where
            Pillow does.
        **kwargs: see `SeededImageLayer`.
    """

    def __init__(
        self,
        layers: Sequence[SeededImageLayer],
        key: Recipe | None = None,
        jit_compile: bool = True,
        value_range: ValueRange = None,
        **kwargs,
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
        self.key = key
        self.jit_compile = jit_compile
        self.value_range = None if value_range is None else tuple(value_range)
        for layer in self.layers:
            layer.whole = value_range is None
        self.draws = sum(layer.draws for layer in self.layers)
        self.moves_pixels = any(layer.moves_pixels for layer in self.layers)
        stages = [
            tf.function(functools.partial(self._apply, places), jit_compile=jit_compile)
            for places in _clusters(self.layers)
        ]

        def in_order(images, seeds):
            for stage in stages:
                images = stage(images, seeds)
            return images

        self._compiled = tf.function(in_order)

    def uncompiled(self) -> Recipe:
        """The same recipe on TensorFlow's own kernels, without XLA."""
        key = None if self.key is None else self.key.uncompiled()
        return Recipe(
            self.layers,
            key,
            jit_compile=False,
            value_range=self.value_range,
            seed=self.seed,
            name=self.name,
        )

    def _ensure_inputs_are_compute_dtype(self, inputs):
        # uint8 goes in as it is, the cast is part of the compiled cluster.
        return inputs if isinstance(inputs, dict) else tf.convert_to_tensor(inputs)

    def _call_unseeded(self, inputs, training):
        if training:
            return super()._call_unseeded(inputs, training)
        if self.value_range is not None:
            if isinstance(inputs, dict):
                inputs = {**inputs, "images": self._in_range(inputs["images"])}
            else:
                inputs = self._in_range(inputs)
        for layer in self.layers:
            inputs = layer(inputs, training=False)
        return inputs

    def _in_range(self, images):
        """Float32 images, 0..255."""
        if self.value_range is None:
            return tf.cast(images, tf.float32)
        return 255.0 * to_unit(images, self.value_range)

    def _apply(self, places, images, seeds):
        if places.start == 0:
            images = self._in_range(images)
        for index in places:
            # Where no layer draws, there are no seeds.
            own = fold_in(seeds, index) if self.layers[index].draws else None
            images = self.layers[index].augment_with_seeds(images, own)
        return images

    def augment_with_seeds(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """The recipe as a function of a batch of images and their seeds."""
        return self._compiled(images, seeds)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, the layers serialised."""
        serialize = keras.saving.serialize_keras_object
        config = {
            **super().get_config(),
            "layers": [serialize(layer) for layer in self.layers],
            "key": None if self.key is None else serialize(self.key),
            "jit_compile": self.jit_compile,
        }
        if self.value_range is not None:
            config["value_range"] = list(self.value_range)
        return config

    @classmethod
    def from_config(cls, config: dict) -> Recipe:
        """Rebuilds a recipe from `get_config`."""
        revive = keras.saving.deserialize_keras_object
        key = config["key"]
        return cls(
            **{
                **config,
                "layers": [revive(layer) for layer in config["layers"]],
                "key": None if key is None else revive(key),
            }
        )


def _clusters(layers):
    """Places of the layers that XLA may fuse, cluster by cluster."""
    starts = [0] + [i for i, layer in enumerate(layers) if i and layer.mixes_pixels]
    return [range(*bounds) for bounds in zip(starts, [*starts[1:], len(layers)])]
