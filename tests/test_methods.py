"""What every method must do: learn, count its negatives, resume, save, report."""

import inspect
import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras
from tiny import glyph_batches, noise_batches, small_encoder

import moco_tf
from moco_tf import augment
from moco_tf.callbacks import Checkpoints, TrainingHealth
from moco_tf.contrast.queue import NO_IMAGE
from moco_tf.methods import EndToEnd, MemoryBank, MoCo, MoCoV3, SimCLR
from moco_tf.optimizers import LARS, SGD

SETTINGS = {
    "moco": (MoCo, {"queue_size": 64, "key_momentum": 0.99, "bn_groups": 2}),
    "moco_symmetric": (
        MoCo,
        {"queue_size": 64, "key_momentum": 0.99, "bn_groups": 2, "symmetric": True},
    ),
    "moco_v3": (MoCoV3, {"total_steps": 1000, "hidden": 24, "key_momentum": 0.9}),
    "simclr": (SimCLR, {}),
    "end_to_end": (EndToEnd, {"bn_groups": 2}),
    "memory_bank": (MemoryBank, {"num_examples": 512, "num_negatives": 48}),
}
each_method = pytest.mark.parametrize("method", SETTINGS)


def make(method, optimizer=None, **kwargs):
    cls, settings = SETTINGS[method]
    settings = {"dim": 8, "temperature": 0.2, **settings, **kwargs}
    model = cls(small_encoder(), **settings)
    model.compile(optimizer or SGD(0.05))
    return model


@each_method
def test_loss_falls_in_one_trace_and_statistics_stay_finite(method):
    keras.utils.set_random_seed(1)
    model = make(method, SGD(0.01))
    logs = model.fit(glyph_batches(12), epochs=4, verbose=0).history
    assert all(math.isfinite(value) for values in logs.values() for value in values)
    # In the first epoch the queue and the bank still hold random rows.
    assert logs["loss"][-1] < logs["loss"][1] - 0.1
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert model.train_tf_function.experimental_get_tracing_count() == 1
    norms = np.linalg.norm(model.embeddings(), axis=1)
    assert len(norms) >= 32
    np.testing.assert_allclose(norms, 1, rtol=1e-5)


@each_method
def test_killed_run_resumes_bit_exactly(method, tmp_path):
    keras.utils.set_random_seed(2)
    whole, killed, resumed = (make(method, LARS(0.5)) for _ in range(3))
    killed.set_weights(whole.get_weights())
    batches = [noise_batches(2, seed=seed) for seed in (0, 1)]
    for part in batches:
        whole.fit(part, verbose=0)
    killed.fit(batches[0], verbose=0, callbacks=[Checkpoints(tmp_path)])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.set_model(resumed)
    assert checkpoints.restore() == 1
    resumed.fit(batches[1], verbose=0)
    parts = resumed.parts()
    assert {"query_encoder"} < set(parts)
    for name, part in whole.parts().items():
        for ours, theirs in zip(parts[name].weights, part.weights):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=name)
    for ours, theirs in zip(resumed.optimizer.variables, whole.optimizer.variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@each_method
def test_uninformed_encoder_loses_the_logarithm_of_its_choices(method):
    # So large that no query meets its own slot, which would not count.
    large = {"num_examples": 100_000} if method == "memory_bank" else {}
    model = make(method, **large)
    for part in model.parts().values():
        if isinstance(part, keras.Model):
            for variable in part.trainable_variables:
                variable.assign(tf.zeros_like(variable))
    logs = model.fit(noise_batches(1), verbose=0).history
    expected = math.log1p(model.negatives(batch_size=16))
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)


@each_method
def test_signs_of_health_are_found(method):
    model = make(method)
    health = TrainingHealth(batch_size=32)
    logs = model.fit(glyph_batches(2), verbose=0, callbacks=[health]).history
    assert logs["loss_ceiling"][0] == math.log1p(model.negatives(32))
    assert 0 < logs["feature_std"][0] < 2
    assert 1 <= logs["effective_rank"][0] <= 8
    assert ("queue_age" in logs) == method.startswith("moco_s") or method == "moco"


