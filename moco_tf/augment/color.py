"""Colour operations with torchvision's results on PIL images, a whole batch at a time.

Images are float32 (batch, height, width, 3) RGB that hold whole numbers 0..255. Each
operation ends in whole numbers again, cut off as Pillow does it: rounding costs next to
nothing, makes the results equal to Pillow's rather than close to them (its hue works on
8-bit HSV, up to 15 grey levels from real numbers), and keeps small differences between
eager mode and XLA from growing along a chain.

With `whole=False` nothing is rounded: real numbers 0..255, for images of more than 8
bits, as torchvision does with tensors of floats.

Divisions are of whole numbers, and come out right though a device divides to 2 units in
the last place, as compiled code on GPUs does.

Factors are float32 (batch,), one per image, or a scalar. Internally the three planes
are kept apart, which vectorises about twice as well as three interleaved channels.
"""

from __future__ import annotations

import tensorflow as tf

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Hues that are exactly whole numbers, of which Pillow's single precision falls just
# short, so that it takes the one below.
_FALLS_SHORT = {
    *range(1, 32), *range(88, 105, 4), *range(129, 150, 2), *range(153, 210, 4),
    176, 184,
}  # fmt: skip


def _planes(images: tf.Tensor) -> list[tf.Tensor]:
    if images.shape[-1] not in (3, None):
        raise ValueError(
            f"Colour operations got images of {images.shape[-1]} channels; they are "
            "defined for RGB (3) only, leave them out."
        )
    return tf.unstack(tf.cast(images, tf.float32), num=3, axis=-1)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    """(batch,) or () to something that broadcasts against (batch, height, width)."""
    return tf.reshape(values, (-1, 1, 1))


def _luma(planes: list[tf.Tensor], whole: bool = True) -> tf.Tensor:
    red, green, blue = planes
    if not whole:
        return (19595.0 * red + 38470.0 * green + 7471.0 * blue) * 2.0**-16
    # Every intermediate is a whole number below 2**24: exact in float32.
    total = 19595.0 * red + 38470.0 * green + 7471.0 * blue + 32768.0
    return tf.floor(total * 2.0**-16)


def _divide(numerator: tf.Tensor, denominator) -> tf.Tensor:
    return numerator / denominator


