"""The end-to-end mechanism against slow oracles, alone and on replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tiny import (
    EIGHT,
    assert_trained_alike,
    central_differences,
    noise_batches,
    small_encoder,
)

from moco_tf.contrast import in_batch
from moco_tf.exchange import in_order
from moco_tf.methods import EndToEnd
from moco_tf.methods.views import own_positions
from moco_tf.optimizers import SGD


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_losses(query, key, temperature):
    """Loss of each query among all keys, one exponential at a time."""
    query, key, losses = unit(query), unit(key), []
    for n, row in enumerate(query):
        logits = [row @ other / temperature for other in key]
        losses.append(math.log(sum(math.exp(x) for x in logits)) - logits[n])
    return np.array(losses)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.02])
@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_loss_and_gradients_of_both_sides_equal_a_loop(replicas, temperature):
    random = np.random.default_rng(0)
    query, key = random.normal(size=(2, 8, 4))
    position = random.permutation(8).astype(np.int32)
    strategy = mirrored(replicas)
    share = 8 // replicas

    def on_replica():
        order = own_positions(share)
        places = tf.gather(tf.constant(position), order)
        raw = tf.constant(query), tf.constant(key)
        with tf.GradientTape() as tape:
            tape.watch(raw)
            queries, keys = (tf.math.l2_normalize(rows, axis=1) for rows in raw)
            # Each replica has encoded the keys that the permutation gave it.
            keys = in_order(tf.gather(keys, places), places)
            result = in_batch(tf.gather(queries, order), keys, order, temperature)
            loss = tf.reduce_mean(result.loss) / replicas
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, raw)]
        return result.loss, gradients

    losses, gradients = tf.function(lambda: strategy.run(on_replica))()
    local = strategy.experimental_local_results
    np.testing.assert_allclose(
        tf.concat(local(losses), 0), slow_losses(query, key, temperature), rtol=1e-9
    )
    slow = central_differences(
        lambda q, k: slow_losses(q, k, temperature).mean(), query, key
    )
    for ours, theirs in zip(gradients, slow):
        assert np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(
            np.sum([g.numpy() for g in local(ours)], axis=0),
            theirs,
            atol=1e-6 * max(1, np.abs(theirs).max()),
        )


def test_figures_beside_the_loss_equal_a_loop():
    random = np.random.default_rng(1)
    query, key = (unit(rows) for rows in random.normal(size=(2, 7, 3)))
    positive, ignored = np.array([3, 0, 5, 6, 2, 1, 4]), np.array([0, 1, 2, 3, 4, 5, 6])
    result = in_batch(*map(tf.constant, (query, key, positive)), 0.2, ignored)
    negatives, ranks, losses = [], [], []
    for q, p, i in zip(query, positive, ignored):
        others = [q @ k for n, k in enumerate(key) if n not in (p, i)]
        negatives += others
        ranks.append(sum(s > q @ key[p] for s in others))
        total = sum(math.exp(s / 0.2) for s in [*others, q @ key[p]])
        losses.append(math.log(total) - q @ key[p] / 0.2)
    np.testing.assert_allclose(result.loss, losses, rtol=1e-12)
    assert result.rank.numpy().tolist() == ranks and max(ranks) > 0
    np.testing.assert_allclose(
        result.positive_similarity, np.sum(query * key[positive], axis=1)
    )
    assert float(result.negative_similarity) == pytest.approx(np.mean(negatives))


def end_to_end(groups=1):
    model = EndToEnd(small_encoder(), dim=5, temperature=0.5, bn_groups=groups)
    model.compile(SGD(1.0, momentum=0.0, weight_decay=0.0))
    return model


def test_step_moves_each_encoder_by_the_gradient_of_its_own_side(policy):
    policy("float64")
    model = end_to_end()
    random = np.random.default_rng(5)
    for variable in model.trained_variables:  # so that the two sides differ
        variable.assign_add(0.1 * random.normal(size=variable.shape))
    batch = next(iter(noise_batches(1)))
    position = batch["position"].numpy()
    encoders = (model.query_encoder, model.key_encoder)
    with tf.GradientTape(persistent=True) as tape:
        query, key = (
            tf.math.l2_normalize(encoder(tf.cast(images, "float64"), training=True), 1)
            for encoder, images in zip(encoders, (batch["query"], batch["key"]))
        )
        losses = []
        for n in range(16):
            logits = [tf.reduce_sum(query[n] * key[m]) / 0.5 for m in range(16)]
            own = logits[list(position).index(n)]
            losses.append(tf.reduce_logsumexp(tf.stack(logits)) - own)
        loss = tf.add_n(losses) / 16
    expected = [
        tape.gradient(loss, encoder.trainable_variables) for encoder in encoders
    ]
    before = [v.numpy() for v in model.trained_variables]
    logs = model.fit(noise_batches(1), verbose=0).history
    assert logs["loss"][0] == pytest.approx(float(loss), rel=1e-9)
    for old, new, gradient in zip(before, model.trained_variables, sum(expected, [])):
        np.testing.assert_allclose(old - new.numpy(), gradient, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("replicas", [2, EIGHT])
def test_replicas_match_one_replica_with_as_many_groups(policy, replicas):
    policy("float64")
    one = end_to_end(groups=replicas)
    with mirrored(replicas).scope():
        many = end_to_end()
    assert_trained_alike(one, many, noise_batches(2))
    np.testing.assert_allclose(
        many.recent.keys.numpy()[:32], one.recent.keys.numpy()[:32], rtol=1e-6
    )
    np.testing.assert_array_equal(many.recent.ids.numpy(), one.recent.ids.numpy())
