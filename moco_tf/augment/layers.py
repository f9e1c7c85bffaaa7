"""The augmentation layers, with torchvision's semantics on PIL images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.augment import color
from moco_tf.augment.base import OccasionalLayer, SeededImageLayer
from moco_tf.augment.blur import gaussian_blur
from moco_tf.pixels import ValueRange, to_unit

_register = keras.saving.register_keras_serializable(package="moco_tf")
_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)


@_register
class RandomGrayscale(OccasionalLayer):
    """Turns RGB images to their luma in three equal channels.

    Args:
        probability: of each image to be changed.
        **kwargs: see `SeededImageLayer`.
    """

    def __init__(self, probability: float = 0.2, **kwargs):
        """See the class."""
        super().__init__(probability, **kwargs)

    def change(self, images):
        """See `color.grayscale`."""
        return color.grayscale(images, self.whole)


class _RandomFlip(OccasionalLayer):
    """Mirrors images along `axis` of (batch, height, width, channels)."""

    moves_pixels = True
    axis: int

    def __init__(self, probability: float = 0.5, **kwargs):
        """See the classes."""
        super().__init__(probability, **kwargs)

    def change(self, images):
        """Reverses the axis."""
        return tf.reverse(images, axis=[self.axis])


@_register
class RandomHorizontalFlip(_RandomFlip):
    """Mirrors images left to right.

    Args:
        probability: of each image to be changed.
        **kwargs: see `SeededImageLayer`.
    """

    axis = 2


@_register
class RandomVerticalFlip(_RandomFlip):
    """Mirrors images top to bottom, for pictures that have no up and down.

    Args:
        probability: of each image to be changed.
        **kwargs: see `SeededImageLayer`.
    """

    axis = 1


@_register
class RandomQuarterTurns(OccasionalLayer):
    """Turns square images by 90, 180 or 270 degrees, each as likely as the others.

    Args:
        probability: of each image to be turned; 0.75 makes all four ways up alike.
        **kwargs: see `SeededImageLayer`.
    """

    draws = 2
    moves_pixels = True

    def __init__(self, probability: float = 0.75, **kwargs):
        """See the class."""
        super().__init__(probability, **kwargs)

    def turns(self, transformations: tf.Tensor) -> tf.Tensor:
        """Int32 (batch,): quarters of a turn to the left for each image, 0 to 3."""
        quarters = 1 + tf.cast(3.0 * transformations[:, 1], tf.int32)
        return tf.where(self.chosen(transformations), quarters, 0)

    def augment_images(self, images, transformations, **kwargs):
        """Turns the chosen images, as `np.rot90`."""
        height, width = images.shape[1:3]
        if height != width:
            raise ValueError(
                f"RandomQuarterTurns got images of {height} x {width} pixels, which "
                "would change their shape; give square ones."
            )
        turns = self.turns(transformations)[:, None, None, None]
        sideways = tf.transpose(images, (0, 2, 1, 3))
        images = tf.where(turns % 2 == 1, sideways, images)
        by_rows = (turns == 1) | (turns == 2)
        images = tf.where(by_rows, tf.reverse(images, axis=[1]), images)
        return tf.where(turns >= 2, tf.reverse(images, axis=[2]), images)


@_register
class RandomSolarize(OccasionalLayer):
    """Inverts the values at or above a threshold.

    Args:
        probability: of each image to be changed.
        threshold: 0..256.
        **kwargs: see `SeededImageLayer`.
    """

    def __init__(self, probability: float = 0.2, threshold: float = 128.0, **kwargs):
        """See the class."""
        super().__init__(probability, **kwargs)
        self.threshold = float(threshold)

    def change(self, images):
        """See `color.solarize`."""
        return color.solarize(images, self.threshold)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "threshold": self.threshold}


@_register
class RandomGaussianBlur(OccasionalLayer):
    """Blurs as Pillow's `GaussianBlur`, each image with its own radius.

    Args:
        sigma: (low, high), pixels; uniform between them.
        probability: of each image to be changed.
        **kwargs: see `SeededImageLayer`.
    """

    draws = 2
    mixes_pixels = True

    def __init__(
        self,
        sigma: Sequence[float] = (0.1, 2.0),
        probability: float = 0.5,
        **kwargs,
    ):
        """See the class."""
        super().__init__(probability, **kwargs)
        low, high = (float(value) for value in sigma)
        if not 0.0 <= low <= high:
            raise ValueError(
                f"RandomGaussianBlur got sigma=({low}, {high}); give a low and a high "
                "value with 0 <= low <= high."
            )
        self.sigma = (low, high)

    def sigmas(self, transformations: tf.Tensor) -> tf.Tensor:
        """Float32 (batch,): the radius for each image, 0 for those left alone."""
        low, high = self.sigma
        sigma = low + (high - low) * transformations[:, 1]
        return tf.where(self.chosen(transformations), sigma, 0.0)

    def augment_images(self, images, transformations, **kwargs):
        """Blurs; a radius of 0 changes nothing."""
        sigmas = self.sigmas(transformations)
        return gaussian_blur(images, sigmas, self.sigma[1], self.whole)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "sigma": list(self.sigma)}


@_register
class ColorJitter(OccasionalLayer):
    """Random brightness, contrast, saturation and hue, in a random order per image.

    Args:
        brightness: x, for a factor uniform in max(0, 1 - x)..1 + x.
        contrast: the same.
        saturation: the same.
        hue: x in 0..0.5, for a shift uniform in -x..x turns; 0 leaves it out.
        probability: of each image to be changed.
        **kwargs: see `SeededImageLayer`.

    Source: torchvision's `ColorJitter` in `RandomApply`.
    """

    draws = 6

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        probability: float = 1.0,
        **kwargs,
    ):
        """See the class."""
        super().__init__(probability, **kwargs)
        self.ranges = {
            "brightness": float(brightness),
            "contrast": float(contrast),
            "saturation": float(saturation),
            "hue": float(hue),
        }
        for key, value in self.ranges.items():
            if value < 0.0 or (key == "hue" and value > 0.5):
                limit = "from 0 to 0.5" if key == "hue" else "of 0 or more"
                raise ValueError(
                    f"ColorJitter got {key}={value}; give a number {limit}."
                )

    def parameters(
        self, transformations: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The draws of each image.

        Args:
            transformations: float32 (batch, 6), uniform in [0, 1).

        Returns:
            order int32 (batch, 4), factors float32 (batch, 4), chosen bool (batch,), as
            in `color.color_jitter`; factors of images not chosen are 1, 1, 1, 0.
        """
        chosen = self.chosen(transformations)
        place = tf.cast(transformations[:, 1] * len(_ORDERS), tf.int32)
        order = tf.gather(tf.constant(_ORDERS), place)
        *widths, hue = self.ranges.values()
        low = tf.constant([max(0.0, 1.0 - width) for width in widths] + [-hue])
        high = tf.constant([1.0 + width for width in widths] + [hue])
        factors = low + (high - low) * transformations[:, 2:6]
        unchanged = tf.constant([1.0, 1.0, 1.0, 0.0])
        return order, tf.where(chosen[:, None], factors, unchanged), chosen

    def augment_images(self, images, transformations, **kwargs):
        """Jitters the chosen images."""
        order, factors, chosen = self.parameters(transformations)
        with_hue = chosen & (self.ranges["hue"] > 0.0)
        return color.color_jitter(images, order, factors, with_hue, self.whole)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **self.ranges}