@each_method
def test_evaluation_moves_nothing_but_the_means(method):
    model = make(method)
    data = glyph_batches(2)
    model.fit(data, verbose=0)
    means = {id(v) for metric in model.metrics for v in metric.variables}
    kept = [weight for weight in model.weights if id(weight) not in means]
    before = [weight.numpy() for weight in kept]
    logs = model.evaluate(data, return_dict=True, verbose=0)
    assert 0 < logs["loss"] < 30
    for old, weight in zip(before, kept):
        np.testing.assert_array_equal(weight.numpy(), old)


@each_method
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_similarities_and_weights_in_float32(
    policy, precision, method
):
    policy(precision)
    model = make(method)
    before = [variable.numpy() for variable in model.trained_variables]
    logs = model.fit(glyph_batches(3), verbose=0).history
    assert all(math.isfinite(value[0]) for value in logs.values())
    assert model.query_encoder.output.dtype == model.encoder.output.dtype == tf.float32
    assert model.recent.keys.dtype == tf.float32
    moved = [np.abs(v - old).max() for v, old in zip(model.trained_variables, before)]
    assert all(v.dtype == tf.float32 for v in model.trained_variables)
    assert min(moved) > 0 and np.isfinite(moved).all()


def test_compiling_the_step_with_xla_leaves_the_loss_as_it_is():
    models = [make("moco"), make("moco")]
    models[1].set_weights(models[0].get_weights())
    models[1].compile(SGD(0.05), jit_compile=True)
    losses = [m.fit(noise_batches(2), verbose=0).history["loss"] for m in models]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@each_method
def test_configuration_round_trip_keeps_every_argument(method):
    cls, settings = SETTINGS[method]
    model = cls(
        moco_tf.encoders.ResNet18(width=4, stem="cifar"),
        temperature=0.3,
        augment=augment.cifar(),
        **{**settings, "dim": 5},
    )
    twin = cls.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]
    assert set(model.get_config()) == set(inspect.signature(cls).parameters)


@each_method
def test_saved_weights_restore_every_part(method, tmp_path):
    model, twin = make(method), make(method)
    model.fit(glyph_batches(1), verbose=0)
    model.save_weights(tmp_path / "w.weights.h5")
    twin.load_weights(tmp_path / "w.weights.h5")
    for name, part in model.parts().items():
        for ours, theirs in zip(twin.parts()[name].weights, part.weights):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=name)


@pytest.mark.parametrize("method", [m for m in SETTINGS if m != "memory_bank"])
def test_batch_needs_neither_positions_nor_ids(method):
    data = noise_batches(1, shuffled=False)
    bare = data.map(lambda batch: {view: batch[view] for view in ("query", "key")})
    models = [make(method), make(method)]
    models[1].set_weights(models[0].get_weights())
    losses = [
        m.fit(d, verbose=0).history["loss"][0] for m, d in zip(models, (data, bare))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert set(models[1].recent.ids.numpy()) == {NO_IMAGE}


@each_method
def test_temperature_must_be_positive(method):
    with pytest.raises(ValueError, match="temperature=0 is not positive"):
        make(method, temperature=0)


def test_recipe_with_a_layer_for_keys_augments_the_views_apart():
    class Shift(keras.layers.Layer):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def call(self, images, seeds=None, training=False):
            return images + self.by

    layer = Shift(1.0)
    layer.key = Shift(10.0)
    for given, shifts in ((layer, (1, 10)), (Shift(2.0), (2, 2))):
        model = MoCo(small_encoder(), dim=4, queue_size=32, augment=given)
        batch = next(iter(noise_batches(1)))
        views = model.views(batch)
        np.testing.assert_allclose(views.query, batch["query"] + shifts[0], rtol=1e-5)
        np.testing.assert_allclose(views.key, batch["key"] + shifts[1], rtol=1e-5)
