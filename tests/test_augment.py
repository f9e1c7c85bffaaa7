"""Augmentation: golden operations, draws, modes of execution, recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from moco_tf import augment
from moco_tf.augment.seeds import fold_in, hash_words, uniforms

GOLDEN = Path(__file__).resolve().parents[1].parent / "shared/golden/augment_ops.npz"
RECIPES = [
    augment.moco_v1,
    augment.moco_v2,
    augment.moco_v3,
    augment.simclr,
    augment.cifar,
]


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip("golden image operations (../shared/golden) are not here")
    with np.load(GOLDEN, allow_pickle=False) as archive:
        return dict(archive)


def images_of(count, size=12, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels)).astype(np.uint8)


def seeds_of(count, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**31), 2**31, (count, 2)).astype(np.int32)


def per_image(value, count=4):
    return tf.fill([count], tf.constant(value, tf.float32))


# Mean and largest difference in grey levels under XLA; eagerly there is none. XLA
# rounds the product and the sum of a blend once, not twice: with a round factor such as
# 0.6, values that should be whole fall below. It also turns the hue's division by 6
# into a multiplication.
UNDER_XLA = {
    "brightness": (0.0, 0),
    "contrast": (0.05, 1),
    "saturation": (0.05, 1),
    "hue": (0.005, 4),
}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", list(UNDER_XLA))
def test_adjustments_equal_torchvision_on_pil(golden, name, jit_compile):
    mean, largest = UNDER_XLA[name] if jit_compile else (0.0, 0)
    function = getattr(augment, f"adjust_{name}")
    if jit_compile:
        function = tf.function(function, jit_compile=True)
    for index, factor in enumerate(golden[f"{name}_factor"]):
        actual = function(golden["images"], per_image(factor)).numpy()
        difference = np.abs(actual - golden[f"{name}_out"][:, index])
        assert difference.mean() <= mean
        assert difference.max() <= largest


def test_blur_is_within_one_level_of_pillow(golden):
    function = tf.function(augment.gaussian_blur, jit_compile=True)
    for index, sigma in enumerate(golden["blur_sigma"]):
        actual = function(golden["images"], per_image(sigma)).numpy()
        difference = np.abs(actual - golden["blur_out"][:, index])
        assert difference.mean() <= 0.05
        assert difference.max() <= 1


def test_grayscale_and_flip_are_exact(golden):
    images = golden["images"]
    np.testing.assert_array_equal(augment.grayscale(images), golden["gray_out"])
    flipped = augment.RandomHorizontalFlip(1.0)(images)
    np.testing.assert_array_equal(flipped, golden["hflip_out"])


def test_jitter_orders_equal_torchvision(golden):
    # One batch in which each image has another order: all orders at once.
    images = np.repeat(golden["images"], 4, axis=0)
    order = np.tile(golden["jitter_order"], (4, 1))
    factor = np.tile(golden["jitter_factor"], (4, 1)).astype(np.float32)
    expected = golden["jitter_out"].reshape(images.shape)
    actual = augment.color_jitter(images, order, factor).numpy()
    np.testing.assert_array_equal(actual, expected)
    compiled = tf.function(augment.color_jitter, jit_compile=True)
    difference = np.abs(compiled(images, order, factor).numpy() - expected)
    assert difference.mean() <= 0.02
    assert difference.max() <= 8


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_chains_equal_the_reference(golden, version):
    image = pytest.importorskip("PIL.Image")

    def crop(pixels, top, left, height, width):
        whole = image.fromarray(pixels).crop((left, top, left + width, top + height))
        return np.asarray(whole.resize((64, 64), image.Resampling.BILINEAR))

    for draw in range(4):
        box = golden["chain_box"][draw]
        views = tf.constant(
            np.stack([crop(pixels, *box) for pixels in golden["images"]]), tf.float32
        )
        order = np.tile(golden["chain_order"][draw], (4, 1))
        factor = np.tile(golden[f"chain_{version}_factor"][draw], (4, 1))
        gray = bool(golden["chain_gray"][draw])
        if version == "v1" and gray:
            views = augment.grayscale(views)
        if version == "v1" or golden["chain_v2_jitter"][draw]:
            views = augment.color_jitter(views, order, factor.astype(np.float32))
        if version == "v2" and gray:
            views = augment.grayscale(views)
        if version == "v2" and golden["chain_v2_blur"][draw]:
            sigma = per_image(golden["chain_v2_sigma"][draw])
            views = augment.gaussian_blur(views, sigma)
        if golden["chain_flip"][draw]:
            views = tf.reverse(views, [2])
        difference = np.abs(views.numpy() - golden[f"chain_{version}_out"][:, draw])
        assert difference.mean() < 0.05
        assert difference.max() <= 2
        if version == "v2" and draw == 0:
            normalise = augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)
            actual = normalise(golden["chain_v2_out"][:, 0]).numpy()
            np.testing.assert_allclose(
                actual, golden["chain_v2_normalised"], rtol=0, atol=1e-6
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
    blurred = augment.gaussian_blur(pixels, per_image(5.0, 1), max_sigma=5.0).numpy()
    expected = image.fromarray(pixels[0]).filter(ImageFilter.GaussianBlur(5.0))
    assert np.abs(blurred[0] - np.asarray(expected)).max() <= 1


def test_solarize_inverts_from_the_threshold_up():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = np.array([v if v < 128 else 255 - v for v in range(256)])
    actual = augment.RandomSolarize(1.0)(ramp).numpy().reshape(-1)
    np.testing.assert_array_equal(actual, expected)


def murmur3(data: bytes, state: int) -> int:
    mask = 0xFFFFFFFF

    def rotate(word, bits):
        return (word << bits | word >> (32 - bits)) & mask

    for start in range(0, len(data), 4):
        block = int.from_bytes(data[start : start + 4], "little")
        block = rotate(block * 0xCC9E2D51 & mask, 15) * 0x1B873593 & mask
        state = (rotate(state ^ block, 13) * 5 + 0xE6546B64) & mask
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def test_hash_is_murmur3():
    assert murmur3(b"\0\0\0\0", 0) == 0x2362F9DE  # published test vector
    seeds = seeds_of(5)
    states = tf.constant([0, 1, 0xFFFFFFFF], tf.uint32)
    actual = hash_words(tf.constant(seeds), states).numpy()
    for row, seed in enumerate(seeds):
        for column, state in enumerate(states.numpy()):
            expected = murmur3(seed.astype("<i4").tobytes(), int(state))
            assert actual[row, column] == expected


@pytest.mark.parametrize("kind", ["random", "counting", "counting_second"])
def test_draws_are_uniform_and_independent(kind):
    count = 20000
    seeds = seeds_of(count)
    if kind != "random":
        column = int(kind == "counting_second")
        seeds[:] = 7
        seeds[:, column] = np.arange(count)
    draws = np.concatenate(
        [
            uniforms(tf.constant(seeds), 6).numpy(),
            uniforms(fold_in(tf.constant(seeds), 0), 6).numpy(),
            uniforms(fold_in(tf.constant(seeds), 1), 6).numpy(),
        ],
        axis=1,
    )
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    for column in draws.T:
        # chi-squared with 63 degrees of freedom: 130 is passed once in 10**6.
        observed = np.histogram(column, 64, (0, 1))[0]
        assert ((observed - count / 64) ** 2 / (count / 64)).sum() < 130
    # Correlation of independent columns has standard deviation 1 / sqrt(count).
    between = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(between).max() < 5.5 / np.sqrt(count)
    following = [np.corrcoef(c[1:], c[:-1])[0, 1] for c in draws.T]
    assert np.abs(following).max() < 5.5 / np.sqrt(count)


def test_parameters_have_the_published_distributions():
    seeds = tf.constant(seeds_of(2000))
    blur = augment.RandomGaussianBlur((0.1, 2.0), 0.5)
    sigmas = blur.sigmas(uniforms(seeds, blur.draws)).numpy()
    assert abs((sigmas > 0).mean() - 0.5) < 0.05
    fired = sigmas[sigmas > 0]
    assert fired.min() >= 0.1
    assert fired.max() <= 2.0
    assert abs(fired.mean() - 1.05) < 0.06
    jitter = augment.ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8)
    order, factors, chosen = jitter.parameters(uniforms(seeds, jitter.draws))
    chosen = chosen.numpy()
    assert abs(chosen.mean() - 0.8) < 0.05
    factors = factors.numpy()[chosen]
    np.testing.assert_allclose(factors.min(0), [0.6, 0.6, 0.6, -0.1], atol=0.01)
    np.testing.assert_allclose(factors.max(0), [1.4, 1.4, 1.4, 0.1], atol=0.01)
    rows, counts = np.unique(order.numpy(), axis=0, return_counts=True)
    assert len(rows) == 24
    assert counts.min() > 40


@pytest.mark.parametrize(
    ("layer", "rate"),
    [
        (augment.RandomGaussianBlur(), 0.5),
        (augment.RandomGrayscale(0.2), 0.2),
        (augment.RandomHorizontalFlip(), 0.5),
        (augment.RandomSolarize(0.2), 0.2),
        (augment.ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8), 0.8),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_layer_changes_its_share_of_images(layer, rate):
    images = images_of(2000, 8)
    changed = (layer(images, seeds_of(2000)).numpy() != images).any((1, 2, 3))
    assert abs(changed.mean() - rate) < 0.05


def test_two_views_of_an_image_differ():
    images = np.repeat(images_of(1, 8), 64, axis=0)
    recipe = augment.moco_v1()
    first = recipe(images, seeds_of(64, 1)).numpy()
    second = recipe(images, seeds_of(64, 2)).numpy()
    assert (first != second).any((1, 2, 3)).all()


def test_result_does_not_depend_on_the_batch():
    images, seeds = images_of(16), seeds_of(16)
    recipe = augment.moco_v2()
    together = recipe(images, seeds).numpy()
    backwards = recipe(images[::-1], seeds[::-1]).numpy()[::-1]
    np.testing.assert_array_equal(together, backwards)
    pairs = [
        recipe(images[i : i + 2], seeds[i : i + 2]).numpy() for i in range(0, 16, 2)
    ]
    # Another batch size is another compilation, whose roundings may differ.
    np.testing.assert_allclose(together, np.concatenate(pairs), atol=1e-5)


def grey_levels_apart(first, second):
    difference = np.abs(np.asarray(first) - np.asarray(second)) * 255.0 * 0.225
    return difference.mean(), (difference > 0.01).mean()


@pytest.mark.parametrize("make", RECIPES, ids=lambda make: make.__name__)
def test_every_mode_of_execution_gives_the_same_views(make):
    images, seeds = images_of(32), seeds_of(32)
    recipe = make()
    plain = augment.Recipe(recipe.layers, jit_compile=False)
    tf.config.run_functions_eagerly(True)
    try:
        expected = plain(images, seeds).numpy()
    finally:
        tf.config.run_functions_eagerly(False)
    assert expected.dtype == np.float32
    pairs = tf.data.Dataset.from_tensor_slices((images, seeds))
    outputs = {
        "graph": plain(images, seeds),
        "xla": recipe(images, seeds),
        "xla in a graph": tf.function(recipe)(images, seeds),
        "xla in xla": tf.function(recipe, jit_compile=True)(images, seeds),
        "data": next(iter(pairs.batch(32).map(recipe, num_parallel_calls=2))),
        "data, image by image": np.stack(list(pairs.map(recipe).as_numpy_iterator())),
    }
    for mode, actual in outputs.items():
        mean, share = grey_levels_apart(actual, expected)
        assert mean < 0.01, mode
        assert share < 0.01, mode


def test_recipe_traces_once():
    recipe = augment.moco_v2()
    for epoch in range(3):
        recipe(images_of(4, seed=epoch), seeds_of(4, epoch))
    assert recipe._compiled.experimental_get_tracing_count() == 1


def test_dicts_and_single_images_as_with_any_keras_cv_layer():
    images, seeds = images_of(4), seeds_of(4)
    recipe = augment.cifar()
    expected = recipe(images, seeds).numpy()
    labels = np.arange(4)
    batch = {"images": images, "labels": labels, "seeds": seeds, "id": labels}
    outputs = recipe(batch)
    assert set(outputs) == {"images", "labels", "id"}
    assert outputs["labels"].dtype == labels.dtype
    np.testing.assert_array_equal(outputs["images"], expected)
    single = recipe(images[0], seeds[0]).numpy()
    np.testing.assert_allclose(single, expected[0], atol=1e-5)
    data = tf.data.Dataset.from_tensor_slices({"images": images, "labels": labels})
    outputs = next(iter(data.batch(4).map(recipe)))
    assert outputs["images"].dtype == tf.float32


def test_fresh_seeds_follow_the_global_seed_and_change_between_calls():
    images = images_of(8)
    layer = augment.ColorJitter(0.4, 0.4, 0.4, 0.4)
    tf.random.set_seed(5)
    first, second = layer(images).numpy(), layer(images).numpy()
    tf.random.set_seed(5)
    np.testing.assert_array_equal(first, layer(images).numpy())
    assert (first != second).any((1, 2, 3)).all()


def test_inference_only_normalises():
    images = images_of(4)
    recipe = augment.moco_v2()
    normalise = augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)
    np.testing.assert_array_equal(recipe(images, training=False), normalise(images))
    flip = augment.RandomHorizontalFlip(1.0)
    np.testing.assert_array_equal(flip(images, training=False), images)


@pytest.mark.parametrize("policy", ["float64", "mixed_bfloat16", "mixed_float16"])
def test_arithmetic_is_float32_under_every_policy(policy):
    images, seeds = images_of(4), seeds_of(4)
    expected = augment.moco_v1()(images, seeds)
    keras.mixed_precision.set_global_policy(policy)
    try:
        actual = augment.moco_v1()(images, seeds)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert actual.dtype == tf.float32
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("make", RECIPES, ids=lambda make: make.__name__)
def test_recipe_survives_serialisation(make):
    recipe = make()
    config = keras.saving.serialize_keras_object(recipe)
    copy = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(copy) == config
    images, seeds = images_of(4), seeds_of(4)
    np.testing.assert_array_equal(copy(images, seeds), recipe(images, seeds))


def test_solarize_and_arguments_survive_serialisation():
    layer = augment.RandomSolarize(0.3, threshold=100, seed=4, name="sun")
    copy = augment.RandomSolarize.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.threshold, copy.probability, copy.seed) == (100.0, 0.3, 4)


def test_layers_hold_no_state_for_checkpoints():
    recipe = augment.moco_v2()
    recipe(images_of(2))
    assert recipe.variables == []
    reader_names = [name for name, _ in tf.train.list_variables(_saved(recipe))]
    assert not [name for name in reader_names if "generator" in name or "state" in name]


def _saved(trackable):
    import tempfile

    folder = tempfile.mkdtemp()
    return tf.train.Checkpoint(augment=trackable).write(f"{folder}/checkpoint")


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_other_than_rgb_leaves_colour_out_and_logs_it(channels, caplog):
    with caplog.at_level("INFO"):
        recipe = augment.moco_v2(channels)
    assert "ColorJitter and RandomGrayscale left out" in caplog.text
    kinds = [type(layer).__name__ for layer in recipe.layers]
    assert kinds == ["RandomGaussianBlur", "RandomHorizontalFlip", "Normalize"]
    images = images_of(6, channels=channels)
    output = recipe(images, seeds_of(6)).numpy()
    assert output.shape == images.shape
    assert output.min() >= -2.001
    assert output.max() <= 2.001
    given = augment.cifar(channels, mean=[0.1] * channels, std=[0.2] * channels)
    expected = (images / 255.0 - 0.1) / 0.2
    np.testing.assert_allclose(given(images, training=False), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.RandomGrayscale(1.5), "probability=1.5"),
        (lambda: augment.ColorJitter(hue=0.7), "hue=0.7"),
        (lambda: augment.ColorJitter(brightness=-1.0), "brightness=-1.0"),
        (lambda: augment.RandomGaussianBlur((2.0, 0.1)), r"sigma=\(2.0, 0.1\)"),
        (lambda: augment.Normalize((0.5,), (0.5, 0.5)), "1 values of mean"),
        (lambda: augment.Normalize((0.5,), (0.0,)), "std=.*above 0"),
        (lambda: augment.moco_v2(4, mean=(0.5,)), "1 values of mean for 4 channels"),
        (lambda: augment.moco_v1(0), "channels=0"),
        (lambda: augment.RandomSolarize(dtype="float16"), "dtype='float16'"),
        (lambda: augment.Recipe([keras.layers.ReLU()]), "Recipe got the layer"),
        (lambda: augment.adjust_hue(np.zeros((1, 2, 2, 4)), 0.1), "4 channels"),
        (lambda: augment.moco_v1()(images_of(1, channels=4)), "4 channels"),
        (
            lambda: augment.RandomHorizontalFlip()(
                {"images": images_of(1), "keypoints": np.zeros((1, 1, 2))}
            ),
            "keypoints",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_replicas_give_the_same_views_as_one():
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("needs two logical CPU devices")
    images, seeds = images_of(8), seeds_of(8)
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices[:2]])
    with strategy.scope():
        recipe = augment.moco_v2()

    @tf.function
    def step(images, seeds):
        return strategy.run(recipe, (images, seeds))

    data = tf.data.Dataset.from_tensor_slices((images, seeds)).batch(8)
    ((images_in, seeds_in),) = strategy.experimental_distribute_dataset(data)
    parts = strategy.experimental_local_results(step(images_in, seeds_in))
    actual = np.concatenate([part.numpy() for part in parts])
    np.testing.assert_allclose(actual, recipe(images, seeds), atol=1e-5)
