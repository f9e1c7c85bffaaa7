"""What the numbers in an image mean: their type, and which are black and white."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import tensorflow as tf

# Low and high; None stands for grey levels, 0 and 255, whose arithmetic is Pillow's.
ValueRange = Optional[Sequence[float]]


@dataclass(frozen=True)
class Pixels:
    """The numbers in decoded images and in their views.

    Attributes:
        dtype: "uint8", "uint16" or "float32".
        low: the number that is 0 to a network, before normalisation; lower ones, and
            what is no number (NaN), are taken for it.
        high: the number that is 1; higher ones are taken for it.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 255.0

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Low and high, or None of 8-bit grey levels."""
        return None if self == GREY_LEVELS else (self.low, self.high)

    @property
    def words(self) -> str:
        """The range, such as "0..255"."""
        return f"{self.low:.9g}..{self.high:.9g}"

    @property
    def noted(self) -> dict:
        """What a note on preprocessing says of them: nothing of grey levels."""
        if self == GREY_LEVELS:
            return {}
        return {"dtype": self.dtype, "range": [self.low, self.high]}

    @classmethod
    def from_note(cls, note: Mapping) -> Pixels:
        """Those of which `noted` is a part of the note."""
        return cls(note["dtype"], *note["range"]) if "range" in note else GREY_LEVELS

    def of_share(self, shares: np.ndarray) -> np.ndarray:
        """Shares of the range, 0 to 1, as numbers of `dtype`."""
        numbers = self.low + (self.high - self.low) * shares
        if self.dtype != "float32":
            numbers = np.rint(numbers)
        return numbers.astype(self.dtype)

    def noise(self, shape: Sequence[int]) -> np.ndarray:
        """Random images of `dtype`, the same ones every time."""
        random = np.random.default_rng(0)
        if self == GREY_LEVELS:
            return random.integers(0, 256, shape, np.uint8)
        return self.of_share(random.random(shape))

    def of_depth(self, image: tf.Tensor, most: int) -> tf.Tensor:
        """Numbers 0..most as the same share of the range; of `dtype`'s depth as is."""
        if self.dtype != "float32" and np.iinfo(self.dtype).max == most:
            return tf.cast(image, self.dtype)
        scale = (self.high - self.low) / most
        return self.rounded(self.low + tf.cast(image, tf.float32) * scale)

    def rounded(self, image: tf.Tensor) -> tf.Tensor:
        """Float32 numbers within the range as `dtype`: the nearest whole ones, or all.

        Args:
            image: float32, as a resize gives it of images of `dtype`.
        """
        if self.dtype == "float32":
            return image
        return tf.cast(image + 0.5, self.dtype)

    def within(self, image: tf.Tensor) -> tf.Tensor:
        """Float32 numbers cut off to the range, without NaN."""
        # Compared so that NaN is not greater.
        image = tf.where(image > self.low, image, self.low)
        return tf.minimum(image, self.high)


GREY_LEVELS = Pixels()


def to_unit(images: tf.Tensor, value_range: ValueRange) -> tf.Tensor:
    """Images in 0..1, float32.

    Args:
        images: of any type.
        value_range: what becomes 0 and 1, to which numbers are cut off; None of
            grey levels.
    """
    images = tf.cast(images, tf.float32)
    if value_range is None:
        return images / 255.0
    low, high = value_range
    return (Pixels("float32", low, high).within(images) - low) / (high - low)


def unit_array(images: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """As `to_unit`, in NumPy's float64."""
    if value_range is None:
        return images / 255.0
    low, high = value_range
    images = np.nan_to_num(np.asarray(images, np.float64), nan=low)
    return (np.clip(images, low, high) - low) / (high - low)


def for_the_eye(images: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Images as uint8 grey levels, which those of 8 bits are already."""
    if value_range is None:
        return images
    return (255 * unit_array(images, value_range) + 0.5).astype(np.uint8)