def _whole_part(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Of a quotient up to 255, of whole numbers of which the lower one is below 512."""
    # What is no whole number is 1/512 away from the next one.
    return tf.floor(_divide(numerator, denominator) + 2.0**-10)


def _nearest(numerator: tf.Tensor, denominator) -> tf.Tensor:
    """The whole number nearest to a quotient of whole numbers below 2**24."""
    close = tf.floor(_divide(numerator, denominator) + 0.5)
    rest = 2.0 * (numerator - close * denominator)  # exact
    close += tf.cast(rest >= denominator, tf.float32)
    return close - tf.cast(rest < -denominator, tf.float32)


def _mean(plane: tf.Tensor, whole: bool = True) -> tf.Tensor:
    if not whole:
        return tf.reduce_mean(plane, axis=(1, 2), keepdims=True)
    # The sum is exact for images of up to 256 x 256 pixels.
    total = tf.reduce_sum(plane, axis=(1, 2), keepdims=True)
    shape = tf.shape(plane)
    return _nearest(total, tf.cast(shape[1] * shape[2], tf.float32))


def _blend(planes, base, factor, whole=True) -> list[tf.Tensor]:
    blended = []
    for plane in planes:
        plane = tf.clip_by_value(base + factor * (plane - base), 0.0, 255.0)
        blended.append(tf.floor(plane) if whole else plane)
    return blended


def _shift_hue(planes, shift) -> list[tf.Tensor]:
    """Pillow's RGB to HSV, hue + shift modulo 256, and back, all in 8 bits.

    `shift` is a whole number in -255..255 that broadcasts against the planes.
    """
    red, green, blue = planes
    value = tf.maximum(tf.maximum(red, green), blue)
    least = tf.minimum(tf.minimum(red, green), blue)
    chroma = value - least
    middle = red + green + blue - value - least
    rise = value - middle
    # In sixths of a turn the hue is an odd corner of the hexagon, plus or minus
    # rise / chroma; here the whole number that is chroma times as much.
    chroma_or_1 = tf.maximum(chroma, 1.0)
    red_most, green_most = red == value, green == value
    blue_least, red_least = blue == least, red == least
    sixths = tf.where(
        red_most,
        tf.where(blue_least, chroma_or_1 - rise, rise - chroma_or_1),
        tf.where(
            green_most,
            tf.where(blue_least, chroma_or_1 + rise, 3.0 * chroma_or_1 - rise),
            tf.where(red_least, 3.0 * chroma_or_1 + rise, 5.0 * chroma_or_1 - rise),
        ),
    )
    sixths = tf.where(sixths < 0.0, sixths + 6.0 * chroma_or_1, sixths)
    exact = _whole_part(85.0 * sixths, 2.0 * chroma_or_1)
    short = tf.constant([float(i in _FALLS_SHORT) for i in range(256)])
    short = tf.gather(short, tf.cast(exact, tf.int32))
    is_whole = 2.0 * chroma_or_1 * exact == 85.0 * sixths
    hue = tf.where(is_whole, exact - short, exact) + shift
    hue -= 256.0 * tf.floor(hue * 2.0**-8)
    saturation = _whole_part(255.0 * chroma, tf.maximum(value, 1.0))

    def channel(corner: float) -> tf.Tensor:
        # Sixths of a turn in units of 1/255, from the corner where it is darkest.
        angle = corner * 255.0 + 6.0 * hue
        angle = tf.where(angle >= 1530.0, angle - 1530.0, angle)
        darkness = tf.clip_by_value(tf.minimum(angle, 1020.0 - angle), 0.0, 255.0)
        return value - _nearest(value * saturation * darkness, 65025.0)

    return [channel(5.0), channel(3.0), channel(1.0)]


def _turn_hue(planes, turns) -> list[tf.Tensor]:
    """The hue turned in real numbers; `turns` broadcasts against the planes."""
    hsv = tf.image.rgb_to_hsv(tf.stack(planes, axis=-1) / 255.0)
    hue = hsv[..., 0] + turns
    turned = tf.stack([hue - tf.floor(hue), hsv[..., 1], hsv[..., 2]], axis=-1)
    return tf.unstack(255.0 * tf.image.hsv_to_rgb(turned), num=3, axis=-1)


def _hue_steps(factor: tf.Tensor) -> tf.Tensor:
    steps = 255.0 * tf.cast(factor, tf.float32)
    return tf.sign(steps) * tf.floor(tf.abs(steps))


def adjust_brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Multiplies by `factor` (0 gives black, 1 the image itself).

    Args:
        images: float32 or uint8 (batch, height, width, 3), 0..255.
        factor: non-negative float32 (batch,) or scalar.

    Returns:
        float32 (batch, height, width, 3), whole numbers 0..255.
    """
    return tf.stack(_blend(_planes(images), 0.0, _per_image(factor)), axis=-1)


def adjust_contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the rounded mean of the grey image (0 gives an even grey).

    Args:
        images: float32 or uint8 (batch, height, width, 3), 0..255.
        factor: non-negative float32 (batch,) or scalar.

    Returns:
        float32 (batch, height, width, 3), whole numbers 0..255.
    """
    planes = _planes(images)
    mean = _mean(_luma(planes))
    return tf.stack(_blend(planes, mean, _per_image(factor)), axis=-1)


def adjust_saturation(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the grey image (0 gives the grey image).

    Args:
        images: float32 or uint8 (batch, height, width, 3), 0..255.
        factor: non-negative float32 (batch,) or scalar.

    Returns:
        float32 (batch, height, width, 3), whole numbers 0..255.
    """
    planes = _planes(images)
    return tf.stack(_blend(planes, _luma(planes), _per_image(factor)), axis=-1)


def adjust_hue(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Turns the hue by `factor` of a full turn, in 8-bit HSV as Pillow does.

    Factor 0 still goes through 8-bit HSV and changes some pixels by a few levels.

    Args:
        images: float32 or uint8 (batch, height, width, 3), 0..255.
        factor: float32 (batch,) or scalar, -0.5..0.5.

    Returns:
        float32 (batch, height, width, 3), whole numbers 0..255.
    """
    shift = _per_image(_hue_steps(factor))
    return tf.stack(_shift_hue(_planes(images), shift), axis=-1)


def grayscale(images: tf.Tensor, whole: bool = True) -> tf.Tensor:
    """Luma (0.299, 0.587, 0.114) in three equal channels.

    Args:
        images: float32 or uint8 (batch, height, width, 3), 0..255.
        whole: whether to round to whole numbers, as Pillow does.

    Returns:
        float32 (batch, height, width, 3), 0..255.
    """
    return tf.stack([_luma(_planes(images), whole)] * 3, axis=-1)


def solarize(images: tf.Tensor, threshold: float = 128.0) -> tf.Tensor:
    """Inverts the values at or above `threshold`.

    Args:
        images: float32 or uint8 (batch, height, width, channels), 0..255.
        threshold: 0..256.

    Returns:
        float32, shape of `images`, 0..255.
    """
    images = tf.cast(images, tf.float32)
    return tf.where(images < threshold, images, 255.0 - images)


def _blend_in_turn(planes, kinds, factors, whole) -> list[tf.Tensor]:
    """Three blends, of kinds int32 (batch, 3) with factors float32 (batch, 3)."""

    def blend_next(place, *planes):
        luma = _luma(planes, whole)
        kind = _per_image(kinds[:, place])
        base = tf.cast(kind == SATURATION, tf.float32) * luma
        base += tf.cast(kind == CONTRAST, tf.float32) * _mean(luma, whole)
        factor = _per_image(factors[:, place])
        return (place + 1, *_blend(planes, base, factor, whole))

    # A loop although it is short: XLA would fuse the last blend into all that follows
    # and compute it there several times over.
    _, *planes = tf.while_loop(
        lambda place, *_: place < 3, blend_next, (tf.constant(0), *planes)
    )
    return planes


def color_jitter(
    images: tf.Tensor,
    order: tf.Tensor,
    factors: tf.Tensor,
    with_hue: tf.Tensor | bool = True,
    whole: bool = True,
) -> tf.Tensor:
    """Applies brightness, contrast, saturation and hue in an order of each image's own.

    The first three are blends with a base (black, the mean grey, the grey image) and
    differ in that only, so one blend serves whichever comes next. The hue costs more
    than the blends together: it is computed once, between up to three blends before it
    and the rest after it, the others having factor 1, which changes nothing.

    Args:
        images: float32 or uint8 (batch, height, width, 3), 0..255.
        order: int32 (batch, 4), a permutation of 0 brightness, 1 contrast,
            2 saturation, 3 hue.
        factors: float32 (batch, 4), indexed by operation, not by place.
        with_hue: bool (batch,) or scalar; False leaves the hue operation out.
        whole: whether each operation rounds to whole numbers, as Pillow does.

    Returns:
        float32 (batch, height, width, 3), 0..255.

    Source: torchvision's `ColorJitter`.
    """
    factors = tf.cast(factors, tf.float32)
    order = tf.cast(order, tf.int32)
    hue_place = tf.argmax(tf.cast(order == HUE, tf.int32), 1, output_type=tf.int32)
    places = tf.range(3)[None, :]
    places += tf.cast(places >= hue_place[:, None], tf.int32)
    kinds = tf.gather(order, places, batch_dims=1)
    blend_factors = tf.gather(factors, kinds, batch_dims=1)
    before = places < hue_place[:, None]
    planes = _planes(images)
    factors_before = tf.where(before, blend_factors, 1.0)
    planes = _blend_in_turn(planes, kinds, factors_before, whole)
    if whole:
        shifted = _shift_hue(planes, _per_image(_hue_steps(factors[:, HUE])))
    else:
        shifted = _turn_hue(planes, _per_image(factors[:, HUE]))
    with_hue = _per_image(tf.convert_to_tensor(with_hue))
    planes = [tf.where(with_hue, *pair) for pair in zip(shifted, planes)]
    factors_after = tf.where(before, 1.0, blend_factors)
    planes = _blend_in_turn(planes, kinds, factors_after, whole)
    return tf.stack(planes, axis=-1)
