"""SGD in torch's convention, and schedules, against their formulas."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from moco_tf.optimizers import LARS, SGD, make_schedule


def torch_sgd(weights, gradients, rates, momentum, decay):
    """The three lines of torch's documentation."""
    buffer = None
    for gradient, rate in zip(gradients, rates):
        gradient = gradient + decay * weights
        buffer = gradient if buffer is None else momentum * buffer + gradient
        weights = weights - rate * buffer
    return weights


def test_sgd_equals_torch_formula_while_the_rate_changes():
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=7), random.normal(size=(6, 7))
    schedule = make_schedule(
        "step", 0.5, epochs=6, steps_per_epoch=1, milestones=(2, 4)
    )
    variable, optimizer = tf.Variable(start), SGD(schedule, 0.9, 1e-2)
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    rates = [0.5, 0.5, 0.05, 0.05, 0.005, 0.005]
    expected = torch_sgd(start, gradients, rates, 0.9, 1e-2)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_updates_of_a_step_share_one_rate(compiled):
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    optimizer = SGD(rates, 0.5, weight_decay=0)
    optimizer.jit_compile = compiled  # which Keras takes from nobody without a GPU
    variables = [tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0]), tf.Variable(5.0)]
    optimizer.build(variables)
    gradients = [tf.ones_like(variable) for variable in variables]
    step = tf.function(lambda: optimizer.apply_gradients(zip(gradients, variables)))
    step()
    step()  # a rate of 0.5 at first, then of 0.25 with a velocity of 1.5
    for variable, start in zip(variables, ([1.0, 2.0], [3.0, 4.0], 5.0)):
        np.testing.assert_allclose(variable, np.subtract(start, 0.5 + 0.375))
    operations = step.get_concrete_function().graph.get_operations()
    casts = [o for o in operations if o.type == "Cast" and o.name.startswith("SGD")]
    assert compiled or len(casts) == 1


def test_sgd_keeps_a_plain_rate_in_double_precision_and_settable():
    optimizer = SGD(0.06)
    assert float(optimizer.learning_rate.numpy()) == 0.06
    optimizer.learning_rate = 0.006
    assert float(optimizer.learning_rate.numpy()) == 0.006


def test_sgd_round_trips_through_its_configuration():
    schedule = make_schedule(
        "cosine", 0.1, epochs=4, steps_per_epoch=5, warmup_epochs=1, per_epoch=True
    )
    twin = SGD.from_config(SGD(schedule, 0.8, 3e-4).get_config())
    assert (twin.momentum, twin.weight_decay) == (0.8, 3e-4)
    for step in range(20):
        assert float(twin._learning_rate(step)) == pytest.approx(float(schedule(step)))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(SGD(0.25)))
    assert isinstance(again, SGD) and float(again.learning_rate) == 0.25


@pytest.mark.parametrize(
    "arguments, sentence",
    [({"momentum": 1.5}, "momentum=1.5"), ({"weight_decay": -1}, "weight_decay=-1")],
)
def test_sgd_refuses_values_out_of_range(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        SGD(0.1, **arguments)


@pytest.mark.parametrize("by", ["variable", "name"])
def test_variables_are_excluded_from_weight_decay_before_build(by):
    kernel, bias = tf.Variable([2.0, 4.0], name="kernel"), tf.Variable(3.0, name="bias")
    optimizer = SGD(0.5, momentum=0.0, weight_decay=0.1)
    if by == "variable":
        optimizer.exclude_from_weight_decay(var_list=[bias])
    else:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    gradients = [tf.zeros(2), tf.constant(1.0)]
    optimizer.apply_gradients(zip(gradients, (kernel, bias)))
    np.testing.assert_allclose(kernel, [1.9, 3.8], rtol=1e-6)
    assert bias.numpy() == 2.5


@pytest.mark.parametrize(
    ("given", "found"), [({}, False), ({"jit_compile": True}, True)]
)
def test_each_update_is_compiled_apart_only_on_request(monkeypatch, given, found):
    passed = []
    make = keras.optimizers.Optimizer.__init__

    def noted(self, *args, **kwargs):
        passed.append(kwargs["jit_compile"])  # without a GPU, Keras makes it False
        make(self, *args, **kwargs)

    monkeypatch.setattr(keras.optimizers.Optimizer, "__init__", noted)
    SGD(**given)
    LARS(**given)
    assert passed == [found, found]


def test_cosine_reaches_zero_at_the_end_of_the_run():
    schedule = make_schedule("cosine", 0.03, epochs=10, steps_per_epoch=7)
    for step in range(71):
        expected = 0.03 * 0.5 * (1 + math.cos(math.pi * step / 70))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-12)


def test_per_epoch_cosine_is_the_reference_staircase():
    schedule = make_schedule(
        "cosine", 0.06, epochs=3, steps_per_epoch=10, per_epoch=True
    )
    for step in range(30):
        expected = 0.06 * 0.5 * (1 + math.cos(math.pi * (step // 10) / 3))
        assert float(schedule(tf.constant(step, tf.int64))) == pytest.approx(expected)


def test_warm_up_rises_linearly_and_hands_over():
    schedule = make_schedule(
        "cosine", 1.0, epochs=10, steps_per_epoch=10, warmup_epochs=2
    )
    rates = [float(schedule(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:21], np.arange(21) / 20, atol=1e-9)
    expected = [0.5 * (1 + math.cos(math.pi * s / 80)) for s in range(81)]
    np.testing.assert_allclose(rates[20:], expected, atol=1e-9)


def test_warm_up_of_a_staircase_rises_within_its_epochs():
    schedule = make_schedule(
        "step", 1.0, epochs=9, steps_per_epoch=4, milestones=(6,), per_epoch=True,
        warmup_epochs=2,
    )  # fmt: skip
    rates = [float(schedule(step)) for step in range(36)]
    np.testing.assert_allclose(rates[:9], np.arange(9) / 8)
    assert rates[8:24] == [1.0] * 16 and rates[24] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "schedule, step",
    [
        (
            keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.3, 0.03, 0.1]),
            2,
        ),
        (keras.optimizers.schedules.CosineDecay(0.03, 30), 1),
        (keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9), 1),
    ],
)
def test_schedules_of_keras_compute_in_double_precision(schedule, step):
    weight = tf.Variable(1.0, dtype=tf.float64)
    optimizer = SGD(schedule, momentum=0.0, weight_decay=0.0)
    optimizer.build([weight])
    optimizer.iterations.assign(step)
    optimizer.apply_gradients([(tf.constant(1.0, tf.float64), weight)])
    expected = {
        "PiecewiseConstantDecay": 0.03,
        "CosineDecay": 0.03 * 0.5 * (1 + math.cos(math.pi / 30)),
        "ExponentialDecay": 0.1 * 0.9**0.1,
    }[type(schedule).__name__]
    assert 1 - float(weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("per_epoch", [False, True])
def test_steps_without_milestones_keep_the_rate(per_epoch):
    schedule = make_schedule(
        "step", 0.3, epochs=2, steps_per_epoch=3, per_epoch=per_epoch
    )
    assert [float(schedule(step)) for step in range(6)] == [0.3] * 6


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match='schedule="linear"'):
        make_schedule("linear", 1.0, epochs=1, steps_per_epoch=1)
