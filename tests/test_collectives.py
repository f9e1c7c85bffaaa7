"""Replicas that exchange values by collectives, as GPUs do, learn the same."""

import numpy as np
import pytest
from conftest import mirrored
from tensorflow import keras
from tiny import noise_batches, small_encoder

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


def made(method, replicas, collectives):
    keras.utils.set_random_seed(1)
    with mirrored(replicas, collectives).scope():
        model = getattr(moco_tf, method)(small_encoder(), **METHODS[method])
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


# Two: a collective holds a thread until all replicas have come, and eight would wait
# for each other on a machine of two cores.
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
