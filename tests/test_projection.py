"""Pooled and projected backbones, and their copies."""

import keras_cv
import numpy as np
import pytest
import tensorflow as tf
from networks import perturbed
from tensorflow import keras

from moco_tf.encoders import ResNet18, clone, pooled, projection_encoder


def kerascv_backbone():
    """A small KerasCV backbone; its named ones fetch their settings from the net."""
    return keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[1, 4],
        stackwise_filters=[16, 24],
        stackwise_kernel_size=[3, 5],
        stackwise_stride=[2, 2],
        stackwise_se_ratio=[0.25, None],
        stackwise_activation=["relu", "hard_swish"],
        include_rescaling=False,
    )


def test_heads_are_the_papers_with_torchs_initial_values():
    keras.utils.set_random_seed(0)
    backbone = ResNet18(width=16, stem="cifar")
    mlp = projection_encoder(backbone, "mlp", dim=64)
    linear = projection_encoder(backbone, "linear", dim=64)
    assert mlp.get_layer("fc_0").kernel.shape == (128, 128)
    assert mlp.get_layer("fc_2").kernel.shape == (128, 64)
    assert linear.get_layer("fc").kernel.shape == (128, 64)
    for weight in mlp.get_layer("fc_0").weights + linear.get_layer("fc").weights:
        limit = 128**-0.5
        assert 0.9 * limit < np.abs(weight).max() <= limit
        assert abs(np.mean(weight)) < 0.2 * limit
    images = tf.random.normal((2, 8, 8, 3))
    hidden = tf.nn.relu(mlp.get_layer("fc_0")(backbone(images)))
    np.testing.assert_allclose(mlp(images), mlp.get_layer("fc_2")(hidden), atol=1e-6)


def test_unknown_head_is_refused():
    backbone = ResNet18(width=4)
    with pytest.raises(ValueError, match='projection="conv" is unknown'):
        projection_encoder(backbone, "conv")
    with pytest.raises(ValueError, match="dim=0 must be at least 1"):
        projection_encoder(backbone, dim=0)


def test_any_kerascv_backbone_is_pooled_and_projected():
    backbone = kerascv_backbone()
    images = tf.random.normal((4, 32, 32, 3))
    features = pooled(backbone)(images)
    np.testing.assert_allclose(
        features, tf.reduce_mean(backbone(images), [1, 2]), atol=1e-6
    )
    assert projection_encoder(backbone, dim=7)(images).shape == (4, 7)
    assert pooled(pooled(backbone)).output_shape == (None, 144)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResNet18(width=4, stem="cifar"),
        lambda: projection_encoder(ResNet18(width=4, stem="cifar"), "mlp", 6),
        lambda: pooled(kerascv_backbone()),
        lambda: projection_encoder(pooled(kerascv_backbone()), "linear", 6),
        lambda: projection_encoder(
            keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)])
        ),
    ],
)
def test_clone_is_equal_and_independent(make):
    encoder = perturbed(make())
    twin = clone(encoder)
    images = tf.random.normal((2, 16, 16, 3))
    expected = encoder(images)
    np.testing.assert_array_equal(twin(images), expected)
    assert [v.shape for v in twin.trainable_variables] == [
        v.shape for v in encoder.trainable_variables
    ]
    for weight in encoder.weights:
        weight.assign(tf.zeros_like(weight))
    np.testing.assert_array_equal(twin(images), expected)


def test_encoder_that_cannot_be_copied_is_refused():
    class Own(keras.Model):
        def __init__(self, width):
            super().__init__(name="own")
            self.dense = keras.layers.Dense(width)

        def call(self, images):
            return self.dense(images)

        def get_config(self):
            return {"width": 3}

    encoder = Own(2)
    encoder(tf.zeros((1, 2)))
    with pytest.raises(ValueError, match="'own'.*cannot be copied for the keys"):
        clone(encoder)
