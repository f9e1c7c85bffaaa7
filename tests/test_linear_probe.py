"""The linear probe that monitors a run."""

import tracemalloc

import numpy as np
import pytest
from clusters import clusters

from moco_tf.evaluation import linear_accuracy
from moco_tf.evaluation.linear.logistic import standardise


def test_linear_probe_matches_best_scikit_learn_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    scale = np.geomspace(0.01, 100, 24)  # standardisation must undo this
    train, train_labels = clusters(3000)
    test, test_labels = clusters(2000, seed=1)
    oracle = max(
        linear_model.LogisticRegression(C=C, max_iter=500)
        .fit(train, train_labels)
        .score(test, test_labels)
        for C in (1e-4, 1e-3, 1e-2, 1e-1)
    )
    got = linear_accuracy(
        train * scale + 5, train_labels, test * scale + 5, test_labels
    )
    assert got == pytest.approx(oracle, abs=0.015)


def test_linear_probe_is_decided_by_its_seed():
    train, train_labels = clusters(300)
    test, test_labels = clusters(500, seed=1)
    arguments = (train, train_labels, test, test_labels)
    runs = [linear_accuracy(*arguments, steps=50, seed=3) for _ in range(2)]
    assert runs[0] == runs[1]


def test_linear_probe_on_noise_is_chance():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 16))
    labels = rng.integers(0, 10, 3000)
    got = linear_accuracy(
        features[:1000], labels[:1000], features[1000:], labels[1000:]
    )
    assert 0.06 < got < 0.14


def test_linear_probe_survives_collapsed_features():
    features = np.full((50, 8), 3.0, np.float32)
    labels = np.arange(50) % 2
    assert linear_accuracy(features, labels, features, labels, steps=20) == 0.5


def test_standardising_is_exact_and_takes_little_more_than_its_result():
    rng = np.random.default_rng(0)
    train = rng.normal(7, 0.1, (30_000, 32)).astype(np.float32)
    train[:, 3] = 0.1
    test = train[:100] + 1
    tracemalloc.start()
    rows, queries = standardise(train, test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The result and one temporary, both float32.
    assert peak < 2.5 * train.nbytes
    exact = train.astype(np.float64)
    std = np.where(np.arange(32) == 3, 1, exact.std(axis=0))
    for got, part in ((rows, train), (queries, test)):
        assert got.dtype == np.float32
        expected = (part - exact.mean(axis=0)) / std
        np.testing.assert_allclose(got, expected, atol=2e-5)


def test_linear_probe_keeps_sparse_labels():
    features, labels = clusters(200, noise=0.1)
    names = np.array([7, 1000, 3, 5, 0])[labels]
    assert linear_accuracy(features, names, features, names, steps=200) == 1.0


def test_linear_probe_explains_bad_input():
    features, labels = clusters(20)
    with pytest.raises(ValueError, match="20 of 20 .*linear probe"):
        linear_accuracy(features, np.full(20, -1), features, labels)
    with pytest.raises(ValueError, match="2 classes"):
        linear_accuracy(features, np.zeros(20), features, labels)
