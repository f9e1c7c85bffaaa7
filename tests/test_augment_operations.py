"""Operations on images against torchvision's and Pillow's, recorded or called."""

import numpy as np
import pytest
import tensorflow as tf
from noise import images_of
from PIL import Image
from records import arrays

from moco_tf import augment
from moco_tf.augment import color


@pytest.fixture(params=["reference", "golden"])
def recorded(request):
    """A chart of colours, and where they are, three photographs beside it."""
    return arrays(request.getfixturevalue(request.param) / "augment_ops.npz")


def per_image(value, count=1):
    return tf.fill([count], tf.constant(value, tf.float32))


# Mean and largest difference in grey levels under XLA; eagerly there is none. XLA
# rounds the product and the sum of a blend once, not twice: with a round factor such as
# 0.6, values that should be whole fall below, more often in the chart alone.
UNDER_XLA = {
    "brightness": (0.0, 0),
    "contrast": (0.05, 1),
    "saturation": (0.05, 1),
    "hue": (0.0, 0),
}
CHART_ALONE = {"contrast": 0.17, "blur": 0.06}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", list(UNDER_XLA))
def test_adjustments_equal_torchvision_on_pil(recorded, name, jit_compile):
    mean, largest = UNDER_XLA[name] if jit_compile else (0.0, 0)
    count = len(recorded["images"])
    if jit_compile and count == 1:
        mean = CHART_ALONE.get(name, mean)
    function = getattr(augment, f"adjust_{name}")
    if jit_compile:
        function = tf.function(function, jit_compile=True)
    for index, factor in enumerate(recorded[f"{name}_factor"]):
        actual = function(recorded["images"], per_image(factor, count)).numpy()
        difference = np.abs(actual - recorded[f"{name}_out"][:, index])
        assert difference.mean() <= mean
        assert difference.max() <= largest


def every_colour(step):
    levels = np.unique([*range(0, 256, step), 1, 127, 128, 254, 255])
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return grid.reshape(1, -1, len(levels), 3).astype(np.uint8)


@pytest.mark.parametrize("steps", [0, 37, -128])
def test_hue_of_every_third_level_is_pillows(steps):
    images = every_colour(3)
    hsv = np.array(Image.fromarray(images[0]).convert("HSV"))
    hsv[..., 0] += np.uint8(steps % 256)
    planes = [Image.fromarray(hsv[..., i]) for i in range(3)]
    expected = np.array(Image.merge("HSV", planes).convert("RGB"))
    actual = augment.adjust_hue(images, tf.constant(steps / 255, tf.float32))
    np.testing.assert_array_equal(actual[0], expected)


@pytest.mark.parametrize("ulps", [1, 2])
def test_division_that_errs_in_its_last_places_changes_nothing(monkeypatch, ulps):
    images = np.concatenate([every_colour(6), 255 - every_colour(6)])
    factors = tf.constant([0.3, -0.1])
    blends = tf.constant([0.6, 1.4])

    def results():
        return [
            augment.adjust_hue(images, factors).numpy(),
            augment.adjust_contrast(images, blends).numpy(),
            augment.adjust_saturation(images, blends).numpy(),
        ]

    right = results()
    rng = np.random.default_rng(ulps)
    errors = []

    def divide(numerator, denominator):
        quotient = (numerator / denominator).numpy()
        for _ in range(ulps):
            towards = rng.choice([-np.inf, np.inf], quotient.shape)
            quotient = np.nextafter(quotient, towards.astype(np.float32))
        errors.append(quotient)
        return tf.constant(quotient)

    monkeypatch.setattr(color, "_divide", divide)
    for expected, found in zip(right, results()):
        np.testing.assert_array_equal(found, expected)
    assert len(errors) == 6  # hue: itself, saturation, three planes; the mean grey


def test_hues_that_fall_short_are_those_of_single_precision():
    chroma, rise = np.meshgrid(*[np.arange(1, 256, dtype=np.float32)] * 2)
    chroma, rise = chroma[rise <= chroma], rise[rise <= chroma]
    short = set()
    for corner, sign in ((1, -1), (-1, 1), (1, 1), (3, -1), (3, 1), (5, -1)):
        turns = (corner + sign * (rise / chroma)) / np.float32(6)
        assert turns.dtype == np.float32
        turns = np.where(turns < 0, turns + np.float32(1), turns)
        exact = 85 * (corner * chroma + sign * rise).astype(int) % (510 * chroma)
        whole, rest = np.divmod(exact, 2 * chroma)
        falls = (rest == 0) & (255 * turns.astype(np.float64) < whole)
        short |= set(whole[falls].astype(int))
        assert not (falls & ~np.isin(whole, list(color._FALLS_SHORT))).any()
    assert short == color._FALLS_SHORT


