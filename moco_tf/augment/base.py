"""Base classes of the augmentation layers: KerasCV's contract plus per-image seeds.

The layers subclass `keras_cv.layers.VectorizedBaseImageAugmentationLayer` and keep
its contract: a call takes images (batch, height, width, channels), one image, or a
dict with ``"images"``, and works eagerly, in a graph and in `tf.data`. Added are seeds,
one per image; what KerasCV's base does differently is said where it is overridden.
Images are float32 0..255 between layers, whatever the global dtype policy: whole
numbers, or in a `Recipe` for images of more than 8 bits real ones.
"""

from __future__ import annotations

import tensorflow as tf
from keras_cv.layers import VectorizedBaseImageAugmentationLayer

from moco_tf.augment.seeds import fresh_seeds, uniforms

_GEOMETRY = ("bounding_boxes", "keypoints", "segmentation_masks")


class SeededImageLayer(VectorizedBaseImageAugmentationLayer):
    """Base of the layers: draws come from per-image seeds, arithmetic is in float32.

    Where `whole` is True, which a `Recipe` may change, results that Pillow rounds are
    rounded to whole numbers. A subclass sets `draws` and overrides
    `augment_images(images, transformations)`, where `transformations` is float32
    (batch, draws), uniform in [0, 1).

    Args:
        seed: int or None; seeds the draws of calls that give no seeds of their own.
        **kwargs: `name` and the like. `dtype` is float32 and cannot be changed.
    """

    draws = 0
    whole = True
    moves_pixels = False
    mixes_pixels = False
    augments_at_inference = False

    def __init__(self, seed: int | None = None, **kwargs):
        """See the class."""
        dtype = kwargs.pop("dtype", None) or "float32"
        if dtype != "float32":
            raise ValueError(
                f"{type(self).__name__} got dtype={dtype!r}; augmentation is computed "
                "in float32 under every policy, leave dtype out."
            )
        super().__init__(dtype="float32", **kwargs)
        # The base holds a tf.random.Generator, whose state would enter the checkpoints
        # of every model that owns this layer (`del` alone keeps it tracked).
        del self._random_generator
        self._delete_tracking("_random_generator")
        self.seed = seed

    def call(self, inputs, seeds=None, training=True):
        """Augments.

        Args:
            inputs: uint8 or float (batch, height, width, channels), 0..255; one image
                without the batch axis; or a dict with "images" and optionally "seeds",
                the rest of which is passed through.
            seeds: int32 (batch, 2), one per image, or None for new ones. The same
                seed gives the same draws in any batch and in any mode of execution.
            training: False returns the images as float32 without random changes.

        Returns:
            float32 images, or the dict with them and without "seeds": a seed serves
            once, or the next layer would repeat this one's draws.
        """
        if seeds is not None:
            is_dict = isinstance(inputs, dict)
            inputs = dict(inputs) if is_dict else {"images": inputs}
            rank = len(inputs["images"].shape)
            inputs["seeds"] = tf.reshape(seeds, (-1, 2) if rank == 4 else (2,))
            outputs = self._call_unseeded(inputs, training)
            return outputs if is_dict else outputs["images"]
        return self._call_unseeded(inputs, training)

    def _call_unseeded(self, inputs, training):
        if training or self.augments_at_inference:
            return super().call(inputs)
        inputs = self._ensure_inputs_are_compute_dtype(inputs)
        if isinstance(inputs, dict):
            inputs.pop("seeds", None)
        return inputs

    def _ensure_inputs_are_compute_dtype(self, inputs):
        # The base also turns integer labels into floats.
        if not isinstance(inputs, dict):
            return tf.cast(inputs, tf.float32)
        return {**inputs, "images": tf.cast(inputs["images"], tf.float32)}

    def _batch_augment(self, inputs):
        geometry = [key for key in _GEOMETRY if key in inputs]
        if self.moves_pixels and geometry:
            raise ValueError(
                f"{type(self).__name__} got {geometry[0]!r}, which it would leave "
                "behind when it moves pixels; use KerasCV's own layer for such data."
            )
        outputs = dict(inputs)
        seeds = outputs.pop("seeds", None)
        images = outputs["images"]
        if seeds is None and self.draws:
            seeds = fresh_seeds(tf.shape(images)[0], self.seed)
        outputs["images"] = self.augment_with_seeds(images, seeds)
        return outputs

    def augment_with_seeds(self, images: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """The layer as a function of a batch of float32 images and their seeds."""
        transformations = uniforms(seeds, self.draws) if self.draws else None
        return self.augment_images(images, transformations)

    def compute_output_shape(self, input_shape):
        """The shape of the images; no layer changes it."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "seed": self.seed}


class OccasionalLayer(SeededImageLayer):
    """A layer that acts on each image with a probability (the first draw decides)."""

    draws = 1

    def __init__(self, probability: float, **kwargs):
        """See the class."""
        super().__init__(**kwargs)
        if not 0.0 <= probability <= 1.0:
            raise ValueError(
                f"{type(self).__name__} got probability={probability}; give a number "
                "from 0 to 1."
            )
        self.probability = float(probability)

    def chosen(self, transformations: tf.Tensor) -> tf.Tensor:
        """Bool (batch,): the images that the layer acts on."""
        return transformations[:, 0] < self.probability

    def change(self, images: tf.Tensor) -> tf.Tensor:
        """What happens to the chosen images."""
        raise NotImplementedError

    def augment_images(self, images, transformations, **kwargs):
        """Changes the chosen images."""
        chosen = self.chosen(transformations)[:, None, None, None]
        return tf.where(chosen, self.change(images), images)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "probability": self.probability}
