"""Made photographs in ImageNet's shape, for rehearsals where the real ones are not."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.source import Source

HEIGHT, WIDTH = 375, 500
COUNTS = {"train": 4096}
_OTHERS = 512
_CLASSES = 10
_PHOTOGRAPHS = 32


def synthetic(split: str) -> Source:
    """JPEG files of noise of several scales, about as large as ImageNet's.

    There is nothing to learn in them; reading, decoding and a training step cost what
    they will with photographs.

    Args:
        split: "train" has 4,096 images; any other name, such as "validation" or
            "train[:10%]", 512.

    Returns:
        A source of encoded images that repeat 32 different ones, with labels of 10
        classes.
    """
    count = COUNTS.get(split, _OTHERS)
    files = tf.constant(photographs())
    names = tuple(str(label) for label in range(_CLASSES))

    def load(example_id):
        return {
            "image": files[example_id % _PHOTOGRAPHS],
            "id": example_id,
            "label": example_id % _CLASSES,
        }

    return Source(
        tf.data.Dataset.range(count).map(load),
        count,
        _CLASSES,
        names,
        load=load,
        labels=np.arange(count) % _CLASSES,
    )


@functools.lru_cache(maxsize=1)
def photographs() -> list[bytes]:
    """The JPEG files, quality 90; the same ones every time."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(_PHOTOGRAPHS):
        layers = [
            tf.image.resize(
                random.uniform(0, 255, (cells, cells, 3)), (HEIGHT, WIDTH), "bicubic"
            )
            / divisor
            for cells, divisor in ((4, 2), (16, 4), (64, 8), (192, 8))
        ]
        image = tf.clip_by_value(tf.add_n(layers), 0, 255)
        made.append(tf.io.encode_jpeg(tf.cast(image, tf.uint8), quality=90).numpy())
    return made
