"""Decoding, random crops and resizing of one image, without Python per image."""

from __future__ import annotations

import math

import tensorflow as tf

ATTEMPTS = 10
DRAWS = 2 * ATTEMPTS + 2
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


def _decode(image: tf.Tensor, channels: int) -> tf.Tensor:
    # The kernel looks at the first bytes and takes PNG as well.
    return tf.io.decode_jpeg(image, channels=channels, dct_method="INTEGER_ACCURATE")


def random_boxes(
    uniforms: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tf.Tensor:
    """Turns uniform numbers into boxes as torchvision's RandomResizedCrop draws them.

    All attempts are drawn at once and the first that fits is taken; where none fits,
    it is the central box with the nearest allowed ratio.

    Args:
        uniforms: float32 (views, DRAWS), in [0, 1).
        height: int32 scalar, of the image.
        width: int32 scalar.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width/height; drawn log-uniformly.

    Returns:
        int32 (views, 4): top, left, height, width.

    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = rows * columns * (scale[0] + (scale[1] - scale[0]) * uniforms[:, :ATTEMPTS])
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


def resize(image: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Resizes with Pillow's bilinear filter, which averages when it reduces.

    Args:
        image: uint8 (rows, columns, channels).
        height: int32 scalar or int, of the result.
        width: the same.

    Returns:
        uint8 (height, width, channels), at most 1 grey level off Pillow.
    """
    size = tf.stack([height, width])
    factor = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    return _grey_levels(_sampled(image, size, factor, tf.zeros(2)))


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


def _grey_levels(image):
    return tf.cast(image + 0.5, tf.uint8)


def default_resize(image_size: int) -> int:
    """Length of the shorter side before a central crop of `image_size`.

    256 for 224, as ImageNet's protocol has it, and no margin below 64 pixels.
    """
    return int(image_size * 256 / 224) if image_size >= 64 else image_size


def resized_crop(image: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts a box out and resizes it; pixels outside the box do not leak in.

    Args:
        image: uint8 (rows, columns, channels).
        box: int32 (4,): top, left, height, width.
        size: side of the result.

    Returns:
        uint8 (size, size, channels).
    """
    channels = image.shape[-1]
    box = tf.unstack(box)
    begin, extent = tf.stack([box[0], box[1], 0]), tf.stack([box[2], box[3], channels])
    crop = resize(tf.slice(image, begin, extent), size, size)
    return tf.ensure_shape(crop, (size, size, channels))


def centre_crop(image: tf.Tensor, shorter: int, size: int) -> tf.Tensor:
    """Resizes the shorter side, then cuts out the central square, as torchvision does.

    Args:
        image: uint8 (rows, columns, channels).
        shorter: length of the shorter side before the cut, at least `size`.
        size: side of the result.

    Returns:
        uint8 (size, size, channels).
    """
    return _grey_levels(centre_window(image, shorter, size))


def centre_window(image: tf.Tensor, shorter: int, size: int) -> tf.Tensor:
    """As `centre_crop`, before it is rounded to grey levels: float32."""
    sides = tf.shape(image)[:2]
    # Integer division: torchvision truncates the longer side.
    target = shorter * sides // tf.reduce_min(sides)
    corner = tf.round(tf.cast(target - size, tf.float32) / 2.0)
    factor = tf.cast(target, tf.float32) / tf.cast(sides, tf.float32)
    # Only the square is computed: the longer side of a strip may be huge.
    window = _sampled(image, (size, size), factor, -corner)
    return tf.ensure_shape(window, (size, size, image.shape[-1]))
