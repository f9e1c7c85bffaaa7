"""kNN votes against a slow oracle and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from clusters import clusters

from moco_tf.evaluation import (
    knn_accuracy,
    knn_predict,
    knn_predict_all,
    nearest_neighbours,
)


def slow_knn(train, train_labels, test, k, temperature):
    predicted = []
    for query in test.astype(np.float64):
        similarity = [
            row @ query / np.linalg.norm(row) / np.linalg.norm(query)
            for row in train.astype(np.float64)
        ]
        votes = {label: 0.0 for label in sorted(set(train_labels))}
        for i in sorted(range(len(train)), key=lambda i: -similarity[i])[:k]:
            votes[train_labels[i]] += np.exp(similarity[i] / temperature)
        predicted.append(max(votes, key=votes.get))
    return np.array(predicted)


def test_neighbours_are_those_of_full_float32(monkeypatch):
    is_rounding = tf.config.experimental.tensor_float_32_execution_enabled
    seen = []
    matmul = tf.matmul
    monkeypatch.setattr(
        tf, "matmul", lambda *a, **k: seen.append(is_rounding()) or matmul(*a, **k)
    )
    nearest_neighbours(*(clusters(20)[0],) * 2, k=3)
    assert seen == [False] and is_rounding()


@pytest.mark.parametrize(
    "k, temperature", [(1, 0.07), (20, 0.07), (20, 1.0), (300, 0.1)]
)
def test_knn_matches_slow_oracle(k, temperature):
    train, train_labels = clusters(300)
    test, test_labels = clusters(60, seed=1)
    expected = slow_knn(train, train_labels, test, k, temperature)
    got = knn_predict(train, train_labels, test, k, temperature)
    np.testing.assert_array_equal(got, expected)
    accuracy = knn_accuracy(train, train_labels, test, test_labels, k, temperature)
    assert accuracy == pytest.approx(np.mean(expected == test_labels))
    assert 0 < accuracy < 1


def test_hot_knn_matches_scikit_learn_uniform_vote():
    train, train_labels = clusters(400)
    test, _ = clusters(100, seed=1)
    # Odd k and two classes: no ties for the two libraries to break differently.
    train_labels = train_labels % 2
    neighbors = pytest.importorskip("sklearn.neighbors")
    oracle = neighbors.KNeighborsClassifier(15, metric="cosine")
    oracle.fit(train, train_labels)
    got = knn_predict(train, train_labels, test, 15, temperature=1e6)
    np.testing.assert_array_equal(got, oracle.predict(test))


def test_votes_of_every_k_and_temperature_in_one_pass_match_the_slow_oracle():
    train, train_labels = clusters(300)
    test, _ = clusters(60, seed=1)
    ks, temperatures = (20, 1, 300, 7), (0.07, np.inf, 0.5)
    got = knn_predict_all(train, train_labels, test, ks, temperatures)
    assert got.shape == (3, 4, 60)
    for i, temperature in enumerate(temperatures):
        for j, k in enumerate(ks):
            expected = slow_knn(train, train_labels, test, k, temperature)
            np.testing.assert_array_equal(got[i, j], expected, f"{k} {temperature}")


def test_uniform_votes_equal_scikit_learn_for_every_k():
    neighbors = pytest.importorskip("sklearn.neighbors")
    train, train_labels = clusters(2000, classes=10)
    test, _ = clusters(300, classes=10, seed=1)
    ks = (1, 2, 10, 20, 100, 200)
    got = knn_predict_all(train, train_labels, test, ks, [np.inf])[0]
    for k, predicted in zip(ks, got):
        oracle = neighbors.KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        # In float64, so that the oracle's own rounding decides nothing.
        oracle.fit(train.astype(np.float64), train_labels)
        expected = oracle.predict(test.astype(np.float64))
        np.testing.assert_array_equal(predicted, expected, f"k={k}")


def test_knn_accepts_sparse_labels_and_cold_temperature():
    train, labels = clusters(200, noise=0.1)
    names = np.array([7, 1000, 3, 12345678901, 0])
    got = knn_predict(train, names[labels], train, k=1, temperature=1e-4)
    np.testing.assert_array_equal(got, names[labels])


def test_knn_does_not_depend_on_the_chunk(monkeypatch):
    train, labels = clusters(200)
    test, _ = clusters(50, seed=1)
    whole = knn_predict(train, labels, test, 10)
    monkeypatch.setattr("moco_tf.evaluation.knn.vote._SIMILARITIES_PER_CHUNK", 200 * 7)
    np.testing.assert_array_equal(knn_predict(train, labels, test, 10), whole)


def test_nearest_neighbours_are_sorted_and_start_with_self():
    features, _ = clusters(50)
    index, similarity = nearest_neighbours(features, features[:6], 4)
    np.testing.assert_array_equal(index[:, 0], np.arange(6))
    np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-5)
    assert np.all(np.diff(similarity, axis=1) <= 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"k": 21}, "k=21 .* train set of 20"),
        ({"k": 0}, "between 1 and 20"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"train_labels": np.full(20, -1)}, "20 of 20 .* train set have no label"),
        ({"test_labels": np.array([0] * 19 + [-1])}, "1 of 20 .* test set"),
        ({"test_labels": np.zeros(3)}, r"shape \(3,\) for 20"),
        ({"test_features": np.zeros((20, 3), np.float32)}, "one dim for both"),
    ],
)
def test_knn_explains_bad_input(changes, message):
    features, labels = clusters(20)
    good = dict(
        train_features=features,
        train_labels=labels,
        test_features=features,
        test_labels=labels,
        k=5,
    )
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**{**good, **changes})
