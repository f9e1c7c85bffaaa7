"""The memory bank against a slow oracle, its draws, and replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tiny import EIGHT, assert_trained_alike, noise_batches, small_encoder

from moco_tf.contrast import SlotBank, bank_bytes
from moco_tf.encoders.encode import encode
from moco_tf.methods import MemoryBank
from moco_tf.optimizers import SGD


def memory_bank(groups=1, rate=1.0, **kwargs):
    arguments = {"num_examples": 48, "dim": 5, "num_negatives": 20, **kwargs}
    model = MemoryBank(
        small_encoder(), temperature=0.3, bn_groups=groups, seed=7, **arguments
    )
    model.compile(SGD(rate, momentum=0.0, weight_decay=0.0))
    return model


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("proximal", [0.0, 0.7])
def test_steps_equal_a_loop_over_images(policy, proximal):
    policy("float64")
    model = memory_bank(proximal=proximal, slot_momentum=0.4)
    slots = model.bank.slots.numpy()
    met = 0
    assert 0.5 < np.linalg.norm(slots, axis=1).mean() < 1.5
    for step, batch in enumerate(noise_batches(3)):
        drawn = model.bank.draw(20, step).numpy()
        ids = batch["id"].numpy()
        met += len(set(ids) & set(drawn))
        images = tf.cast(batch["query"], "float64")
        with tf.GradientTape() as tape:
            query = tf.math.l2_normalize(model.query_encoder(images, training=True), 1)
            losses, penalties = [], []
            for n, image in enumerate(ids):
                logits = [
                    tf.reduce_sum(query[n] * slot) / 0.3
                    for slot in [slots[image], *slots[drawn[drawn != image]]]
                ]
                losses.append(tf.reduce_logsumexp(tf.stack(logits)) - logits[0])
                penalties.append(tf.reduce_sum((query[n] - slots[image]) ** 2))
            loss, penalty = tf.add_n(losses) / 16, tf.add_n(penalties) / 16
            total = loss + proximal * penalty
        gradients = tape.gradient(total, model.trained_variables)
        for n, image in enumerate(ids):
            moved = 0.4 * slots[image] + 0.6 * query[n].numpy()
            slots[image] = moved / math.sqrt(sum(x * x for x in moved))
        before = [v.numpy() for v in model.trained_variables]
        data = tf.data.Dataset.from_tensors(batch)
        logs = model.fit(data, verbose=0).history
        assert logs["loss"][0] == pytest.approx(float(loss), rel=1e-9)
        for old, new, gradient in zip(before, model.trained_variables, gradients):
            np.testing.assert_allclose(
                old - new.numpy(), gradient, rtol=1e-6, atol=1e-11
            )
        np.testing.assert_allclose(model.bank.slots.numpy(), slots, rtol=1e-9)
    assert met  # own slots have been drawn and left out


@pytest.mark.parametrize("replicas", [2, EIGHT])
def test_replicas_match_one_replica_with_as_many_groups(policy, replicas):
    policy("float64")
    one, strategy = memory_bank(groups=replicas), mirrored(replicas)
    with strategy.scope():
        many = memory_bank()
    assert_trained_alike(one, many, noise_batches(3))
    copies = strategy.experimental_local_results(many.bank.slots)
    assert len(copies) == replicas
    for copy in copies:
        np.testing.assert_allclose(copy.numpy(), one.bank.slots.numpy(), rtol=1e-6)


def test_draws_are_uniform_with_replacement_and_new_at_each_step():
    bank = SlotBank(50, 2, seed=3)
    draws = np.stack([bank.draw(400, step).numpy() for step in range(100)])
    assert draws.min() == 0 and draws.max() == 49
    counts = np.bincount(draws.ravel(), minlength=50)
    # 49 degrees of freedom: the statistic is 49 +- 10.
    statistic = np.sum((counts - 800) ** 2 / 800)
    assert 20 < statistic < 95
    # As many slots of a draw occur once, twice, ... as independence gives.
    absent = np.mean([len(set(draw[:50])) for draw in draws]) / 50
    assert absent == pytest.approx(1 - (1 - 1 / 50) ** 50, abs=0.02)
    assert len({tuple(draw) for draw in draws}) == 100
    correlation = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(correlation) < 0.02


def test_same_seed_and_step_draw_the_same_slots_and_another_seed_others():
    first, twin, other = (SlotBank(1000, 2, seed=seed) for seed in (1, 1, 2))
    step = tf.constant(12, tf.int64)
    np.testing.assert_array_equal(first.draw(30, step), twin.draw(30, step))
    assert (first.draw(30, step).numpy() != other.draw(30, step).numpy()).any()


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_every_replica_writes_the_same_rows_and_no_others(replicas):
    strategy = mirrored(replicas)
    with strategy.scope():
        bank = SlotBank(12, 4, momentum=0.5)
    before = bank.slots.numpy()
    rows = unit(np.random.default_rng(0).normal(size=(3, 4))).astype(np.float32)

    @tf.function
    def update(ids, rows):
        strategy.run(bank.update, args=(ids, rows))

    update(tf.constant([7, 0, 11], tf.int64), tf.constant(rows))
    expected = before.copy()
    expected[[7, 0, 11]] = unit(0.5 * before[[7, 0, 11]] + 0.5 * rows)
    copies = strategy.experimental_local_results(bank.slots)
    assert len(copies) == replicas
    for copy in copies:
        np.testing.assert_allclose(copy.numpy(), expected, rtol=1e-6)


def test_step_reads_slots_without_copying_the_bank():
    model = memory_bank()
    model.fit(noise_batches(1), verbose=0)
    graph = model.train_tf_function.get_concrete_function(
        next(iter(noise_batches(1)))
    ).graph
    whole = [
        op
        for op in graph.get_operations()
        if op.type == "ReadVariableOp" and op.outputs[0].shape == (48, 5)
    ]
    assert not [op for op in whole if op.outputs[0].consumers()]


def test_bank_takes_the_memory_that_is_stated():
    bank = SlotBank(1000, 16)
    assert bank_bytes(1000, 16) == bank.slots.numpy().nbytes
    assert bank_bytes(1_281_167) == 1_281_167 * 128 * 4


def test_batch_norm_groups_are_those_of_the_model(policy):
    policy("float64")
    model = memory_bank(groups=4)
    batch = next(iter(noise_batches(1)))
    images = tf.cast(batch["query"], "float64")
    query = unit(encode(model.query_encoder, images, 4).numpy())
    model.fit(noise_batches(1), verbose=0)
    np.testing.assert_allclose(model.recent.keys.numpy()[:16], query, rtol=1e-9)


def test_ids_beyond_the_bank_are_refused():
    model = memory_bank(num_examples=10)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="not below num_examples=10"
    ):
        model.fit(noise_batches(1), verbose=0)


def test_batch_without_ids_is_refused():
    data = noise_batches(1).map(lambda batch: {k: batch[k] for k in ("query", "key")})
    with pytest.raises(ValueError, match='no "id"'):
        memory_bank().fit(data, verbose=0)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"num_examples": 0}, "num_examples=0"),
        ({"num_negatives": 0}, "num_negatives=0"),
        ({"slot_momentum": 1.0}, "slot_momentum=1.0 is outside"),
        ({"proximal": -1.0}, "proximal=-1.0 is negative"),
    ],
)
def test_values_out_of_range_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        memory_bank(**arguments)
