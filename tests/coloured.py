"""Labelled images whose class is their colour."""

import dataclasses

import numpy as np

from moco_tf.data import from_arrays

COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])


def coloured(count=30, size=16, seed=0):
    """Images whose class is their colour, in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    noise = rng.integers(-40, 36, (count, size, size, 3))
    images = np.clip(COLOURS[labels][:, None, None] + noise, 0, 255)
    return images.astype(np.uint8), labels


def source_of(count=30, **kwargs):
    return from_arrays(*coloured(count, **kwargs), ("red", "green", "blue"))


def streamed(source):
    """The same source, without reading by id."""
    return dataclasses.replace(source, load=None)
