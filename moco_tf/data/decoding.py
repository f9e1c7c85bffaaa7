"""Decoding of one image, as a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Of an image; the largest cameras have some 200 million. 3 bytes each once decoded.
MAX_PIXELS = 2**28


def decode(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes an element's image.

    Args:
        image: encoded JPEG or PNG (scalar string), or uint8 (height, width, channels).
        channels: 1, 3 or 4 for encoded images.

    Returns:
        uint8 (height, width, channels). TensorFlow's default JPEG decoding is 1 grey
        level off Pillow's; the accurate one used here costs no time that we could
        measure.
    """
    if image.dtype != tf.string:
        return tf.ensure_shape(image, (None, None, channels))
    if channels == 4:
        # JPEG has no alpha: opaque, as PNG without alpha is decoded.
        decoded = tf.cond(
            tf.io.is_jpeg(image),
            lambda: tf.pad(
                _decode(image, 3), [[0, 0], [0, 0], [0, 1]], constant_values=255
            ),
            lambda: tf.io.decode_png(image, channels=4),
        )
    else:
        decoded = _decode(image, channels)
    return tf.ensure_shape(decoded, (None, None, channels))


def require_size(image: tf.Tensor) -> tf.Tensor:
    """An encoded image as it is; an error where it says to be unreasonably large.

    A file of some kilobytes can say so, and would take gigabytes once decoded.

    Args:
        image: scalar string, at least 24 bytes. Of formats other than JPEG, PNG and GIF
            nothing is known.
    """

    def of_jpeg():
        return tf.cast(tf.io.extract_jpeg_shape(image)[:2], tf.int64)

    def of_others():
        start = tf.strings.substr(image, 0, 4)
        # Width and height follow each other, in PNG's header and in GIF's.
        is_png, is_gif = start == b"\x89PNG", start == b"GIF8"
        png, gif = tf.strings.substr(image, 16, 8), tf.strings.substr(image, 6, 4)
        return tf.case(
            [
                (is_png, lambda: _number(png, (2, 4), (2**24, 2**16, 2**8, 1))),
                (is_gif, lambda: _number(gif, (2, 2), (1, 2**8))),
            ],
            default=lambda: tf.zeros(2, tf.int64),
            exclusive=True,
        )

    sides = tf.cond(tf.io.is_jpeg(image), of_jpeg, of_others)
    check = tf.debugging.Assert(
        tf.reduce_prod(sides) <= MAX_PIXELS,
        ["an image says to be of (height and width, or width and height)", sides],
    )
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(image)


def _number(digits, shape, weights):
    """Whole numbers of bytes, int64 (rows,)."""
    digits = tf.reshape(tf.cast(tf.io.decode_raw(digits, tf.uint8), tf.int64), shape)
    return tf.linalg.matvec(digits, tf.constant(weights, tf.int64))


def _decode(image, channels):
    # The kernel looks at the first bytes and takes PNG as well.
    return tf.io.decode_jpeg(image, channels=channels, dct_method="INTEGER_ACCURATE")


def decode_reduced(
    image: tf.Tensor, channels: int, by: int, part: tf.Tensor
) -> tf.Tensor:
    """Decodes a part of a JPEG at a smaller size, which takes a part of the time.

    Args:
        image: encoded, scalar string.
        channels: 1 or 3.
        by: 2, 4 or 8; each side of the whole is divided by it, and rounded up.
        part: int32 (4,), top, left, height and width in pixels of that size.

    Returns:
        uint8 (height, width, channels).
    """
    decoded = tf.image.decode_and_crop_jpeg(
        image, part, channels=channels, ratio=by, dct_method="INTEGER_ACCURATE"
    )
    return tf.ensure_shape(decoded, (None, None, channels))


def as_reduced(
    spare: tf.Tensor, reduced: Callable[[int], Any], whole: Callable[[], Any]
) -> Any:
    """What `reduced` gives by the largest of 8, 4 and 2 that `spare` allows.

    Args:
        spare: int32 scalar, how many times as large as needed the whole image is.
        reduced: takes the divisor, as `decode_reduced` does.
        whole: what to take where nothing is to spare.
    """
    return tf.case(
        [(spare >= by, lambda by=by: reduced(by)) for by in (8, 4, 2)], default=whole
    )
