"""Crops and boxes of one image, against Pillow's and torchvision's."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from records import arrays

from moco_tf.data import crops
from moco_tf.data.crops import (
    DRAWS,
    centre_crop,
    random_boxes,
    random_crops,
    resize,
    resized_crop,
)
from moco_tf.data.decoding import decode


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


def jpeg(pixels):
    file = io.BytesIO()
    # Without chroma subsampling, whose coarser grid is not what is tried here.
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return tf.constant(file.getvalue())


def photograph(height=900, width=1200):
    """Noise of several scales, as photographs have it."""
    random, total = np.random.default_rng(0), np.zeros((height, width, 3))
    for cells, share in ((4, 0.5), (16, 0.25), (64, 0.125), (256, 0.125)):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
        total += share * np.asarray(noise.resize((width, height), Image.BICUBIC))
    return np.uint8(total.clip(0, 255))


def two_crops(image, size, seed=0):
    uniforms = tf.random.stateless_uniform((2, DRAWS), (seed, 0))
    return np.stack(random_crops(image, uniforms, 3, (0.2, 1.0), (3 / 4, 4 / 3), size))


@pytest.mark.parametrize(("size", "by"), [(300, {1, 2}), (128, {2, 4}), (70, {4, 8})])
def test_large_jpegs_are_decoded_no_larger_than_their_crops_need(monkeypatch, size, by):
    image, taken = jpeg(photograph()), []

    def noted(image, channels, by, part):
        taken.append(by)
        return decode_reduced(image, channels, by, part)

    decode_reduced = crops.decode_reduced
    monkeypatch.setattr(crops, "decode_reduced", noted)
    for seed in range(20):
        before = len(taken)
        reduced = two_crops(image, size, seed)
        whole = two_crops(decode(image, 3), size, seed)
        taken += [1] * (len(taken) == before)
        difference = reduced.astype(float) - whole
        if taken[-1] == 1:
            assert not difference.any()
        assert np.abs(difference).mean() < 1.5 and np.abs(difference).max() < 10
    assert set(taken) == by


@pytest.mark.parametrize("by", [2, 4, 8])
def test_reduced_decoding_is_that_of_pillows_draft(by):
    image = jpeg(photograph())
    draft = Image.open(io.BytesIO(image.numpy()))
    draft.draft("RGB", (1200 // by, 900 // by))
    whole = crops.decode_reduced(image, 3, by, [0, 0, *np.shape(draft)[:2]]).numpy()
    assert np.abs(whole.astype(int) - np.asarray(draft)).max() <= 1
    part = crops.decode_reduced(image, 3, by, [13, 7, 91, 120]).numpy()
    np.testing.assert_array_equal(part, whole[13:104, 7:127])


@pytest.mark.parametrize("axis", [0, 1])
def test_crops_of_reduced_jpegs_are_in_their_places(axis):
    # On a slope of 3/16 of a grey level a pixel, one pixel of a crop is some three.
    slope = 20 + np.arange(1100) * 0.1875
    image = slope[:, None, None] if axis == 0 else slope[None, :, None]
    image = jpeg(np.uint8(np.broadcast_to(image, (1100, 1100, 3)).round()))
    for seed in range(10):
        reduced, whole = (
            two_crops(image, 64, seed),
            two_crops(decode(image, 3), 64, seed),
        )
        assert np.abs(reduced.astype(int) - whole).max() <= 1


def test_without_antialiasing_each_pixel_is_of_the_nearest_four():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    top, left, height, width = box = [5, 8, 30, 33]
    crop = resized_crop(tf.constant(image), tf.constant(box), 12, antialias=False)
    part = image[top : top + height, left : left + width].astype(float)

    def weights(sides):
        matrix = np.zeros((12, sides))
        for row, place in enumerate((np.arange(12) + 0.5) * sides / 12 - 0.5):
            low = int(np.floor(place))
            matrix[row, low] += 1 - (place - low)
            matrix[row, low + 1] += place - low
        return matrix

    expected = np.einsum("ih,hwc,jw->ijc", weights(height), part, weights(width))
    assert np.abs(crop.numpy() - np.round(expected)).max() <= 1


def test_reduced_jpegs_without_antialiasing_show_the_same_crops():
    image = jpeg(photograph())
    for seed in range(5):
        smooth, quick = (
            np.stack(
                random_crops(
                    image, tf.random.stateless_uniform((2, DRAWS), (seed, 0)), 3,
                    (0.2, 1.0), (3 / 4, 4 / 3), 70, antialias,
                )
            )
            for antialias in (True, False)
        )  # fmt: skip
        assert np.abs(smooth.astype(int) - quick).mean() < 4


def test_reduction_serves_grey_images_and_mixed_folders_in_a_graph():
    crop = tf.function(
        lambda image: random_crops(
            image, tf.fill((1, DRAWS), 0.5), 1, (0.2, 1.0), (3 / 4, 4 / 3), 32
        )[0],
        input_signature=[tf.TensorSpec((), tf.string)],
    )
    pixels = photograph(300, 400)
    png = tf.io.encode_png(pixels)
    reduced, whole = crop(jpeg(pixels)).numpy(), crop(png).numpy()
    assert np.abs(reduced.astype(int) - whole).mean() < 1.5


def test_each_view_may_have_a_scale_of_its_own():
    count, side = 2000, 400
    scales = np.array([(0.2, 1.0), (0.05, 0.25)])
    uniforms = tf.random.stateless_uniform((2 * count, DRAWS), (3, 4))
    pairs = tf.reshape(uniforms, (count, 2, DRAWS))
    ratio = (3 / 4, 4 / 3)
    boxes = tf.map_fn(
        lambda pair: random_boxes(pair, side, side, scales, ratio),
        pairs,
        fn_output_signature=tf.int32,
    ).numpy()
    shares = np.prod(boxes[..., 2:], axis=-1) / side**2
    for column, (least, most) in zip(shares.T, scales):
        assert column.min() > least - 0.01 and column.max() < most + 0.01
    # Of the small crops all fit; a large one is drawn again where it does not.
    assert abs(shares[:, 1].mean() - 0.15) < 0.01
    for view, scale in enumerate(scales):
        alone = random_boxes(pairs[:, view], side, side, tuple(scale), ratio)
        np.testing.assert_array_equal(alone, boxes[:, view])
