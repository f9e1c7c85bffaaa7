"""A run that diverges ends with a sentence, and keeps nothing of it."""

import csv
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from test_pretrain import small
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf.callbacks import (
    Checkpoints,
    FiniteLoss,
    Progress,
    RunError,
    TrainingHealth,
    divergence,
)
from moco_tf.callbacks.health import spread
from moco_tf.optimizers import SGD
from moco_tf.pretrain import pretrain


def fit(model, *watchers, steps=2):
    model.fit(noise_batches(steps), verbose=0, callbacks=[FiniteLoss(), *watchers])


def made(optimizer=None):
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32, bn_groups=2)
    model.compile(optimizer or SGD(0.01))
    return model


def test_diverging_run_saves_and_exports_nothing_and_keeps_the_checkpoint(
    tmp_path, monkeypatch, bare
):
    config = small(tmp_path, "train.epochs=3", "monitor.every=0")
    begin = FiniteLoss.on_epoch_begin

    def diverge(self, epoch, logs=None):
        begin(self, epoch, logs)
        if epoch == 1:
            kernel = self.model.trained_variables[0]
            kernel.assign(tf.fill(kernel.shape, np.inf))

    monkeypatch.setattr(FiniteLoss, "on_epoch_begin", diverge)
    with pytest.raises(RunError, match="not finite in epoch 2.* ten times lower") as e:
        pretrain(config)
    assert "\n" not in str(e.value)
    latest = tf.train.latest_checkpoint(str(config.run_dir / "checkpoints"))
    assert pathlib.Path(latest).name == "epoch-1"
    assert not (config.run_dir / "saved_model").exists()
    rows = csv.DictReader((config.run_dir / "history.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows] == ["1"]


def test_weights_that_the_last_step_spoilt_are_not_saved(tmp_path):
    # The loss is that from before the step, so it is finite.
    with pytest.raises(RunError, match="model is not finite in epoch 1"):
        fit(made(SGD(np.inf)), Checkpoints(tmp_path), steps=1)
    assert not list(tmp_path.iterdir())


def test_long_epoch_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(divergence, "_STEPS", 2)
    ended = []

    class Count(tf.keras.callbacks.Callback):
        _supports_tf_logs = True

        def on_train_batch_begin(self, batch, logs=None):
            ended.append(batch)

    with pytest.raises(RunError, match="loss is not finite in epoch 1"):
        fit(made(SGD(np.inf)), Count(), steps=6)
    assert ended == [0, 1]


def test_step_that_loss_scaling_skips_does_not_end_a_run(policy):
    policy("mixed_float16")
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(
        SGD(0.01), initial_scale=2.0**40
    )
    model = made(scaled)
    fit(model, steps=3)
    assert float(scaled.loss_scale) == 2.0**37  # all three steps were skipped


def test_host_does_not_wait_for_the_loss_of_every_step(monkeypatch):
    kinds = []

    def look(self, batch, logs=None):
        kinds.append(tf.is_tensor(logs["loss"]))

    monkeypatch.setattr(FiniteLoss, "on_train_batch_end", look)
    fit(made(), TrainingHealth(16), Progress(bars=False))
    assert kinds == [True, True]  # tensors, which may not have been computed yet


def test_spread_of_what_is_not_finite_is_nan():
    rows = np.ones((4, 3), np.float32)
    rows[1, 2] = np.inf
    assert np.isnan(spread(rows)).all()
