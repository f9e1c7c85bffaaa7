"""Square images with their boxes: jittered and flipped to train on, or whole."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from moco_tf.data.crops import resize
from moco_tf.data.decoding import decode
from moco_tf.data.order import VIEWS, EpochOrder, finished, stream_key
from moco_tf.data.sources import Source
from moco_tf.data.threads import CORES

_NOWHERE = (-2.0, -2.0, -1.0, -1.0)  # a box that overlaps no anchor


def training_boxes(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    fill: Sequence[int],
    scale_jitter: tuple[float, float] = (0.8, 1.25),
    seed: int = 0,
    shuffle_buffer: int = 5000,
) -> tf.data.Dataset:
    """Endless batches of images at a random scale and place, flipped half the time.

    An image is resized so that it fits the square, times a random factor, and put at
    a random place: what hangs over is cut off, what is left empty is filled. A box
    stays while its centre does. Boxes that are difficult are learnt like the others.
    Every random number is a function of (seed, epoch, example id).

    Args:
        source: see `open_boxes`.
        batch_size: images in a global batch.
        image_size: side of the square.
        fill: value 0..255 of each channel around an image; as many as channels.
        scale_jitter: least and greatest random factor.
        seed: any integer of 63 bits.
        shuffle_buffer: elements held to shuffle from, undecoded, where the source
            cannot read any example at once.

    Returns:
        A dataset of dicts: "image" uint8 (n, image_size, image_size, channels),
        "boxes" float32 (n, M, 4) as left, top, right, bottom in pixels of the square,
        "classes" float32 (n, M), -1 where an image has fewer than M boxes. M >= 1.

    Raises:
        DataError: the source is smaller than a batch.
    """
    order = EpochOrder(source, batch_size, (1, 0), seed, shuffle_buffer, False)
    low, high = scale_jitter

    def view(element, key):
        if source.load is not None:
            element = source.load(element["id"])
        numbers = tf.random.stateless_uniform((4,), tf.stack([key, element["id"]]))
        image = decode(element["image"], len(fill))
        factor = low + (high - low) * numbers[0]
        image, boxes, size = _resized(image, element["boxes"], image_size * factor)
        room = tf.cast(image_size - size, tf.float32)
        # Negative room, where the image is larger, becomes a random cut.
        offset = tf.cast(tf.round(room * numbers[1:3]), tf.int32)
        image = _placed(image, offset, image_size, fill)
        boxes += tf.cast(tf.stack([offset[1], offset[0]] * 2), tf.float32)
        left, top, right, bottom = tf.unstack(boxes, axis=1)
        if_flipped = tf.stack([image_size - right, top, image_size - left, bottom], 1)
        flips = numbers[3] < 0.5
        image = tf.where(flips, tf.reverse(image, [1]), image)
        boxes = tf.where(flips, if_flipped, boxes)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = tf.reduce_all((centre > 0) & (centre < image_size), axis=1)
        boxes = tf.clip_by_value(tf.boolean_mask(boxes, inside), 0.0, image_size)
        classes = tf.cast(tf.boolean_mask(element["label"], inside), tf.float32)
        # One box at least: an empty batch of boxes has no nearest one.
        return {
            "image": image,
            "boxes": tf.concat([boxes, [_NOWHERE]], axis=0),
            "classes": tf.concat([classes, [-1.0]], axis=0),
        }

    def epoch_views(epoch):
        key = stream_key(seed, VIEWS, epoch)
        elements = order.elements(epoch, tf.constant(0, tf.int64))
        return elements.map(
            lambda element: view(element, key),
            num_parallel_calls=CORES,
            deterministic=True,
        )

    dataset = tf.data.Dataset.range(tf.int64.max).flat_map(epoch_views)
    shape = (image_size, image_size, len(fill))
    dataset = dataset.padded_batch(
        batch_size,
        {"image": shape, "boxes": (None, 4), "classes": (None,)},
        {"image": tf.constant(0, tf.uint8), "boxes": -1.0, "classes": -1.0},
        drop_remainder=True,
    )
    return finished(dataset.map(_move_padding))


def whole_images(
    source: Source, *, batch_size: int, image_size: int, fill: Sequence[int]
) -> tf.data.Dataset:
    """Batches of whole images in the source's order, fitted into a square.

    Args:
        source: see `open_boxes`.
        batch_size: images in a batch; the last one may have fewer.
        image_size: side of the square; an image begins in its left upper corner.
        fill: value 0..255 of each channel beside an image; as many as channels.

    Returns:
        A dataset of dicts: "image" uint8 (n, image_size, image_size, channels), "id"
        int64 (n,), "scale" float32 (n, 2), what coordinates x and y of the image were
        multiplied by, and "size" int32 (n, 2), its own height and width.
    """

    def view(element):
        image = decode(element["image"], len(fill))
        own = tf.shape(image)[:2]
        image, _, size = _resized(image, tf.zeros((0, 4)), float(image_size))
        scale = tf.cast(size, tf.float32) / tf.cast(own, tf.float32)
        return {
            "image": _placed(image, tf.zeros(2, tf.int32), image_size, fill),
            "id": element["id"],
            "scale": tf.reverse(scale, [0]),
            "size": own,
        }

    dataset = source.dataset.map(view, num_parallel_calls=CORES, deterministic=True)
    return finished(dataset.batch(batch_size))


def _resized(image, boxes, longer):
    """The image with its longer side so long, its boxes, and its int32 (2,) sides."""
    own = tf.cast(tf.shape(image)[:2], tf.float32)
    sides = tf.maximum(tf.round(own * longer / tf.reduce_max(own)), 1.0)
    factor = sides / own
    size = tf.cast(sides, tf.int32)
    image = resize(image, size[0], size[1])
    return image, boxes * tf.stack([factor[1], factor[0]] * 2), size


def _placed(image, offset, side, fill):
    """The image put at an offset (down, right) of a square, cut where it hangs over."""
    size = tf.shape(image)[:2]
    begin = tf.maximum(-offset, 0)
    extent = tf.minimum(size - begin, side - tf.maximum(offset, 0))
    part = tf.slice(image, [*tf.unstack(begin), 0], [*tf.unstack(extent), -1])
    before = tf.maximum(offset, 0)
    after = side - before - extent
    pad = tf.concat([tf.stack([before, after], axis=1), [[0, 0]]], axis=0)
    ground = tf.constant(fill, tf.uint8)
    # Padding takes one value for all channels: pad the difference from the ground.
    padded = tf.pad(tf.cast(part, tf.int16) - tf.cast(ground, tf.int16), pad)
    placed = tf.cast(padded + tf.cast(ground, tf.int16), tf.uint8)
    return tf.ensure_shape(placed, (side, side, len(fill)))


def _move_padding(batch):
    # A padded row is all -1; a box without area would have no logarithm.
    is_box = batch["classes"][..., None] >= 0
    return {**batch, "boxes": tf.where(is_box, batch["boxes"], [_NOWHERE])}