def test_blur_is_within_one_level_of_pillow(recorded):
    function = tf.function(augment.gaussian_blur, jit_compile=True)
    count = len(recorded["images"])
    mean = CHART_ALONE["blur"] if count == 1 else 0.05
    for index, sigma in enumerate(recorded["blur_sigma"]):
        actual = function(recorded["images"], per_image(sigma, count)).numpy()
        difference = np.abs(actual - recorded["blur_out"][:, index])
        assert difference.mean() <= mean
        assert difference.max() <= 1


def test_grayscale_and_flip_are_exact(recorded):
    images = recorded["images"]
    np.testing.assert_array_equal(augment.grayscale(images), recorded["gray_out"])
    flipped = augment.RandomHorizontalFlip(1.0)(images)
    np.testing.assert_array_equal(flipped, recorded["hflip_out"])


def test_jitter_orders_equal_torchvision(recorded):
    # One batch in which each image has another order: all orders at once.
    count = len(recorded["images"])
    images = np.repeat(recorded["images"], 4, axis=0)
    order = np.tile(recorded["jitter_order"], (count, 1))
    factor = np.tile(recorded["jitter_factor"], (count, 1)).astype(np.float32)
    expected = recorded["jitter_out"].reshape(images.shape)
    actual = augment.color_jitter(images, order, factor).numpy()
    np.testing.assert_array_equal(actual, expected)
    compiled = tf.function(augment.color_jitter, jit_compile=True)
    difference = np.abs(compiled(images, order, factor).numpy() - expected)
    assert difference.mean() <= 0.02
    assert difference.max() <= 8


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_chains_equal_the_reference(recorded, version):
    image = pytest.importorskip("PIL.Image")

    def crop(pixels, top, left, height, width):
        whole = image.fromarray(pixels).crop((left, top, left + width, top + height))
        return np.asarray(whole.resize((64, 64), image.Resampling.BILINEAR))

    count = len(recorded["images"])
    for draw in range(4):
        box = recorded["chain_box"][draw]
        views = tf.constant(
            np.stack([crop(pixels, *box) for pixels in recorded["images"]]), tf.float32
        )
        order = np.tile(recorded["chain_order"][draw], (count, 1))
        factor = np.tile(recorded[f"chain_{version}_factor"][draw], (count, 1))
        gray = bool(recorded["chain_gray"][draw])
        if version == "v1" and gray:
            views = augment.grayscale(views)
        if version == "v1" or recorded["chain_v2_jitter"][draw]:
            views = augment.color_jitter(views, order, factor.astype(np.float32))
        if version == "v2" and gray:
            views = augment.grayscale(views)
        if version == "v2" and recorded["chain_v2_blur"][draw]:
            sigma = per_image(recorded["chain_v2_sigma"][draw], count)
            views = augment.gaussian_blur(views, sigma)
        if recorded["chain_flip"][draw]:
            views = tf.reverse(views, [2])
        difference = np.abs(views.numpy() - recorded[f"chain_{version}_out"][:, draw])
        assert difference.mean() < 0.05
        assert difference.max() <= 2
        if version == "v2" and draw == 0:
            normalise = augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)
            actual = normalise(recorded["chain_v2_out"][:, 0]).numpy()
            np.testing.assert_allclose(
                actual, recorded["chain_v2_normalised"], rtol=0, atol=1e-6
            )


def test_all_orders_equal_operations_one_by_one():
    import itertools

    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    images = images_of(24)
    rng = np.random.default_rng(3)
    factors = rng.uniform(0.6, 1.4, (24, 4)).astype(np.float32) - [[0, 0, 0, 1]]
    factors = factors.astype(np.float32)
    operations = [
        augment.adjust_brightness,
        augment.adjust_contrast,
        augment.adjust_saturation,
        augment.adjust_hue,
    ]
    actual = augment.color_jitter(images, orders, factors).numpy()
    for row, order in enumerate(orders):
        image = images[row : row + 1]
        for operation in order:
            image = operations[operation](image, factors[row : row + 1, operation])
        np.testing.assert_array_equal(actual[row], image[0])


def test_blur_of_radius_zero_changes_nothing_and_edges_stay_bright():
    images = np.full((2, 9, 7, 5), 200, np.uint8)
    images[0] = images_of(1, 12, 5)[0, :9, :7]
    blurred = augment.gaussian_blur(images, tf.constant([0.0, 2.0])).numpy()
    np.testing.assert_array_equal(blurred, images)


def test_blur_of_large_radius_matches_pillow():
    image = pytest.importorskip("PIL.Image")
    from PIL import ImageFilter

    pixels = images_of(1, 40)
    blurred = augment.gaussian_blur(pixels, per_image(5.0), max_sigma=5.0).numpy()
    expected = image.fromarray(pixels[0]).filter(ImageFilter.GaussianBlur(5.0))
    assert np.abs(blurred[0] - np.asarray(expected)).max() <= 1


def test_solarize_inverts_from_the_threshold_up():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = np.array([v if v < 128 else 255 - v for v in range(256)])
    actual = augment.RandomSolarize(1.0)(ramp).numpy().reshape(-1)
    np.testing.assert_array_equal(actual, expected)
