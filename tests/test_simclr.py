"""SimCLR and NT-Xent against slow oracles, alone and on replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tiny import central_differences, noise_batches, small_encoder

from moco_tf.contrast import nt_xent
from moco_tf.exchange import gather, in_order
from moco_tf.methods import SimCLR
from moco_tf.methods.views import own_positions
from moco_tf.optimizers import SGD


def slow_nt_xent(first, second, temperature):
    """Loss of every view, first views first, one exponential at a time."""
    views = np.concatenate([first, second])
    views = views / np.linalg.norm(views, axis=1, keepdims=True)
    count, losses = len(first), []
    for i, view in enumerate(views):
        logits = [view @ other / temperature for other in views]
        total = sum(math.exp(x) for j, x in enumerate(logits) if j != i)
        losses.append(math.log(total) - logits[(i + count) % (2 * count)])
    return np.array(losses)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_nt_xent_and_its_gradient_equal_a_loop_over_views(replicas, temperature):
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 8, 5))
    position = random.permutation(8).astype(np.int32)
    strategy = mirrored(replicas)
    share = 8 // replicas

    def on_replica():
        start = share * tf.convert_to_tensor(
            tf.distribute.get_replica_context().replica_id_in_sync_group
        )
        order, places = own_positions(share), tf.constant(position)
        places = places[start : start + share]
        raw = tf.constant(first), tf.constant(second)
        with tf.GradientTape() as tape:
            tape.watch(raw)
            unit = [tf.math.l2_normalize(views, axis=1) for views in raw]
            query, key = tf.gather(unit[0], order), tf.gather(unit[1], places)
            result = nt_xent(
                tf.concat([query, key], 0),
                tf.concat([gather(query), in_order(key, places)], 0),
                own=tf.concat([order, 8 + places], 0),
                other=tf.concat([8 + order, places], 0),
                temperature=temperature,
            )
            loss = tf.reduce_mean(result.loss) / replicas
        gradient = [tf.convert_to_tensor(g) for g in tape.gradient(loss, raw)]
        return result.loss, gradient, result.negative_similarity

    losses, gradients, similarity = tf.function(lambda: strategy.run(on_replica))()
    local = strategy.experimental_local_results
    expected = slow_nt_xent(first, second, temperature)
    for replica, loss in enumerate(local(losses)):
        rows = np.arange(replica * share, (replica + 1) * share)
        rows = np.concatenate([rows, 8 + position[rows]])
        np.testing.assert_allclose(loss, expected[rows], rtol=1e-9)
    slow = central_differences(
        lambda a, b: slow_nt_xent(a, b, temperature).mean(), first, second
    )
    for ours, theirs in zip(gradients, slow):
        total = np.sum([g.numpy() for g in local(ours)], axis=0)
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(total, theirs, atol=1e-6 * max(1, scale))
    views = np.concatenate([first, second])
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    table = views @ views.T
    others = ~(np.eye(16, dtype=bool) | np.roll(np.eye(16, dtype=bool), 8, axis=1))
    mean = np.mean([value.numpy() for value in local(similarity)])
    assert mean == pytest.approx(table[others].mean(), abs=1e-12)


def test_uninformed_encoder_loses_the_logarithm_of_its_choices():
    same = tf.fill((10, 4), 0.5)
    loss = nt_xent(same, same, tf.range(10), (tf.range(10) + 5) % 10, 0.1).loss
    np.testing.assert_allclose(loss, math.log(9), rtol=1e-6)


def test_rank_counts_neither_the_view_itself_nor_its_partner():
    angles = np.array([0.0, 2.0, 0.5, 2.2])
    views = tf.constant(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    result = nt_xent(views, views, tf.range(4), tf.constant([2, 3, 0, 1]), 0.1)
    assert result.rank.numpy().tolist() == [0, 0, 0, 0]
    angles[2] = 4.0
    views = tf.constant(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    result = nt_xent(views, views, tf.range(4), tf.constant([2, 3, 0, 1]), 0.1)
    assert result.rank.numpy().tolist() == [2, 0, 2, 0]


def simclr(rate=1.0, **kwargs):
    model = SimCLR(small_encoder(), dim=5, temperature=0.5, **kwargs)
    model.compile(SGD(rate, momentum=0.0, weight_decay=0.0))
    return model


def test_step_moves_the_encoder_by_the_gradient_of_all_views_at_once(policy):
    policy("float64")
    model = simclr()
    batch = next(iter(noise_batches(1)))
    partner = np.concatenate([16 + np.argsort(batch["position"]), batch["position"]])
    images = tf.cast(tf.concat([batch["query"], batch["key"]], 0), "float64")
    with tf.GradientTape() as tape:
        views = tf.math.l2_normalize(model.query_encoder(images, training=True), 1)
        losses = []
        for i in range(32):
            logits = {j: tf.tensordot(views[i], views[j], 1) * 2 for j in range(32)}
            others = tf.stack([logits[j] for j in range(32) if j != i])
            losses.append(tf.reduce_logsumexp(others) - logits[partner[i]])
        loss = tf.add_n(losses) / 32
    gradients = tape.gradient(loss, model.trained_variables)
    before = [v.numpy() for v in model.trained_variables]
    logs = model.fit(noise_batches(1), verbose=0).history
    assert logs["loss"][0] == pytest.approx(float(loss), rel=1e-9)
    for old, new, gradient in zip(before, model.trained_variables, gradients):
        np.testing.assert_allclose(old - new.numpy(), gradient, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("replicas", [2, 8])
def test_gradients_on_replicas_equal_those_of_one_with_the_whole_batch(
    policy, replicas
):
    policy("float64")
    with mirrored(replicas).scope():
        many = simclr()
    one = simclr()
    many.set_weights(one.get_weights())
    before = [v.numpy() for v in one.trained_variables]
    for model in (one, many):
        model.logs_ = model.fit(noise_batches(1), verbose=0).history
    for name in ("loss", "positive_similarity", "negative_similarity"):
        assert many.logs_[name] == pytest.approx(one.logs_[name], rel=1e-9), name
    # At rate 1 without momentum a step is the gradient.
    for old, ours, theirs in zip(before, many.trained_variables, one.trained_variables):
        gradient = old - theirs.numpy()
        assert np.abs(gradient).max() > 1e-4
        np.testing.assert_allclose(
            old - ours.numpy(), gradient, atol=1e-9 * np.abs(gradient).max()
        )
    for ours, theirs in zip(many.query_encoder.weights, one.query_encoder.weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(
        many.recent.keys.numpy()[:16], one.recent.keys.numpy()[:16], rtol=1e-8
    )
