"""Random crops and resizing of one image, without Python per image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import as_reduced, decode, decode_reduced
from moco_tf.pixels import GREY_LEVELS, Pixels

ATTEMPTS = 10
DRAWS = 2 * ATTEMPTS + 2


def random_boxes(
    uniforms: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    scale: Sequence[float] | np.ndarray,
    ratio: tuple[float, float],
) -> tf.Tensor:
    """Turns uniform numbers into boxes as torchvision's RandomResizedCrop draws them.

    All attempts are drawn at once and the first that fits is taken; where none fits,
    it is the central box with the nearest allowed ratio.

    Args:
        uniforms: float32 (views, DRAWS), in [0, 1).
        height: int32 scalar, of the image.
        width: int32 scalar.
        scale: least and greatest share of the image's area, (2,), or of each view's,
            (views, 2).
        ratio: least and greatest width/height; drawn log-uniformly.

    Returns:
        int32 (views, 4): top, left, height, width.

    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    least, most = np.broadcast_to(scale, (uniforms.shape[0], 2)).T[..., None]
    shares = tf.constant(least, tf.float32)
    shares += tf.constant(most - least, tf.float32) * uniforms[:, :ATTEMPTS]
    area = rows * columns * shares
    aspect = tf.exp(low + (high - low) * uniforms[:, ATTEMPTS : 2 * ATTEMPTS])
    # tf.round takes halves to the even number, as Python does.
    widths = tf.round(tf.sqrt(area * aspect))
    heights = tf.round(tf.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)
    # One more attempt that always fits.
    fits = tf.pad(tf.cast(fits, tf.int32), [[0, 0], [0, 1]], constant_values=1)
    chosen = tf.argmax(fits, axis=1, output_type=tf.int32)
    fallback_height = tf.minimum(rows, tf.round(columns / ratio[0]))
    fallback_width = tf.minimum(columns, tf.round(rows * ratio[1]))
    views = uniforms.shape[0]

    def choose(values, fallback):
        values = tf.concat([values, tf.fill((views, 1), fallback)], axis=1)
        return tf.gather(values, chosen, axis=1, batch_dims=1)

    box_height = choose(heights, fallback_height)
    box_width = choose(widths, fallback_width)
    room = tf.stack([rows - box_height, columns - box_width], axis=1)
    # The minimum: in float32, u * n can round up to n.
    random = tf.minimum(tf.floor(uniforms[:, 2 * ATTEMPTS :] * (room + 1.0)), room)
    central = (chosen == ATTEMPTS)[:, None]
    corner = tf.where(central, tf.floor(room / 2.0), random)
    sides = tf.stack([box_height, box_width], axis=1)
    return tf.cast(tf.concat([corner, sides], axis=1), tf.int32)


def resize(
    image: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    antialias: bool = True,
    pixels: Pixels = GREY_LEVELS,
) -> tf.Tensor:
    """Resizes with Pillow's bilinear filter, which averages when it reduces.

    Args:
        image: (rows, columns, channels) of the pixels' type.
        height: int32 scalar or int, of the result.
        width: the same.
        antialias: False does not average, as OpenCV does not: each pixel of the result
            is made of the nearest four, in a third of the time.
        pixels: what the numbers are.

    Returns:
        (height, width, channels) of the same type, at most 1 grey level off Pillow, or
        a whole number off, or of float32 a rounding error.
    """
    size = tf.stack([height, width])
    if not antialias:
        resized = tf.raw_ops.ResizeBilinear(
            images=image[None], size=size, half_pixel_centers=True
        )
        return pixels.rounded(resized[0])
    factor = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    return pixels.rounded(_sampled(image, size, factor, tf.zeros(2)))


def _sampled(image, size, factor, translation):
    """A window of `size` on the image scaled by `factor`, moved by `translation`."""
    # What tf.image.resize(antialias=True) calls; directly, it takes uint8 as it is.
    return tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=size,
        scale=factor,
        translation=translation,
        kernel_type="triangle",
        antialias=True,
    )[0]


def default_resize(image_size: int) -> int:
    """Length of the shorter side before a central crop of `image_size`.

    256 for 224, as ImageNet's protocol has it, and no margin below 64 pixels.
    """
    return int(image_size * 256 / 224) if image_size >= 64 else image_size


