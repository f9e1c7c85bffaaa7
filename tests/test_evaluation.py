from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from moco_tf.evaluation import (
    FeatureExtractor,
    MonitorFeatures,
    extract_features,
    knn_accuracy,
    knn_predict,
    linear_accuracy,
    nearest_neighbours,
)


def tiny_encoder(dtype="float32", dim=5):
    inputs = keras.Input((8, 8, 3), dtype=dtype)
    x = keras.layers.Conv2D(dim, 3, dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return with_random_weights(keras.Model(inputs, x))


def with_random_weights(encoder):
    rng = np.random.default_rng(1)
    shapes = [value.shape for value in encoder.get_weights()]
    # Positive, so that they serve as variances too.
    encoder.set_weights([rng.uniform(0.1, 1.0, shape) for shape in shapes])
    return encoder


def labelled_batches(count=10, batch=4):
    rng = np.random.default_rng(0)
    examples = {
        "image": rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8),
        "label": np.arange(count) % 3,
        "id": 100 + np.arange(count),
    }
    return examples, tf.data.Dataset.from_tensor_slices(examples).batch(batch)


def clusters(count, classes=5, dim=24, noise=3.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, count)
    features = centres[labels] + noise * rng.normal(size=(count, dim))
    return features.astype(np.float32), labels


# Features


def test_extraction_keeps_order_and_the_partial_batch():
    encoder = tiny_encoder()
    examples, dataset = labelled_batches()
    result = extract_features(encoder, dataset, lambda x: tf.cast(x, tf.float32) / 255)
    direct = encoder(examples["image"].astype(np.float32) / 255, training=False)
    assert len(result) == 10
    assert result.features.dtype == np.float32
    assert result.labels.dtype == result.ids.dtype == np.int64
    np.testing.assert_allclose(result.features, direct, atol=1e-5)
    np.testing.assert_array_equal(result.labels, examples["label"])
    np.testing.assert_array_equal(result.ids, examples["id"])


def test_extraction_leaves_batch_statistics_alone():
    encoder = tiny_encoder()
    before = encoder.get_weights()
    extract_features(encoder, labelled_batches()[1])
    for old, new in zip(before, encoder.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_extractor_traces_once_over_epochs_and_partial_batches():
    encoder, traces = tiny_encoder(), []

    def counted(images, training):
        traces.append(images.shape)
        return encoder(images, training=training)

    extractor = FeatureExtractor(counted)
    _, dataset = labelled_batches()
    for _ in range(3):
        extractor.extract(dataset)
    assert len(traces) == 1


def test_extractor_sees_new_weights():
    encoder = tiny_encoder()
    extractor = FeatureExtractor(encoder)
    _, dataset = labelled_batches()
    first = extractor.extract(dataset).features
    encoder.set_weights([2 * value for value in encoder.get_weights()])
    assert np.abs(extractor.extract(dataset).features - first).max() > 1e-3


def test_features_are_float32_under_other_policies():
    _, dataset = labelled_batches()
    for dtype in ("float64", "bfloat16"):
        assert (
            extract_features(tiny_encoder(dtype), dataset).features.dtype == np.float32
        )


MIRRORED = """
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * {replicas})
from test_evaluation import extract_features, labelled_batches, tiny_encoder
devices = [f"CPU:{{i}}" for i in range({replicas})]
with tf.distribute.MirroredStrategy(devices).scope():
    mirrored = tiny_encoder()
assert len(mirrored.trainable_variables[0].values) == {replicas}
plain = tiny_encoder()
plain.set_weights(mirrored.get_weights())
_, dataset = labelled_batches()
np.testing.assert_allclose(
    extract_features(mirrored, dataset).features,
    extract_features(plain, dataset).features, atol=1e-6)
"""


@pytest.mark.parametrize("replicas", [2, 8])
def test_mirrored_encoder_is_read_outside_the_strategy(replicas):
    # Its own process: the number of logical CPUs is fixed when TensorFlow starts.
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    script = MIRRORED.format(replicas=replicas)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_empty_dataset_and_unpooled_encoder_are_explained():
    _, dataset = labelled_batches()
    with pytest.raises(ValueError, match="is empty"):
        extract_features(tiny_encoder(), dataset.take(0))
    unpooled = keras.Sequential([keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="global average pooling"):
        extract_features(unpooled, dataset)


def test_monitor_extracts_once_per_step():
    _, dataset = labelled_batches()
    monitor = MonitorFeatures(dataset, dataset.take(1))
    encoder = tiny_encoder()
    first = monitor.get(encoder, 1)
    assert monitor.get(encoder, 1) is first
    assert [len(part) for part in first] == [10, 4]
    encoder.set_weights([2 * value for value in encoder.get_weights()])
    second = monitor.get(encoder, 2)
    assert np.abs(second[0].features - first[0].features).max() > 1e-3


# kNN


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


def test_knn_accepts_sparse_labels_and_cold_temperature():
    train, labels = clusters(200, noise=0.1)
    names = np.array([7, 1000, 3, 12345678901, 0])
    got = knn_predict(train, names[labels], train, k=1, temperature=1e-4)
    np.testing.assert_array_equal(got, names[labels])


def test_knn_does_not_depend_on_the_chunk(monkeypatch):
    train, labels = clusters(200)
    test, _ = clusters(50, seed=1)
    whole = knn_predict(train, labels, test, 10)
    monkeypatch.setattr("moco_tf.evaluation.knn._SIMILARITIES_PER_CHUNK", 200 * 7)
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


# Linear probe


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
