"""MoCo in both directions, as the official CIFAR-10 demo trains."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tiny import EIGHT, assert_trained_alike, noise_batches, small_encoder

import moco_tf
from moco_tf.encoders import clone
from moco_tf.encoders.encode import encode
from moco_tf.optimizers import SGD


def symmetric_moco(groups=1, rate=1.0, **kwargs):
    arguments = {"queue_size": 48, "key_momentum": 0.9, "symmetric": True, **kwargs}
    model = moco_tf.MoCo(
        small_encoder(), dim=5, temperature=0.3, bn_groups=groups, **arguments
    )
    model.compile(SGD(rate, momentum=0.0, weight_decay=0.0))
    return model


def unit(encoder, images, groups):
    return tf.math.l2_normalize(encode(encoder, images, groups), axis=1)


@pytest.mark.parametrize("mask", [False, True])
def test_step_equals_the_demo_written_out(policy, mask):
    policy("float64")
    model = symmetric_moco(groups=2, mask_same_image=mask)
    random = np.random.default_rng(4)
    for variable in model.key_encoder.trainable_variables:
        variable.assign_add(0.1 * random.normal(size=variable.shape))
    queue = model.queue.keys.numpy()
    batch = next(iter(noise_batches(1)))
    position, ids = batch["position"].numpy(), batch["id"].numpy()
    held = random.permutation(48)  # the queue holds a key of each image of the batch
    model.queue.ids.assign(held)
    first, second = (tf.cast(batch[view], "float64") for view in ("query", "key"))
    query_encoder, key_encoder = clone(model.query_encoder), clone(model.key_encoder)
    for key, query in zip(
        key_encoder.trainable_variables, query_encoder.trainable_variables
    ):
        key.assign(0.9 * key + 0.1 * query)

    def slow_loss(queries, keys, images):
        losses = []
        for query, key, image in zip(tf.unstack(queries), keys, images):
            logits = [tf.reduce_sum(query * key) / 0.3]
            negatives = queue[held != image] if mask else queue
            logits += [tf.reduce_sum(query * row) / 0.3 for row in negatives]
            losses.append(tf.reduce_logsumexp(tf.stack(logits)) - logits[0])
        return tf.add_n(losses) / len(losses)

    with tf.GradientTape() as tape:
        query1 = unit(query_encoder, first, 2)
        key2 = unit(key_encoder, second, 2).numpy()[np.argsort(position)]
        loss12 = slow_loss(query1, key2, ids)
        query2 = unit(query_encoder, second, 2)
        key1 = unit(key_encoder, first, 2).numpy()
        loss21 = slow_loss(query2, key1[position], ids[position])
        loss = loss12 + loss21
    gradients = tape.gradient(loss, query_encoder.trainable_variables)
    before = [v.numpy() for v in model.trained_variables]
    logs = model.fit(noise_batches(1), verbose=0).history
    assert logs["loss"][0] == pytest.approx(float(loss) / 2, rel=1e-9)
    for old, new, gradient in zip(before, model.trained_variables, gradients):
        np.testing.assert_allclose(old - new.numpy(), gradient, rtol=1e-6, atol=1e-11)
    np.testing.assert_allclose(model.queue.keys[:16], key1, rtol=1e-9)
    np.testing.assert_allclose(model.queue.keys[16:32], key2, rtol=1e-9)
    np.testing.assert_array_equal(model.queue.keys[32:], queue[32:])
    np.testing.assert_array_equal(model.queue.ids[:32], [*ids, *ids])
    assert int(model.queue.cursor) == 32
    for ours, theirs in (
        (model.query_encoder, query_encoder),
        (model.key_encoder, key_encoder),
    ):
        mine, its = ours.get_layer("bn1"), theirs.get_layer("bn1")
        np.testing.assert_allclose(mine.moving_mean, its.moving_mean, rtol=1e-9)
        np.testing.assert_allclose(mine.moving_variance, its.moving_variance, rtol=1e-9)


@pytest.mark.parametrize("replicas", [2, EIGHT])
def test_replicas_match_one_replica_with_as_many_groups(policy, replicas):
    policy("float64")
    one = symmetric_moco(groups=replicas)
    with mirrored(replicas).scope():
        many = symmetric_moco()
    assert_trained_alike(one, many, noise_batches(2))
    np.testing.assert_allclose(
        many.queue.keys.numpy(), one.queue.keys.numpy(), rtol=1e-6
    )
    np.testing.assert_array_equal(many.queue.ids.numpy(), one.queue.ids.numpy())


def test_keys_of_both_views_are_masked_for_their_own_image():
    data = tf.data.Dataset.from_tensors(next(iter(noise_batches(1)))).repeat(2)
    model = symmetric_moco(mask_same_image=True)
    logs = model.fit(data, verbose=0).history
    # In the second of two steps each query meets its own image twice among 48 keys.
    assert logs["false_negative_rate"][0] == pytest.approx(1 / 48, rel=1e-5)
    assert math.isfinite(logs["loss"][0])


def test_order_of_the_keys_does_not_matter_without_batch_norm_in_between():
    def plain_encoder():
        images = tf.keras.Input((None, None, 3))
        x = tf.keras.layers.Conv2D(8, 3, 2)(images)
        return tf.keras.Model(images, tf.keras.layers.GlobalMaxPooling2D()(x))

    losses = []
    for shuffled in (True, False):
        model = moco_tf.MoCo(
            plain_encoder(), dim=5, queue_size=48, key_momentum=0.5, symmetric=True
        )
        random = np.random.default_rng(0)
        for weight in model.query_encoder.weights + model.key_encoder.weights:
            weight.assign(random.normal(size=weight.shape))
        model.queue.keys.assign(random.normal(size=(48, 5)) / 2)
        model.compile(SGD(0.1))
        batch = next(iter(noise_batches(1)))
        if not shuffled:
            key = tf.gather(batch["key"], tf.argsort(batch["position"]))
            batch = {**batch, "key": key, "position": tf.range(16)}
        data = tf.data.Dataset.from_tensors(batch)
        losses.append(model.fit(data.repeat(3), verbose=0).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_queue_must_hold_the_keys_of_both_views():
    model = symmetric_moco(queue_size=24)
    with pytest.raises(ValueError, match="queue_size=24 is smaller"):
        model.fit(noise_batches(1), verbose=0)
