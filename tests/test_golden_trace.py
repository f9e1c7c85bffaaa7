"""Lock-step with the reference: 30 recorded steps replayed through `fit`."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from records import arrays, digest, starting_state, views
from tensorflow import keras

import moco_tf


def _dataset(inputs, permutations, dtype):
    query, key = (
        np.stack([views(inputs, *step, dtype) for step in zip(inputs["index"], crops)])
        for crops in (inputs["crop_q"], inputs["crop_k"])
    )
    key = np.stack([k[idx] for k, idx in zip(key, permutations)])
    batches = {
        "query": query,
        "key": key,
        "position": permutations.astype(np.int32),
        "id": inputs["index"],
    }
    return tf.data.Dataset.from_tensor_slices(batches)


class StepLosses(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        self.model.reset_metrics()


def _replay(reference, version, world, dtype, policy, steps=30):
    policy(dtype)
    trace = arrays(reference / f"trace_{version}_w{world}.npz")
    inputs = arrays(reference / "inputs_train.npz")
    with mirrored(world).scope():
        encoder = moco_tf.encoders.ResNet((1, 1, 1, 1), "bottleneck", width=8)
        model = moco_tf.MoCo(
            encoder,
            projection="mlp" if trace["meta/mlp"] else "linear",
            dim=int(trace["meta/dim"]),
            queue_size=int(trace["meta/K"]),
            key_momentum=float(trace["meta/m"]),
            temperature=float(trace["meta/T"]),
        )
        lr = trace["trace/lr"]
        model.compile(
            moco_tf.optimizers.SGD(
                moco_tf.optimizers.make_schedule(
                    "cosine" if trace["meta/cos"] else "step",
                    float(trace["meta/lr"]),
                    epochs=3,
                    steps_per_epoch=10,
                    milestones=(1, 2),
                    per_epoch=True,
                ),
                momentum=float(trace["meta/sgd_momentum"]),
                weight_decay=float(trace["meta/weight_decay"]),
            )
        )
    schedule = model.optimizer._learning_rate
    np.testing.assert_allclose(
        [float(schedule(tf.constant(s, tf.int64))) for s in range(30)], lr, rtol=1e-12
    )
    start = starting_state(reference, version)
    moco_tf.interchange.load_torch_state_dict(model, start)
    losses = StepLosses()
    dataset = _dataset(inputs, trace["trace/idx_shuffle"], dtype).take(steps)
    model.fit(dataset, verbose=0, callbacks=[losses])
    return model, np.array(losses.losses), trace


def _largest(ours, theirs):
    scale = max(np.abs(theirs).max(), 1e-30)
    return np.abs(ours - theirs).max() / scale


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_float64_replay_equals_reference(reference, policy, version, world):
    model, losses, trace = _replay(reference, version, world, "float64", policy)
    np.testing.assert_allclose(losses, trace["trace/loss_mean"], rtol=1e-8)
    state = moco_tf.interchange.to_torch_state_dict(model)
    whole = [name for name in trace if name.startswith("final/")]
    for name in whole:
        assert _largest(state[name[len("final/") :]], trace[name]) < 1e-6, name
    digests = [name for name in trace if name.startswith("digest/")]
    for name in digests:
        expected = trace[name]
        found = digest(state[name[len("digest/") :]])
        assert np.abs(found - expected).max() < 1e-6 * expected[0], name
    # Everything but the counters, of both encoders.
    assert len(whole) + len(digests) == {"v1": 176, "v2": 180}[version]


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_float32_first_step_equals_reference(reference, policy, version, world):
    model, losses, trace = _replay(reference, version, world, "float32", policy, 1)
    np.testing.assert_allclose(losses[0], trace["f32/loss_mean"][0], rtol=5e-6)
    assert int(model.queue.cursor.numpy()) == 32
