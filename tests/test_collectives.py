"""Replicas that exchange values by collectives, as GPUs do, learn the same."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import mirrored
from tensorflow import keras
from tiny import assert_trained_alike, noise_batches, small_encoder

import moco_tf
from moco_tf.callbacks import Checkpoints
from moco_tf.optimizers import SGD

METHODS = {
    "MoCo": {"queue_size": 48, "dim": 4, "bn_groups": 1},
    "SimCLR": {"dim": 4},
    "MoCoV3": {"dim": 4, "hidden": 8, "total_steps": 8},
    "EndToEnd": {"dim": 4, "bn_groups": 1},
    "MemoryBank": {"dim": 4, "bn_groups": 1, "num_examples": 64, "num_negatives": 8},
}


def made(method, replicas, collectives, **changed):
    keras.utils.set_random_seed(1)
    with mirrored(replicas, collectives).scope():
        settings = {**METHODS[method], **changed}
        model = getattr(moco_tf, method)(small_encoder(), **settings)
        model.compile(SGD(0.05, weight_decay=1e-4))
    return model


def trained(method, replicas, collectives, folder):
    """Losses of two epochs, the second of a model restored, and the weights."""
    batches, losses = noise_batches(2), []
    for epoch in (0, 1):
        model = made(method, replicas, collectives)
        checkpoints = Checkpoints(folder)
        checkpoints.set_model(model)
        assert checkpoints.restore() == epoch
        fitted = model.fit(batches, epochs=epoch + 1, initial_epoch=epoch, verbose=0,
                           callbacks=[checkpoints])  # fmt: skip
        losses += fitted.history["loss"]
    return losses, [weight.numpy() for weight in model.trained_variables]


@pytest.mark.parametrize(
    "method",
    [
        *("MoCo", "SimCLR"),
        *(pytest.param(m, marks=pytest.mark.slow) for m in list(METHODS)[2:]),
    ],
)
def test_training_and_resuming_by_collectives(method, policy, tmp_path):
    policy("float64")
    plain, collective = (
        trained(method, 2, way, tmp_path / str(way)) for way in (False, True)
    )
    np.testing.assert_allclose(plain[0], collective[0], rtol=1e-9)
    for one, other in zip(plain[1], collective[1]):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    "method",
    ["MoCo", *(pytest.param(m, marks=pytest.mark.slow) for m in list(METHODS)[1:])],
)
def test_eight_replicas_by_collectives_match_one(method):
    # A collective holds a thread until all replicas have come, and TensorFlow has as
    # many for them as the machine has cores.
    environment = {**os.environ, "TF_NUM_INTEROP_THREADS": "16"}
    done = subprocess.run(
        [sys.executable, __file__, method], env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def eight_against_one(method):
    keras.mixed_precision.set_global_policy("float64")
    grouped = {"bn_groups": 8} if "bn_groups" in METHODS[method] else {}
    one = made(method, 1, False, **grouped)
    assert_trained_alike(one, made(method, 8, True), noise_batches(3))


if __name__ == "__main__":
    eight_against_one(sys.argv[1])