@_register
class Normalize(SeededImageLayer):
    """Maps 0..255 to (value / 255 - mean) / std, in training and in inference.

    Args:
        mean: one number per channel, for values 0..1.
        std: one positive number per channel.
        value_range: what is 0 and 1 instead of 0 and 255; see `moco_tf.pixels`.
        **kwargs: see `SeededImageLayer`.
    """

    augments_at_inference = True

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        value_range: ValueRange = None,
        **kwargs,
    ):
        """See the class."""
        super().__init__(**kwargs)
        self.value_range = None if value_range is None else tuple(value_range)
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"Normalize got {len(self.mean)} values of mean and {len(self.std)} of "
                "std; give one of each per channel."
            )
        if any(value <= 0.0 for value in self.std):
            raise ValueError(f"Normalize got std={self.std}; give numbers above 0.")

    def augment_images(self, images, transformations=None, **kwargs):
        """Normalises."""
        channels = images.shape[-1]
        if channels is not None and channels != len(self.mean):
            raise ValueError(
                f"Normalize got images of {channels} channels and {len(self.mean)} "
                "values of mean and std; give as many as there are channels."
            )
        images = to_unit(images, self.value_range)
        return (images - tf.constant(self.mean)) / tf.constant(self.std)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        config: dict = {"mean": list(self.mean), "std": list(self.std)}
        if self.value_range is not None:
            config["value_range"] = list(self.value_range)
        return {**super().get_config(), **config}
