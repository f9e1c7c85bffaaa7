"""InfoNCE, the queue and the momentum update against slow NumPy oracles."""

import collections
import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from moco_tf.contrast import KeyQueue, contrast, info_nce, move_towards


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_info_nce(query, key, negatives, temperature):
    losses = []
    for q, k in zip(query, key):
        logits = np.array([q @ k, *(q @ n for n in negatives)]) / temperature
        logits -= logits.max()
        losses.append(-logits[0] + math.log(sum(math.exp(x) for x in logits)))
    return np.array(losses)


@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.07, 0.01])
def test_info_nce_equals_a_loop_over_examples(temperature):
    query, key, negatives = (
        unit_rows(n, 16, seed) for seed, n in enumerate((6, 6, 50))
    )
    loss = info_nce(*map(tf.constant, (query, key, negatives)), temperature)
    np.testing.assert_allclose(
        loss, slow_info_nce(query, key, negatives, temperature), rtol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.2, 0.07, 0.01])
def test_info_nce_gradient_equals_finite_differences(temperature):
    query, key, negatives = (unit_rows(n, 5, s) for s, n in enumerate((3, 3, 11)))
    variable = tf.Variable(query)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(info_nce(variable, key, negatives, temperature))
    gradient = tape.gradient(loss, variable).numpy()
    for index in np.ndindex(query.shape):
        step = np.zeros_like(query)
        step[index] = 1e-6
        above = slow_info_nce(query + step, key, negatives, temperature).sum()
        below = slow_info_nce(query - step, key, negatives, temperature).sum()
        assert gradient[index] == pytest.approx(
            (above - below) / 2e-6, rel=2e-4, abs=1e-6
        )


def test_uninformed_encoder_loses_the_logarithm_of_its_choices():
    same = np.ones((4, 8), np.float32) / math.sqrt(8)
    loss = info_nce(same, same, np.repeat(same[:1], 63, 0), 0.2)
    np.testing.assert_allclose(loss, math.log(64), rtol=1e-6)


def test_rank_counts_negatives_that_beat_the_positive():
    query = np.array([[1.0, 0.0]])
    key = np.array([[0.6, 0.8]])
    negatives = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    assert contrast(query, key, negatives, 0.2).rank.numpy().tolist() == [2]


@pytest.mark.parametrize("temperature", [0.2, 0.01])
def test_masked_negatives_leave_loss_and_rank(temperature):
    query, key, negatives = (unit_rows(n, 8, s) for s, n in enumerate((4, 4, 20)))
    masked = np.zeros((4, 20), bool)
    masked[:, 5:9] = True
    kept = np.delete(negatives, np.s_[5:9], axis=0)
    ours = contrast(*map(tf.constant, (query, key, negatives)), temperature, masked)
    theirs = contrast(*map(tf.constant, (query, key, kept)), temperature)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-12)
    np.testing.assert_array_equal(ours.rank, theirs.rank)


@pytest.mark.parametrize("replicas", [1, 2, 8])
@pytest.mark.parametrize("size", [8, 13, 50])
def test_queue_evicts_oldest_key_first_and_loses_none_when_it_wraps(size, replicas):
    strategy = mirrored(replicas)
    with strategy.scope():
        queue = KeyQueue(size, 3)

    @tf.function
    def enqueue(keys, ids):
        strategy.run(queue.enqueue, args=(keys, ids))

    oracle = collections.deque(maxlen=size)
    for batch in range(9):
        keys = np.random.default_rng(batch).normal(size=(8, 3)).astype(np.float32)
        ids = np.arange(8, dtype=np.int64) + 8 * batch
        enqueue(tf.constant(keys), tf.constant(ids))
        oracle.extend(zip(ids, keys))
        held = {
            int(i): key
            for i, key in zip(queue.ids.numpy(), queue.keys.numpy())
            if i >= 0
        }
        assert sorted(held) == sorted(int(i) for i, _ in oracle)
        for i, key in oracle:
            np.testing.assert_array_equal(held[int(i)], key)
        assert int(queue.cursor.numpy()) == 8 * (batch + 1) % size
    copies = strategy.experimental_local_results(queue.keys)
    assert len(copies) == replicas
    for copy in copies:
        np.testing.assert_array_equal(copy.numpy(), queue.keys.numpy())


def test_queue_starts_with_random_unit_rows_of_no_image():
    queue = KeyQueue(64, 16)
    np.testing.assert_allclose(np.linalg.norm(queue.keys, axis=1), 1, rtol=1e-5)
    assert abs(float(tf.reduce_mean(queue.keys))) < 0.02
    assert set(queue.ids.numpy()) == {-1}


def test_queue_refuses_more_keys_than_rows():
    queue = KeyQueue(4, 2)
    with pytest.raises(
        ValueError, match="queue_size=4 is smaller than the global batch"
    ):
        queue.enqueue(tf.zeros((5, 2)), tf.zeros((5,), tf.int64))


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_momentum_moves_targets_and_leaves_sources(replicas):
    strategy = mirrored(replicas)
    with strategy.scope():
        target, source = tf.Variable([1.0, 2.0]), tf.Variable([5.0, -2.0])

    @tf.function
    def move():
        strategy.run(lambda: move_towards([target], [source], 0.9))

    move()
    for copy in strategy.experimental_local_results(target):
        np.testing.assert_allclose(copy.numpy(), [1.4, 1.6], rtol=1e-6)
    np.testing.assert_array_equal(source.numpy(), [5, -2])


def test_momentum_refuses_lists_of_two_architectures():
    with pytest.raises(ValueError, match="1 target variables cannot follow 0"):
        move_towards([tf.Variable(1.0)], [], 0.9)
