"""Within an epoch: gradient norms, means between two looks, stalls, profiles."""

import collections
import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored, strip_runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorflow import keras
from test_collectives import METHODS, made
from test_pretrain import small
from test_within_epoch import FOUR, stop_after
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf.callbacks.steps import StepFigures
from moco_tf.optimizers import SGD
from moco_tf.pretrain import pretrain
from moco_tf.pretrain.stall import stalls_told


@pytest.mark.parametrize("collectives", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    "method",
    ["MoCo", *(pytest.param(m, marks=pytest.mark.slow) for m in list(METHODS)[1:])],
)
def test_gradient_norm_is_that_of_the_step_taken(method, replicas, collectives, policy):
    if collectives and (replicas == 1 or method not in ("MoCo", "SimCLR")):
        pytest.skip("the same path as without")
    policy("float64")
    model = made(method, replicas, collectives)
    model.measures_gradients = True
    with mirrored(replicas, collectives).scope():
        # Without momentum and decay a step is the rate times the gradient.
        model.compile(SGD(0.125, momentum=0, weight_decay=0))
    before = [weight.numpy() for weight in model.trained_variables]
    logs = model.fit(noise_batches(1), verbose=0).history
    steps = [w.numpy() - b for w, b in zip(model.trained_variables, before)]
    norm = np.sqrt(sum(np.sum(step**2) for step in steps)) / 0.125
    assert norm > 0
    np.testing.assert_allclose(logs["gradient_norm"], norm, rtol=1e-6)


def test_norm_of_a_step_that_float16_skips_does_not_count(policy):
    policy("mixed_float16")
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32, bn_groups=1)
    model.measures_gradients = True
    scaled = keras.mixed_precision.LossScaleOptimizer(
        SGD(0.1), dynamic=True, initial_scale=2.0**60
    )
    model.compile(scaled)
    logs = model.fit(noise_batches(2), verbose=0).history
    assert logs["gradient_norm"] == [0] and int(scaled.iterations.numpy()) == 2


def test_bookkeeping_of_a_step_is_few_operations():
    backbone = moco_tf.encoders.ResNet18(width=4, stem="cifar")
    model = moco_tf.MoCo(backbone, dim=4, queue_size=32)
    model.compile(SGD(0.1))
    specs = {
        name: tf.TensorSpec((8, 16, 16, 3), tf.float32) for name in ("query", "key")
    }
    graph = tf.function(model.train_step).get_concrete_function(specs).graph
    kinds = collections.Counter(each.type for each in graph.get_operations())
    trained, layers = len(model.trained_variables), 2 * 20
    assert kinds["FusedBatchNormV3"] == layers
    # Each weight: decay, its sum with the gradient, the update; each key's: two.
    assert kinds["ResourceApplyMomentum"] == trained
    assert kinds["ResourceApplyGradientDescent"] == trained
    free = ("Const", "Placeholder", "Identity", "ReadVariableOp", "NoOp")
    total = sum(count for kind, count in kinds.items() if kind not in free)
    statistics, passes = 2 * layers, 5 * layers
    assert total - 5 * trained - statistics - passes < 500


def test_figures_are_of_the_steps_since_the_last_look():
    model = made("MoCo", 2, False)
    model.measures_gradients = True
    looks, means = [], []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.figures = StepFigures(model, 16)

        def on_train_batch_end(self, batch, logs):
            means.append({name: m.result().numpy() for name, m in model._means.items()})
            if batch in (0, 3):
                looks.append(self.figures.since())

    model.fit(noise_batches(4), verbose=0, callbacks=[Look()])
    first, second = looks
    for name in ("loss", "top5", "gradient_norm", "negative_similarity"):
        assert first[name] == pytest.approx(means[0][name])
        of_three = (4 * means[3][name] - means[0][name]) / 3
        assert second[name] == pytest.approx(of_three, rel=1e-5), name
    weights = np.concatenate([w.numpy().ravel() for w in model.trained_variables])
    assert second["weight_norm"] == pytest.approx(np.linalg.norm(weights))
    assert second["learning_rate"] == pytest.approx(0.05)
    assert second["images_per_second"] > 0 <= second["input_wait"] < 1


@pytest.mark.parametrize(
    ("doing", "words"),
    [("images", "waits for images"), ("step", "is in a step"), ("after", "is between")],
)
def test_stall_is_told_with_its_place_and_less_and_less_often(caplog, doing, words):
    model = SimpleNamespace(steps_made=0, doing=doing)
    with caplog.at_level(logging.WARNING, "moco_tf"), stalls_told(model, 0.002):
        time.sleep(1.0)
    lines = [record.getMessage() for record in caplog.records]
    assert 2 <= len(lines) <= 4  # after 0.12, 0.24, 0.48 and 0.96 s
    assert all(words in line and "test_steps.py" in line for line in lines)


def test_run_that_goes_on_and_one_that_has_failed_tell_nothing(caplog):
    model = SimpleNamespace(steps_made=0, doing="step")
    with caplog.at_level(logging.WARNING, "moco_tf"):
        with stalls_told(model, 0.005):
            for _ in range(10):
                time.sleep(0.1)
                model.steps_made += 1
        with pytest.raises(KeyboardInterrupt), stalls_told(model, 0.005):
            raise KeyboardInterrupt
        time.sleep(0.5)
    assert not caplog.records


def test_continued_run_shows_the_same_steps(tmp_path, monkeypatch):
    strip_runs(monkeypatch, board=True)
    words = (*FOUR, "monitor.every=0", "log.every_steps=1")
    whole = small(tmp_path, *words, name="whole")
    pretrain(whole)
    stopped = small(tmp_path, *words, name="stopped")
    for step in (2, 5):
        stop_after(monkeypatch, stopped, step)
    pretrain(stopped)

    def shown(config):
        board = config.run_dir / "tensorboard"
        read = EventAccumulator(str(board), {"tensors": 0}).Reload()
        events = read.Tensors("steps/loss")
        return {e.step: float(tf.make_ndarray(e.tensor_proto)) for e in events}

    expected = shown(whole)
    assert list(expected) == list(range(1, 9))
    assert shown(stopped) == pytest.approx(expected, rel=1e-5)


def test_profile_and_stalls_of_a_run(tmp_path, bare, capfd):
    config = small(
        tmp_path, "train.profile=[2,3]", "monitor.every=0", "train.stall_minutes=1e-4"
    )
    pretrain(config)
    (folder,) = (config.run_dir / "tensorboard" / "plugins" / "profile").iterdir()
    (file,) = folder.glob("*.xplane.pb")
    assert b"IteratorGetNext" in file.read_bytes()
    # Tracing the step takes seconds.
    assert "The run is in a step" in " ".join("".join(capfd.readouterr()).split())
