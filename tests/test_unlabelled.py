"""Quality without labels, against loops, and how a run measures it."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from run_files import history
from test_pretrain import small
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf.callbacks import FeatureQuality
from moco_tf.evaluation.unlabelled import alignment, quality, rankme, uniformity
from moco_tf.optimizers import SGD
from moco_tf.pretrain import pretrain


def unit(row):
    return row / math.sqrt(sum(value**2 for value in row))


def test_rankme_counts_dimensions():
    random = np.random.default_rng(0)
    for rank in (1, 3, 8):
        # Orthogonal directions of equal weight, turned anyhow.
        turn = np.linalg.qr(random.normal(size=(8, 8)))[0]
        features = np.repeat(np.eye(8)[:rank], 4, axis=0) @ turn
        assert rankme(features) == pytest.approx(rank, rel=1e-3)
    values = np.array([3.0, 1.0])
    shares = values / 4
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert rankme(np.diag(values)) == pytest.approx(expected, rel=1e-5)
    assert rankme(np.zeros((4, 3))) == pytest.approx(1, rel=1e-4)


def test_alignment_and_uniformity_are_those_of_a_loop():
    query, key = np.random.default_rng(0).normal(size=(2, 7, 5))
    distances = [sum((unit(q) - unit(k)) ** 2) for q, k in zip(query, key)]
    assert alignment(query, key) == pytest.approx(np.mean(distances))
    assert alignment(query, 3 * query) == pytest.approx(0)
    assert alignment(query, -query) == pytest.approx(4)
    pairs = [
        math.exp(-2 * sum((unit(query[i]) - unit(query[j])) ** 2))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert uniformity(query) == pytest.approx(math.log(np.mean(pairs)))
    assert uniformity(np.ones((3, 4))) == pytest.approx(0)


def test_features_that_are_not_finite_have_no_quality():
    broken = np.full((3, 2), np.nan)
    assert all(math.isnan(value) for value in quality(broken, broken).values())


@pytest.mark.parametrize("replicas", [1, 2])
def test_quality_is_of_the_backbone_at_the_epochs_asked_for(replicas):
    with mirrored(replicas).scope():
        model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32, bn_groups=1)
        model.compile(SGD(0.1))
    fixed = noise_batches(2, shuffled=False, seed=1).map(
        lambda batch: {view: batch[view] for view in ("query", "key")}
    )
    logs = {}
    probe = FeatureQuality(fixed, every=2)
    keep = tf.keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, seen: logs.update({epoch: dict(seen)})
    )
    model.fit(noise_batches(2), epochs=3, callbacks=[probe, keep], verbose=0)
    assert ["rankme" in logs[epoch] for epoch in range(3)] == [False, True, True]
    query, key = (
        np.concatenate([model.encoder(batch[view]).numpy() for batch in fixed])
        for view in ("query", "key")
    )
    found = {name: logs[2][name] for name in ("rankme", "alignment", "uniformity")}
    assert found == pytest.approx(quality(query, key), rel=1e-4)


@pytest.mark.usefixtures("bare")
def test_a_run_without_labels_has_its_quality(tmp_path):
    pretrain(small(tmp_path, "monitor.every=0", "log.quality_images=64"))
    rows = history(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["rankme"]) >= 1 for row in rows)
    assert len({row["uniformity"] for row in rows}) == 3
