"""Noise images, and the seeds of their augmentation."""

import numpy as np


def images_of(count, size=12, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def seeds_of(count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**31), 2**31, (count, 2)).astype(np.int32)
