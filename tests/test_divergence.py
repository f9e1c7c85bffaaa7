"""A run that diverges ends with a sentence, and keeps nothing of it."""

import csv
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from pretrained_runs import write_images
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
from moco_tf.data import open_source, two_views
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
    assert [row["epoch"] for row in rows] == ["0", "1"]


@pytest.mark.parametrize("replicas", [1, 2])
def test_images_of_the_first_bad_step_are_kept(tmp_path, monkeypatch, bare, replicas):
    write_images(tmp_path / "photos", 40)
    config = small(
        tmp_path, "train.epochs=2", "train.batch_size=16", "train.steps_per_epoch=5",
        "monitor.every=0", "data.source=folder", f"data.data_dir={tmp_path}/photos",
        f"distribution.replicas={replicas}", "method.bn_groups=2",
    )  # fmt: skip
    end = Progress.on_batch_end

    def spoil(self, batch, logs):
        end(self, batch, logs)
        if (self._epoch, batch) == (1, 1):  # so that the third step's loss is the first
            keys = self.model.queue.keys
            keys.assign(tf.fill(keys.shape, np.nan))

    monkeypatch.setattr(Progress, "on_batch_end", spoil)
    with pytest.raises(RunError, match="finite up to step 2 of .*not_finite.json"):
        pretrain(config)
    kept = json.loads((config.run_dir / "report" / "not_finite.json").read_text())
    assert [(batch["epoch"], batch["step"]) for batch in kept] == [(2, 2), (2, 3)]
    source = open_source("folder", "train", data_dir=str(tmp_path / "photos"))
    views = two_views(source, batch_size=16, image_size=16, seed=0, start_step=6)
    for batch, expected in zip(kept, views):
        ids = expected["id"].numpy().tolist()
        assert batch["ids"] == ids
        assert batch["files"] == [source.file_names[index] for index in ids]


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
