"""Decoding of one image, as a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.pixels import GREY_LEVELS, Pixels

# Channels that JPEG and PNG can be decoded to.
ENCODED_CHANNELS = (1, 3, 4)
# The first bytes of `as_raw`, before the bytes of a number.
_RAW = b"RAW"
_RAW_TYPES = {1: tf.uint8, 2: tf.uint16, 4: tf.float32}
_RAW_HEADER = 17
# Of an image; the largest cameras have some 200 million. 3 bytes each once decoded.
MAX_PIXELS = 2**28


def decode(
    image: tf.Tensor,
    channels: int,
    pixels: Pixels = GREY_LEVELS,
    raw: bool = False,
) -> tf.Tensor:
    """Decodes an element's image.

    Args:
        image: encoded JPEG or PNG, or what `as_raw` made (scalar string), or an array
            (height, width, channels).
        channels: 1, 3 or 4 for JPEG and PNG; of others, which they have.
        pixels: what the numbers are to be. Those of an image of the same depth stay
            as they are; of another one, of 8 or 16 bits, they become the same share of
            the range.
        raw: whether an encoded image may be what `as_raw` made.

    Returns:
        (height, width, channels) of the pixels' type. TensorFlow's default JPEG
        decoding is 1 grey level off Pillow's; the accurate one used here costs no time
        that we could measure.
    """
    if image.dtype != tf.string:
        decoded = _as_pixels(image, pixels)
    elif channels not in ENCODED_CHANNELS:
        decoded = _decode_raw(image, pixels)
    elif raw:
        decoded = tf.cond(
            is_raw(image),
            lambda: _decode_raw(image, pixels),
            lambda: _decode_file(image, channels, pixels),
        )
    else:
        decoded = _decode_file(image, channels, pixels)
    return tf.ensure_shape(decoded, (None, None, channels))


def as_raw(array: np.ndarray, has_more: bool = False) -> bytes:
    """An image as bytes, for `decode`, which reads them without Python.

    Args:
        array: uint8, uint16 or float32 (height, width, channels).
        has_more: whether its file has more images than this one.
    """
    sides = np.array(array.shape, "<i4").tobytes()
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    kind = b"%d%d" % (array.dtype.itemsize, has_more)
    return _RAW + kind + sides + little.tobytes()


def is_raw(data: tf.Tensor) -> tf.Tensor:
    """Whether `as_raw` made it, bool scalar."""
    return tf.strings.substr(data, 0, len(_RAW)) == _RAW


def raw_facts(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Of what `as_raw` made: bytes of a number, has_more, three sides; int32."""
    kind = tf.strings.bytes_split(tf.strings.substr(data, len(_RAW), 2))
    size, has_more = tf.unstack(tf.strings.to_number(kind, tf.int32), num=2)
    sides = tf.strings.substr(data, len(_RAW) + 2, 12)
    return size, has_more, tf.ensure_shape(tf.io.decode_raw(sides, tf.int32), (3,))


def is_deep_png(data: tf.Tensor) -> tf.Tensor:
    """Whether it is a PNG of 16 bits a channel, bool scalar."""
    start = tf.strings.substr(data, 0, 25)
    is_png = tf.strings.substr(start, 0, 4) == b"\x89PNG"
    return is_png & (tf.strings.substr(start, 24, 1) == b"\x10")


def _as_pixels(image, pixels):
    """An array as the pixels that are asked for."""
    if image.dtype.name == pixels.dtype:
        return image if pixels.dtype != "float32" else pixels.within(image)
    if image.dtype.is_floating:
        return pixels.rounded(pixels.within(tf.cast(image, tf.float32)))
    return pixels.of_depth(image, image.dtype.max)


def _decode_raw(data, pixels):
    # The name tells a run what failed, where a file has become unreadable.
    with tf.name_scope("DecodeRawImage"):
        size, _, sides = raw_facts(data)
        numbers = tf.strings.substr(data, _RAW_HEADER, 2**31 - 1)

        def of_type(kind):
            return _as_pixels(tf.io.decode_raw(numbers, kind), pixels)

        types = _RAW_TYPES.values()
        flat = tf.switch_case(
            size // 2, [lambda kind=kind: of_type(kind) for kind in types]
        )
        return tf.reshape(flat, sides)


def _decode_file(image, channels, pixels):
    """A JPEG or PNG as the pixels that are asked for."""
    if pixels == GREY_LEVELS:
        return _decode_levels(image, channels)
    return tf.cond(
        is_deep_png(image),
        lambda: _as_pixels(
            tf.io.decode_png(image, channels=channels, dtype=tf.uint16), pixels
        ),
        lambda: pixels.of_depth(_decode_levels(image, channels), 255),
    )


def _decode_levels(image, channels):
    """A JPEG or PNG as uint8; of 16 bits the higher 8."""
    if channels == 4:
        # JPEG has no alpha: opaque, as PNG without alpha is decoded.
        return tf.cond(
            tf.io.is_jpeg(image),
            lambda: tf.pad(
                _decode(image, 3), [[0, 0], [0, 0], [0, 1]], constant_values=255
            ),
            lambda: tf.io.decode_png(image, channels=4),
        )
    return _decode(image, channels)


def require_size(image: tf.Tensor) -> tf.Tensor:
    """An encoded image as it is; an error where it says to be unreasonably large.

    A file of some kilobytes can say so, and would take gigabytes once decoded.

    Args:
        image: scalar string, at least 24 bytes. Of formats other than JPEG, PNG and GIF
            nothing is known here; `as_raw` is given none so large.
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
