"""The recipes of MoCo v3 and SimCLR: what they hold and how often it acts."""

import numpy as np
import pytest
import tensorflow as tf
from noise import seeds_of
from tensorflow import keras

from moco_tf import augment

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}


def kinds(recipe):
    return [type(layer).__name__ for layer in recipe.layers]


def layer_of(recipe, kind):
    return next(layer for layer in recipe.layers if isinstance(layer, kind))


def share_changed(recipe, kind, image, count=2000):
    """Share of `count` copies of an image that the recipe's layer of a kind changes."""
    place, layer = next(
        (place, layer)
        for place, layer in enumerate(recipe.layers)
        if isinstance(layer, kind)
    )
    images = np.repeat(image[None], count, axis=0).astype(np.float32)
    seeds = augment.seeds.fold_in(seeds_of(count), place)
    changed = tf.reduce_any(layer(images, seeds) != images, axis=(1, 2, 3))
    return float(tf.reduce_mean(tf.cast(changed, tf.float32)))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3))


def test_views_of_moco_v3_hold_the_papers_layers():
    recipe = augment.moco_v3()
    shared = ["ColorJitter", "RandomGrayscale", "RandomGaussianBlur"]
    assert kinds(recipe) == [*shared, "RandomHorizontalFlip", "Normalize"]
    assert kinds(recipe.key) == [
        *shared,
        "RandomSolarize",
        "RandomHorizontalFlip",
        "Normalize",
    ]
    for view in (recipe, recipe.key):
        jitter = layer_of(view, augment.ColorJitter)
        assert (jitter.ranges, jitter.probability) == (JITTER, 0.8)
        assert layer_of(view, augment.RandomGaussianBlur).sigma == (0.1, 2.0)
        assert layer_of(view, augment.Normalize).mean == augment.IMAGENET_MEAN


def test_simclr_holds_the_papers_layers():
    recipe = augment.simclr()
    assert kinds(recipe) == [
        "RandomHorizontalFlip",
        "ColorJitter",
        "RandomGrayscale",
        "RandomGaussianBlur",
        "Normalize",
    ]
    jitter = layer_of(recipe, augment.ColorJitter)
    strength = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
    assert (jitter.ranges, jitter.probability) == (strength, 0.8)
    assert recipe.key is None


@pytest.mark.parametrize(
    ("view", "kind", "share"),
    [
        ("query", augment.RandomGaussianBlur, 1.0),
        ("query", augment.ColorJitter, 0.8),
        ("query", augment.RandomHorizontalFlip, 0.5),
        ("key", augment.RandomGaussianBlur, 0.1),
        ("key", augment.RandomSolarize, 0.2),
        ("key", augment.RandomGrayscale, 0.2),
        ("simclr", augment.RandomGaussianBlur, 0.5),
        ("simclr", augment.ColorJitter, 0.8),
    ],
)
def test_layers_act_on_their_share_of_the_images(image, view, kind, share):
    recipe = augment.simclr() if view == "simclr" else augment.moco_v3()
    recipe = recipe.key if view == "key" else recipe
    assert share_changed(recipe, kind, image) == pytest.approx(share, abs=0.04)


def test_the_two_views_of_an_image_differ_with_one_seed(image):
    recipe, seeds = augment.moco_v3(), seeds_of(50)
    images = np.repeat(image[None], 50, axis=0).astype(np.uint8)
    query, key = recipe(images, seeds), recipe.key(images, seeds)
    # Those key views that are blurred as well may be the same.
    assert (np.abs(query - key).max(axis=(1, 2, 3)) > 0.05).mean() > 0.8


def test_recipe_of_two_views_survives_serialisation(image):
    recipe = augment.moco_v3()
    config = keras.saving.serialize_keras_object(recipe)
    copy = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(copy) == config
    images, seeds = np.repeat(image[None], 4, axis=0).astype(np.uint8), seeds_of(4)
    np.testing.assert_array_equal(copy(images, seeds), recipe(images, seeds))
    np.testing.assert_array_equal(copy.key(images, seeds), recipe.key(images, seeds))


def test_inference_only_normalises(image):
    images = image[None].astype(np.uint8)
    normalise = augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)
    for recipe in (augment.moco_v3(), augment.moco_v3().key, augment.simclr()):
        np.testing.assert_array_equal(recipe(images, training=False), normalise(images))


def test_other_than_rgb_leaves_colour_out_of_both_views(caplog):
    with caplog.at_level("INFO"):
        recipe = augment.moco_v3(channels=2, mean=[0.1, 0.2], std=[0.3, 0.4])
    assert "moco_v3_key: ColorJitter and RandomGrayscale and RandomSolarize left" in (
        caplog.text
    )
    for view in (recipe, recipe.key):
        assert kinds(view) == [
            "RandomGaussianBlur",
            "RandomHorizontalFlip",
            "Normalize",
        ]
        assert view.layers[-1].mean == (0.1, 0.2)
