"""Crops and boxes of one image, against Pillow's and torchvision's."""

import numpy as np
import pytest
import tensorflow as tf
from records import arrays

from moco_tf.data.crops import DRAWS, centre_crop, random_boxes, resize, resized_crop


@pytest.fixture(params=["reference", "golden"])
def recorded(request):
    """Crops that Pillow and torchvision made."""
    return arrays(request.getfixturevalue(request.param) / "augment_ops.npz")


def test_crops_agree_with_pillow(recorded):
    for image, outputs in zip(recorded["images"], recorded["crop_out"]):
        for box, expected in zip(recorded["crop_box"], outputs):
            crop = resized_crop(tf.constant(image), tf.constant(box, tf.int32), 64)
            error = np.abs(crop.numpy().astype(int) - expected)
            assert error.max() <= 1 and error.mean() < 0.25


@pytest.mark.parametrize("index", [0, 1, 2])
def test_evaluation_crops_agree_with_pillow(recorded, index):
    image = tf.constant(recorded[f"eval_in_{index}"])
    shorter, size = (
        int(recorded["eval_resize"][index]),
        int(recorded["eval_crop"][index]),
    )
    resized = recorded[f"eval_resize_out_{index}"]
    ours = resize(image, *resized.shape[:2]).numpy()
    assert np.abs(ours.astype(int) - resized).max() <= 1
    crop = centre_crop(image, shorter, size).numpy()
    expected = recorded[f"eval_out_{index}"]
    assert crop.shape == expected.shape
    assert np.abs(crop.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "name, scale", [("pretrain", (0.2, 1.0)), ("lincls", (0.08, 1.0))]
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_boxes_are_distributed_as_torchvision_draws_them(recorded, name, scale, index):
    height, width = recorded["rrc_image_hw"][index]
    expected = recorded[f"rrc_draws_{name}"][index].astype(np.float64)
    uniforms = tf.random.stateless_uniform((len(expected), DRAWS), (5, index))
    ours = random_boxes(uniforms, int(height), int(width), scale, (3 / 4, 4 / 3))
    ours = ours.numpy().astype(np.float64)
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        # Kolmogorov-Smirnov, two samples: 1.95 is the 0.1 % limit.
        values = np.unique(np.concatenate([ours[:, column], expected[:, column]]))
        shares = [
            np.searchsorted(np.sort(draws[:, column]), values, "right") / len(draws)
            for draws in (ours, expected)
        ]
        distance = np.abs(shares[0] - shares[1]).max()
        assert distance < 1.95 * np.sqrt(2 / len(expected)), column


def test_pixels_outside_the_box_do_not_leak_in():
    image = np.full((40, 40, 3), 255, np.uint8)
    image[10:30, 5:25] = 7
    crop = resized_crop(tf.constant(image), tf.constant([10, 5, 20, 20]), 8)
    np.testing.assert_array_equal(crop, np.full((8, 8, 3), 7))


@pytest.mark.parametrize("sides", [(375, 500), (500, 333), (20, 17), (600, 40)])
def test_centre_crop_is_that_of_the_whole_resized_image(sides):
    shape = (*sides, 3)
    image = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    target = [96 * side // min(sides) for side in sides]
    top, left = (round((side - 80) / 2) for side in target)
    whole = resize(image, *target).numpy().astype(int)
    expected = whole[top : top + 80, left : left + 80]
    found = centre_crop(image, 96, 80).numpy().astype(int)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 2e-3


def test_strip_costs_no_more_than_its_square():
    # Resized whole it would have 256 x 25,600,000 pixels.
    strip = tf.zeros((1, 100_000, 3), tf.uint8)
    assert centre_crop(strip, 256, 224).shape == (224, 224, 3)
