"""LARS against its formula as MoCo v3's code has it."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras

from moco_tf.optimizers import LARS, SGD, make_schedule


def slow_lars(weights, gradients, rates, momentum, decay, trust):
    """One array's path, entry by entry."""
    velocity = np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates):
        if weights.ndim > 1:
            gradient = gradient + decay * weights
            norm = sum(x * x for x in weights.flat) ** 0.5
            step = sum(x * x for x in gradient.flat) ** 0.5
            if norm > 0 and step > 0:
                gradient = gradient * (trust * norm / step)
        velocity = momentum * velocity + gradient
        weights = weights - rate * velocity
    return weights


SHAPES = [(7, 3), (3,), (3, 3, 2, 4), (1,), (1, 5)]


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-6)])
def test_steps_equal_the_formula_while_the_rate_changes(dtype, tolerance):
    random = np.random.default_rng(0)
    start = [random.normal(size=shape) for shape in SHAPES]
    gradients = [[random.normal(size=s) for s in SHAPES] for _ in range(6)]
    schedule = make_schedule(
        "step", 5.0, epochs=6, steps_per_epoch=1, milestones=(2, 4)
    )
    optimizer = LARS(schedule, momentum=0.9, weight_decay=0.1, trust=0.02)
    variables = [tf.Variable(value, dtype=dtype) for value in start]
    for step in gradients:
        optimizer.apply_gradients(
            [(tf.constant(g, dtype), v) for g, v in zip(step, variables)]
        )
    rates = [5.0, 5.0, 0.5, 0.5, 0.05, 0.05]
    for index, variable in enumerate(variables):
        expected = slow_lars(
            start[index], [step[index] for step in gradients], rates, 0.9, 0.1, 0.02
        )
        np.testing.assert_allclose(variable, expected, rtol=tolerance, atol=tolerance)


def test_vectors_get_neither_decay_nor_scaling():
    variable = tf.Variable([10.0, -10.0])
    LARS(0.5, momentum=0.0, weight_decay=0.1).apply_gradients([([1.0, 1.0], variable)])
    np.testing.assert_allclose(variable, [9.5, -10.5])


def test_step_of_a_matrix_has_the_trusted_share_of_its_norm():
    variable = tf.Variable(np.full((4, 4), 2.0))
    gradient = tf.constant(np.random.default_rng(0).normal(size=(4, 4)) * 1e6)
    LARS(3.0, 0.0, 0.0, trust=0.01).apply_gradients([(gradient, variable)])
    moved = np.linalg.norm(variable - np.full((4, 4), 2.0))
    assert moved == pytest.approx(3 * 0.01 * 8)


def test_zero_norms_leave_the_gradient_unscaled_and_finite():
    empty, still = tf.Variable(tf.zeros((2, 2))), tf.Variable(tf.ones((2, 2)))
    pairs = [(tf.ones((2, 2)), empty), (tf.zeros((2, 2)), still)]
    LARS(1.0, momentum=0.0, weight_decay=0.0).apply_gradients(pairs)
    np.testing.assert_array_equal(empty, -np.ones((2, 2)))
    np.testing.assert_array_equal(still, np.ones((2, 2)))


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_replicas_scale_the_sum_of_their_gradients(replicas):
    strategy = mirrored(replicas)
    gradient = np.random.default_rng(0).normal(size=(3, 2))
    with strategy.scope():
        variable = tf.Variable(np.ones((3, 2)))
        optimizer = LARS(2.0, trust=0.1)
        optimizer.build([variable])

    @tf.function
    def step():
        def apply():
            optimizer.apply_gradients([(tf.constant(gradient) / replicas, variable)])

        strategy.run(apply)

    step()
    expected = slow_lars(np.ones((3, 2)), [gradient], [2.0], 0.9, 1e-6, 0.1)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-10)


def test_configuration_round_trip_keeps_every_argument():
    optimizer = LARS(0.3, momentum=0.8, weight_decay=1e-5, trust=0.002)
    twin = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(twin) is LARS and isinstance(twin, SGD)
    assert (twin.momentum, twin.weight_decay, twin.trust) == (0.8, 1e-5, 0.002)
    assert float(twin.learning_rate) == 0.3


def test_trust_out_of_range_is_refused():
    with pytest.raises(ValueError, match="trust=0 is not positive"):
        LARS(trust=0)
    with pytest.raises(ValueError, match="momentum=1.5 is outside"):
        LARS(momentum=1.5)
