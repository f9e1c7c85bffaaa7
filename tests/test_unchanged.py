"""8-bit images are worked on as before other numbers were, to the bit.

The digests were recorded with commit 0502bb3, the last one that knew uint8 alone, which
passes this file. Both lanes give the same.
"""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import moco_tf
from moco_tf.data import from_arrays, labelled_batches, open_source, two_views

IMAGES = np.random.default_rng(7).integers(0, 256, (12, 40, 52, 3), np.uint8)


RECIPE = "50e7f9ad26657034"


def digest(batches):
    found = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            found.update(name.encode())
            found.update(np.ascontiguousarray(batch[name].numpy()).tobytes())
    return found.hexdigest()[:16]


@pytest.fixture(params=["arrays", "folder"])
def source(request, tmp_path):
    if request.param == "arrays":
        return from_arrays(IMAGES)
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{index:02d}.png")
    return open_source("folder", "train", data_dir=str(tmp_path))


def test_batches_are_the_same_bytes(source):
    views = {"batch_size": 4, "image_size": 24, "seed": 5, "epochs": 2}
    assert digest(two_views(source, **views)) == "b2fd57247cb74ccb"
    bilinear = two_views(source, antialias=False, **views)
    assert digest(bilinear) == "58e9ce7c633bb81e"
    whole = labelled_batches(source, batch_size=5, image_size=20)
    assert digest(whole) == "e26f4f3f1189dddb"


def test_recipe_gives_the_same_bytes():
    images = tf.constant(IMAGES[:4, :24, :24])
    found = moco_tf.augment.moco_v2().uncompiled()(
        images, seeds=tf.reshape(tf.range(8), (4, 2))
    )
    assert digest([{"": found}]) == RECIPE
