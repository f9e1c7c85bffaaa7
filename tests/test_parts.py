"""Parts of a batch one after the other: the step of as many groups, in less memory."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras
from tiny import assert_same_training, noise_batches, small_encoder

import moco_tf
from moco_tf.config import ConfigError, load_config, validate
from moco_tf.optimizers import SGD


def plain_encoder():
    """With Keras's own batch norm, which is called once for each group."""
    dtype = keras.mixed_precision.global_policy().variable_dtype
    images = keras.Input((None, None, 3), dtype=dtype)
    x = keras.layers.Conv2D(6, 3, 2, use_bias=False)(images)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype=dtype)(x))


def trained(
    accumulate, encoder=small_encoder, replicas=1, collectives=False, **settings
):
    """Logs of two steps, and every variable after them."""
    keras.utils.set_random_seed(1)
    with mirrored(replicas, collectives).scope():
        model = moco_tf.MoCo(
            encoder(), dim=5, queue_size=48, key_momentum=0.9, bn_groups=4,
            accumulate=accumulate, **settings,
        )  # fmt: skip
        model.measures_gradients = True
        model.compile(SGD(0.5, weight_decay=1e-3))
    logs = model.fit(noise_batches(2, count=16), verbose=0).history
    kept = [*model.weights, *model.optimizer.velocities]
    return logs, [variable.numpy() for variable in kept]


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"symmetric": True, "mask_same_image": True},
        {"encoder": plain_encoder},
        {"replicas": 2},
        {"replicas": 2, "collectives": True},
    ],
    ids=["whole", "symmetric", "plain batch norm", "replicas", "collectives"],
)
def test_parts_learn_what_their_groups_learn_at_once(policy, accumulate, settings):
    policy("float64")
    at_once, in_turn = (trained(parts, **settings) for parts in (1, accumulate))
    assert_same_training(in_turn, at_once)


def test_parts_are_scaled_in_half_precision(policy):
    policy("mixed_float16")
    model = moco_tf.MoCo(
        small_encoder(), dim=4, queue_size=32, bn_groups=2, accumulate=2
    )
    model.compile(keras.mixed_precision.LossScaleOptimizer(SGD(0.1)))
    before = [variable.numpy() for variable in model.trained_variables]
    logs = model.fit(noise_batches(2), verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    moved = [v.numpy() - b for v, b in zip(model.trained_variables, before)]
    assert 0 < max(np.abs(each).max() for each in moved) < 1


def test_one_part_at_a_time_is_in_the_graph():
    # Unrolled, TensorFlow would be free to run all at once.
    model = moco_tf.MoCo(
        small_encoder(), dim=4, queue_size=32, bn_groups=4, accumulate=4
    )
    model.compile(SGD(0.1))
    batch = next(iter(noise_batches(1)))
    graph = tf.function(model.train_step).get_concrete_function(batch).graph
    loops = [each for each in graph.get_operations() if each.type == "While"]
    assert len(loops) == 2  # keys, and queries
    assert {each.get_attr("parallel_iterations") for each in loops} == {1}


@pytest.mark.parametrize(("accumulate", "groups"), [(0, 8), (3, 8), (2, 1)])
def test_parts_that_cut_groups_are_refused(accumulate, groups):
    with pytest.raises(ValueError, match=f"accumulate={accumulate} does not divide"):
        moco_tf.MoCo(small_encoder(), bn_groups=groups, accumulate=accumulate)


@pytest.mark.parametrize(
    ("words", "replicas", "sentence"),
    [
        (
            ["train.accumulate=3"],
            1,
            "train.accumulate=3 does not divide the 8 batch-nor",
        ),
        (["train.accumulate=2"], 2, "set method.bn_groups=2"),
        (
            ["train.accumulate=2", "method.name=simclr"],
            1,
            "train.accumulate=2 does not go with method.name=simclr",
        ),
    ],
)
def test_mistakes_of_configuration_are_told(words, replicas, sentence):
    with pytest.raises(ConfigError) as caught:
        validate(load_config(None, words), replicas)
    assert sentence in str(caught.value)
