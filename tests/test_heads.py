"""Heads with batch norm, written out in NumPy, and models that carry them."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny import small_encoder

from moco_tf.encoders import clone
from moco_tf.encoders.heads import mlp_head, with_head


def head(widths, **kwargs):
    dtype = keras.mixed_precision.global_policy().variable_dtype
    inputs = keras.Input((6,), dtype=dtype)
    return keras.Model(inputs, mlp_head(inputs, widths, **kwargs))


def normal(rows):
    return (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)


def places(model):
    return {layer.name: [w.shape for w in layer.weights] for layer in model.layers[1:]}


def test_moco_v3_projector_ends_in_batch_norm_without_affine(policy):
    policy("float64")
    model = head((9, 9, 4))
    x = np.random.default_rng(0).normal(size=(32, 6))
    y = normal(x @ model.get_layer("fc_0").kernel.numpy())
    y = normal(np.maximum(y, 0) @ model.get_layer("fc_3").kernel.numpy())
    y = normal(np.maximum(y, 0) @ model.get_layer("fc_6").kernel.numpy())
    np.testing.assert_allclose(model(x, training=True), y, rtol=1e-9, atol=1e-12)
    assert places(model) == {
        "fc_0": [(6, 9)],
        "fc_1": [(9,)] * 4,
        "fc_2": [],
        "fc_3": [(9, 9)],
        "fc_4": [(9,)] * 4,
        "fc_5": [],
        "fc_6": [(9, 4)],
        "fc_7": [(4,)] * 2,
    }


def test_predictor_can_end_in_its_linear_layer(policy):
    policy("float64")
    model = head((9, 4), last_batch_norm=False, prefix="predictor")
    x = np.random.default_rng(0).normal(size=(32, 6))
    y = normal(x @ model.get_layer("predictor_0").kernel.numpy())
    y = np.maximum(y, 0) @ model.get_layer("predictor_3").kernel.numpy()
    np.testing.assert_allclose(model(x, training=True), y, rtol=1e-9, atol=1e-12)
    assert "predictor_4" not in places(model)


def test_simclr_head_ends_in_batch_norm_with_a_scale_only():
    model = head((6, 4), last_scale=True)
    last = model.get_layer("fc_4")
    assert last.gamma is not None and last.beta is None
    assert [layer.beta is None for layer in (model.get_layer("fc_1"), last)] == [
        False,
        True,
    ]


def test_linear_layers_start_as_torchs():
    kernel = head((2000, 4)).get_layer("fc_0").kernel.numpy()
    assert np.abs(kernel).max() <= 6**-0.5
    assert kernel.std() == pytest.approx(6**-0.5 / 3**0.5, rel=0.05)


def test_encoder_with_a_head_is_copied_with_its_weights(policy):
    policy("mixed_bfloat16")
    make = functools.partial(mlp_head, widths=(8, 4))
    encoder = with_head(small_encoder(), make, "query_encoder")
    twin = clone(encoder)
    images = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype("float32")
    np.testing.assert_array_equal(encoder(images), twin(images))
    assert encoder.output.dtype == tf.float32 and encoder.output_shape == (None, 4)
    for ours, theirs in zip(encoder.weights, twin.weights):
        assert ours is not theirs
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("widths", [(), (8, 0)])
def test_widths_out_of_range_are_refused(widths):
    with pytest.raises(ValueError, match="one or more positive numbers"):
        head(widths)
