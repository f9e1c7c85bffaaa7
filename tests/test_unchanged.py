"""8-bit images are worked on as before other numbers were: to the bit, in every graph.

The digests were recorded with commit 0502bb3, the last one that knew uint8 alone, which
passes this file. Both lanes give the same.
"""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import small_encoder

import moco_tf
from moco_tf.data import from_arrays, labelled_batches, open_source, two_views
from moco_tf.data.crops import DRAWS, random_crops
from moco_tf.optimizers import SGD

IMAGES = np.random.default_rng(7).integers(0, 256, (12, 40, 52, 3), np.uint8)


# Of one recipe's output, and of a training step without and with masked keys.
RECIPE = "50e7f9ad26657034"
STEPS = {False: (2028, "236beb239023042d"), True: (2057, "c0b1789be73b4b06")}


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


def operations(graph):
    """How many there are, and a digest of their kinds."""
    definition = graph.as_graph_def()
    kinds = [node.op for node in definition.node]
    for function in definition.library.function:
        kinds += [node.op for node in function.node_def]
    found = hashlib.sha256(" ".join(sorted(kinds)).encode()).hexdigest()
    return len(kinds), found[:16]


def graph_of(function, *specs):
    return operations(tf.function(function).get_concrete_function(*specs).graph)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (tf.TensorSpec((), tf.string), (970, "acabfeabf8b3572b")),
        (tf.TensorSpec((None, None, 3), tf.uint8), (165, "46804762d679f441")),
    ],
)
def test_crops_have_the_same_operations(image, expected):
    def crops(image, uniforms):
        return random_crops(image, uniforms, 3, (0.2, 1.0), (0.75, 1.33), 24)

    uniforms = tf.TensorSpec((2, DRAWS), tf.float32)
    assert graph_of(crops, image, uniforms) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("moco_v1", (1032, "496183f38bea6fde")),
        ("moco_v2", (1455, "0cb708e897b48fc2")),
        ("moco_v3", (1455, "0cb708e897b48fc2")),
        ("cifar", (1032, "496183f38bea6fde")),
        ("simclr", (1455, "0cb708e897b48fc2")),
    ],
)
def test_recipes_have_the_same_operations_and_results(name, expected):
    recipe = getattr(moco_tf.augment, name)()
    images = tf.TensorSpec((4, 24, 24, 3), tf.uint8)
    seeds = tf.TensorSpec((4, 2), tf.int32)
    assert graph_of(lambda i, s: recipe._apply(i, s), images, seeds) == expected
    assert "value_range" not in recipe.get_config()
    assert "value_range" not in recipe.layers[-1].get_config()


def test_recipe_gives_the_same_bytes():
    images = tf.constant(IMAGES[:4, :24, :24])
    found = moco_tf.augment.moco_v2().uncompiled()(
        images, seeds=tf.reshape(tf.range(8), (4, 2))
    )
    assert digest([{"": found}]) == RECIPE


@pytest.mark.parametrize("mask", [False, True])
def test_training_step_has_the_same_operations(mask):
    model = moco_tf.MoCo(
        small_encoder(), dim=8, queue_size=16, augment=moco_tf.augment.moco_v2(),
        mask_same_image=mask,
    )  # fmt: skip
    model.compile(SGD(0.05))
    (batch,) = two_views(from_arrays(IMAGES), batch_size=12, image_size=24, epochs=1)
    step = tf.function(model.train_step).get_concrete_function(batch)
    assert operations(step.graph) == STEPS[mask]
