"""Recipes as layers: modes of execution, inputs, dtypes, serialisation, mistakes."""

import numpy as np
import pytest
import tensorflow as tf
from noise import images_of, seeds_of
from tensorflow import keras

from moco_tf import augment

RECIPES = [
    augment.moco_v1,
    augment.moco_v2,
    augment.moco_v3,
    augment.simclr,
    augment.cifar,
]


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


@pytest.mark.parametrize("make", [augment.moco_v2, augment.moco_v3])
def test_recipe_without_xla_is_the_same_recipe(make):
    recipe = make()
    plain = recipe.uncompiled()
    assert recipe.jit_compile and not plain.jit_compile
    expected = {**recipe.get_config(), "jit_compile": False}
    if recipe.key is not None:
        assert not plain.key.jit_compile
        expected["key"] = plain.get_config()["key"]
    assert plain.get_config() == expected


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
    recipe = augment.cifar().uncompiled()
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


def test_inference_only_normalises():
    images = images_of(4)
    recipe = augment.moco_v2()
    normalise = augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD)
    np.testing.assert_array_equal(recipe(images, training=False), normalise(images))
    flip = augment.RandomHorizontalFlip(1.0)
    np.testing.assert_array_equal(flip(images, training=False), images)


@pytest.mark.parametrize("compiled", [False, True])
def test_recipe_may_consist_of_layers_that_draw_nothing(compiled):
    images = images_of(2)
    recipe = augment.Recipe(
        [augment.Normalize((0.5,) * 3, (0.25,) * 3)], jit_compile=compiled
    )
    np.testing.assert_allclose(
        recipe(images), (np.array(images) / 255 - 0.5) / 0.25, atol=1e-5
    )


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
    # Without XLA, which would compile the same thing twice.
    copy, recipe = copy.uncompiled(), recipe.uncompiled()
    np.testing.assert_array_equal(copy(images, seeds), recipe(images, seeds))


def test_solarize_and_arguments_survive_serialisation():
    layer = augment.RandomSolarize(0.3, threshold=100, seed=4, name="sun")
    copy = augment.RandomSolarize.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.threshold, copy.probability, copy.seed) == (100.0, 0.3, 4)


def test_layers_hold_no_state_for_checkpoints():
    recipe = augment.moco_v2().uncompiled()
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
