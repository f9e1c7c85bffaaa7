"""What the exported graphs compute: preprocessing, encoder, and unit length."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow import keras

from moco_tf.data.crops import centre_window
from moco_tf.data.decoding import (
    ENCODED_CHANNELS,
    decode,
    is_deep_png,
    require_size,
)
from moco_tf.pixels import GREY_LEVELS, Pixels, ValueRange, to_unit


class PixelEncoder(tf.Module):
    """Takes pixel values instead of normalised ones, over plain variables.

    Args:
        encoder: normalised float32 (N,H,W,C) -> (N,F).
        mean: C values in 0..1 units, subtracted after division by 255.
        std: C positive values in 0..1 units.
        value_range: what becomes 0 and 1 instead of 0 and 255.
    """

    def __init__(
        self,
        encoder: keras.Model,
        mean: Sequence[float],
        std: Sequence[float],
        value_range: ValueRange = None,
    ):
        super().__init__()
        # Only the variables are tracked: a tracked Keras model would drag every
        # layer's own call functions and class names into the export. `load_pretrained`
        # finds them in the checkpoint by this attribute's name.
        self.weights = list(encoder.variables)

        def encode(images):
            images = to_unit(images, value_range)
            # Constants of the graph itself: tf2onnx loses captured ones.
            images = (images - tf.constant(mean, tf.float32)) / tf.constant(
                std, tf.float32
            )
            features = encoder(images, training=False)
            features = tf.cast(features, tf.float32)
            if features.shape.rank != 2:
                raise ValueError(
                    f"The encoder's output has shape {features.shape}; an export "
                    "expects (batch, dim): add global average pooling to the encoder."
                )
            embedding = tf.math.l2_normalize(features, axis=1)
            return {"features": features, "embedding": embedding}

        self._encode = encode

    def function(self, *shape: int | None) -> tf.function:
        """Float32 (N,H,W,C) -> "features" (N,F) and "embedding", unit rows.

        Args:
            *shape: N, H, W, C; None where it is open.
        """
        images = tf.TensorSpec(shape, tf.float32, "images")
        return tf.function(self._encode, input_signature=[images])


class ServedEncoder(PixelEncoder):
    """A `PixelEncoder` with the signatures of a SavedModel.

    Args:
        encoder: as in `PixelEncoder`.
        mean: as in `PixelEncoder`.
        std: as in `PixelEncoder`.
        image_size: side of the centre crop of encoded images.
        resize: shorter side before the crop.
        pixels: the numbers of images.
    """

    def __init__(
        self,
        encoder: keras.Model,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        resize: int,
        pixels: Pixels = GREY_LEVELS,
    ):
        super().__init__(encoder, mean, std, pixels.value_range)
        self._own_type = pixels.dtype
        channels = len(mean)
        shape = (None, *encoder.input_shape[1:3], channels)

        crop = (image_size, image_size, channels)

        def prepare(encoded):
            image = _decode(encoded, channels, pixels)
            return _resize_and_crop(image, resize, image_size, channels, pixels)

        def serve_encoded(encoded):
            images, valid = _each_by_itself(encoded, prepare, crop, pixels.dtype)
            found = self._encode(images)
            kept = tf.cast(valid, tf.float32)[:, None]
            return {**{name: kept * rows for name, rows in found.items()},
                    "valid": valid}  # fmt: skip

        def serve(images):
            made_for = f"this encoder was made for {image_size} x {image_size} pixels"
            tf.debugging.assert_equal(
                tf.shape(images)[1:3],
                (image_size, image_size),
                f"{made_for}; resize the images, or send files to the signature "
                "'encoded', which does",
            )
            return self._encode(images)

        self._call = tf.function(self._encode)
        types = dict.fromkeys((tf.float32, tf.as_dtype(pixels.dtype)))
        for dtype in types:
            self._call.get_concrete_function(tf.TensorSpec(shape, dtype, "images"))
        self.__call__ = self._call
        self.serve, *own = (
            tf.function(serve, input_signature=[tf.TensorSpec(shape, dtype, "images")])
            for dtype in types
        )
        if own:
            (self.serve_own,) = own
        # No file of these kinds holds real numbers.
        if channels in ENCODED_CHANNELS and own:
            files = tf.TensorSpec((None,), tf.string, "encoded")
            self.serve_encoded = tf.function(serve_encoded, input_signature=[files])

    def signatures(self) -> dict[str, tf.function]:
        """The named signatures of the export."""
        signatures = {"serving_default": self.serve}
        if hasattr(self, "serve_own"):
            signatures[self._own_type] = self.serve_own
        if hasattr(self, "serve_encoded"):
            signatures["encoded"] = self.serve_encoded
        return signatures


def _each_by_itself(files, prepare, shape, dtype):
    """Prepares files so that one which cannot be read leaves the others alone.

    Args:
        files: string (N,).
        prepare: string () -> `shape` of `dtype`.
        shape: of an image.
        dtype: of its numbers.

    Returns:
        (N, *shape), zeros where a file could not be read, and bool (N,), where
        it could.
    """
    count = tf.shape(files, tf.int64)[0]
    images = tf.data.Dataset.from_tensor_slices(files).enumerate()
    images = images.map(
        lambda index, file: (index, prepare(file)), num_parallel_calls=tf.data.AUTOTUNE
    ).ignore_errors()
    # One more, because a single element must come out where no file can be read.
    last = tf.data.Dataset.from_tensors((count, tf.zeros(shape, dtype)))
    index, images = images.concatenate(last).batch(count + 1).get_single_element()
    place = tf.scatter_nd(
        index[:, None], tf.range(1, tf.shape(index)[0] + 1), count[None] + 1
    )[:-1]
    valid = place > 0
    # The row of the last one, which is zeros, serves all that could not be read.
    return tf.gather(images, tf.where(valid, place - 1, tf.shape(index)[0] - 1)), valid


def _decode(encoded, channels, pixels):
    """String () -> (H,W,C) of the pixels' type."""
    encoded = require_size(encoded)
    if pixels == GREY_LEVELS:
        return _decode_levels(encoded, channels)
    return tf.cond(
        is_deep_png(encoded),
        lambda: decode(encoded, channels, pixels),
        lambda: pixels.of_depth(_decode_levels(encoded, channels), 255),
    )


def _decode_levels(encoded, channels):
    """String () -> uint8 (H,W,C)."""

    def decode_any():
        return tf.io.decode_image(encoded, channels, expand_animations=False)

    def decode_jpeg():
        # The default DCT is darker than PIL's by half a grey level and more.
        return tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE")

    if channels == 4:  # no JPEG has four channels
        return decode_any()
    return tf.cond(tf.io.is_jpeg(encoded), decode_jpeg, decode_any)


def _resize_and_crop(image, resize, image_size, channels, pixels):
    """(H,W,C) -> (image_size, image_size, C), of the pixels' type."""
    window = centre_window(image, resize, image_size)
    if pixels == GREY_LEVELS:
        image = tf.cast(tf.clip_by_value(tf.round(window), 0.0, 255.0), tf.uint8)
    else:
        image = pixels.rounded(window)
    return tf.ensure_shape(image, (image_size, image_size, channels))
