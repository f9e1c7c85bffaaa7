"""A tiny encoder and batches of two views, for tests of the methods."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import moco_tf
from moco_tf.data.sources.glyphs import draw_glyphs
from moco_tf.data.threads import untuned

# Eight replicas, where another method's fast test has them on the same path.
EIGHT = pytest.param(8, marks=pytest.mark.slow)


def small_encoder():
    """One convolution with batch norm; a ResNet takes long to trace on 8 replicas."""
    dtype = keras.mixed_precision.global_policy().variable_dtype
    images = keras.Input((None, None, 3), dtype=dtype)
    x = keras.layers.Conv2D(12, 5, 2, use_bias=False, name="conv1")(images)
    x = moco_tf.encoders.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(images, x)


def noise_batches(steps=2, count=16, size=12, seed=0, shuffled=True):
    """Batches of two unrelated noise views, the keys permuted."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(2, steps, count, size, size, 3)).astype(np.float32)
    order = random.permutation if shuffled else np.arange
    batches = {
        "query": images[0],
        "key": images[1],
        "position": np.stack([order(count) for _ in range(steps)]).astype(np.int32),
        "id": np.arange(steps * count).reshape(steps, count),
    }
    return untuned(tf.data.Dataset.from_tensor_slices(batches))


def glyph_batches(steps, count=32, seed=0):
    """Batches of two crops of 24 x 24 pixels of glyphs, the keys permuted.

    An image occurs once; its id is its place in the stream.
    """
    images = draw_glyphs("test")[0][: steps * count].astype(np.float32) / 128 - 1
    random = np.random.default_rng(seed)

    def crops():
        corners = random.integers(0, 9, (len(images), 2))
        views = [x[i : i + 24, j : j + 24] for x, (i, j) in zip(images, corners)]
        return np.stack(views).reshape(steps, count, 24, 24, 3)

    position = np.stack([random.permutation(count) for _ in range(steps)])
    batches = {
        "query": crops(),
        "key": np.stack([key[order] for key, order in zip(crops(), position)]),
        "position": position.astype(np.int32),
        "id": np.arange(steps * count).reshape(steps, count),
    }
    return untuned(tf.data.Dataset.from_tensor_slices(batches))


def assert_trained_alike(one, many, batches):
    """Trains both from the weights of `one`; logs and variables must agree."""
    many.set_weights(one.get_weights())
    ours, theirs = (m.fit(batches, verbose=0).history for m in (many, one))
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-7), name
    for mine, its in zip(many.trained_variables, one.trained_variables):
        np.testing.assert_allclose(mine.numpy(), its.numpy(), rtol=1e-6, atol=1e-10)


def central_differences(function, *arrays, step=1e-6):
    """Gradient of a scalar function of arrays, one entry at a time."""
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            above = function(*arrays)
            array[index] = kept - step
            gradient[index] = (above - function(*arrays)) / (2 * step)
            array[index] = kept
        gradients.append(gradient)
    return gradients


def assert_same_training(found, expected):
    """Logs and variables of two trainings in float64, to rounding."""
    for name, values in expected[0].items():
        assert found[0][name] == pytest.approx(values, rel=1e-9), name
    assert len(found[1]) == len(expected[1])
    for one, other in zip(found[1], expected[1]):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