def random_crops(
    image: tf.Tensor,
    uniforms: tf.Tensor,
    channels: int,
    scale: Sequence[float] | np.ndarray,
    ratio: tuple[float, float],
    size: int,
    antialias: bool = True,
    pixels: Pixels = GREY_LEVELS,
    raw: bool = False,
) -> list[tf.Tensor]:
    """Random resized crops of an image that is decoded once, and no larger than needed.

    A JPEG whose crops are all at least twice as large as the result is decoded at a
    half, a quarter or an eighth, to no fewer pixels than that, as Pillow's `draft`
    does: on average 0.2 to 1.1 grey levels off the crops of a whole photograph.

    Args:
        image: encoded (scalar string), or an array (rows, columns, channels).
        uniforms: float32 (views, DRAWS), in [0, 1).
        channels: of the crops.
        scale: see `random_boxes`.
        ratio: the same.
        size: side of the crops.
        antialias: see `resize`.
        pixels: what the numbers are to be; see `decode`.
        raw: see `decode`.

    Returns:
        For each view, (size, size, channels) of the pixels' type.
    """

    def boxes_in(sides):
        return random_boxes(uniforms, sides[0], sides[1], scale, ratio)

    def of_whole():
        whole = decode(image, channels, pixels, raw)
        boxes = tf.unstack(boxes_in(tf.shape(whole)))
        return [resized_crop(whole, box, size, antialias, pixels) for box in boxes]

    def of_jpeg():
        boxes = boxes_in(tf.io.extract_jpeg_shape(image))
        spare = tf.reduce_min(boxes[:, 2:]) // size

        def reduced(by):
            places = tf.cast(boxes, tf.float32) / by
            first, end = places[:, :2], places[:, :2] + places[:, 2:]
            corner = tf.floor(tf.reduce_min(first, axis=0))
            extent = tf.math.ceil(tf.reduce_max(end, axis=0)) - corner
            part = tf.cast(tf.concat([corner, extent], axis=0), tf.int32)
            smaller = decode_reduced(image, channels, by, part)
            smaller = pixels.of_depth(smaller, 255)
            places = tf.concat([first - corner, places[:, 2:]], axis=1)
            return [
                _place_resized(smaller, place, size, antialias, pixels)
                for place in tf.unstack(places)
            ]

        return as_reduced(spare, reduced, of_whole)

    if image.dtype != tf.string or channels not in (1, 3):  # no JPEG has others
        return of_whole()
    return tf.cond(tf.io.is_jpeg(image), of_jpeg, of_whole)


def _place_resized(image, place, size, antialias, pixels):
    """As `resized_crop`, of a box between pixels: float32 (4,)."""
    first, end = tf.floor(place[:2]), tf.math.ceil(place[:2] + place[2:])
    begin, behind = tf.cast(first, tf.int32), tf.cast(end, tf.int32)
    window = image[begin[0] : behind[0], begin[1] : behind[1]]
    if antialias:
        factor = size / place[2:]
        window = _sampled(window, (size, size), factor, (first - place[:2]) * factor)
        window = pixels.rounded(window)
    else:  # half a pixel of the smaller image off
        window = resize(window, size, size, antialias, pixels)
    return tf.ensure_shape(window, (size, size, image.shape[-1]))


def resized_crop(
    image: tf.Tensor,
    box: tf.Tensor,
    size: int,
    antialias: bool = True,
    pixels: Pixels = GREY_LEVELS,
) -> tf.Tensor:
    """Cuts a box out and resizes it; pixels outside the box do not leak in.

    Args:
        image: (rows, columns, channels) of the pixels' type.
        box: int32 (4,): top, left, height, width.
        size: side of the result.
        antialias: see `resize`.
        pixels: what the numbers are.

    Returns:
        (size, size, channels) of the same type.
    """
    channels = image.shape[-1]
    box = tf.unstack(box)
    begin, extent = tf.stack([box[0], box[1], 0]), tf.stack([box[2], box[3], channels])
    crop = resize(tf.slice(image, begin, extent), size, size, antialias, pixels)
    return tf.ensure_shape(crop, (size, size, channels))


def centre_crop(
    image: tf.Tensor, shorter: int, size: int, pixels: Pixels = GREY_LEVELS
) -> tf.Tensor:
    """Resizes the shorter side, then cuts out the central square, as torchvision does.

    Args:
        image: (rows, columns, channels) of the pixels' type.
        shorter: length of the shorter side before the cut, at least `size`.
        size: side of the result.
        pixels: what the numbers are.

    Returns:
        (size, size, channels) of the same type.
    """
    return pixels.rounded(centre_window(image, shorter, size))


def centre_window(image: tf.Tensor, shorter: int, size: int) -> tf.Tensor:
    """As `centre_crop`, before it is rounded to whole numbers: float32."""
    sides = tf.shape(image)[:2]
    # Integer division: torchvision truncates the longer side.
    target = shorter * sides // tf.reduce_min(sides)
    corner = tf.round(tf.cast(target - size, tf.float32) / 2.0)
    factor = tf.cast(target, tf.float32) / tf.cast(sides, tf.float32)
    # Only the square is computed: the longer side of a strip may be huge.
    window = _sampled(image, (size, size), factor, -corner)
    return tf.ensure_shape(window, (size, size, image.shape[-1]))
