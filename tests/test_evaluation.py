from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras

from moco_tf.data.labelled import even_batches
from moco_tf.evaluation import (
    FeatureExtractor,
    Features,
    MonitorFeatures,
    extract_features,
    knn_accuracy,
    knn_predict,
    knn_predict_all,
    linear_accuracy,
    linear_sweep,
    nearest_neighbours,
)
from moco_tf.evaluation.cache import cached_features
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.classifier import LinearClassifier
from moco_tf.evaluation.knn import _top_k
from moco_tf.optimizers import SGD


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


@pytest.mark.parametrize("columns", [15, 64, 1000, 1003, 4096])
@pytest.mark.parametrize("k", [1, 5, 15])
def test_top_k_by_groups_equals_a_full_sort(columns, k):
    rng = np.random.default_rng(columns)
    rows = np.stack(
        [
            rng.normal(size=columns),
            np.arange(columns),
            -np.arange(columns),
            np.zeros(columns),
            rng.integers(0, 4, columns),  # many equals, at the edge of the k too
            rng.integers(0, columns // 2, columns),
        ]
    ).astype(np.float32)
    values, index = _top_k(tf.constant(rows), k)
    expected = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(rows, expected, axis=1))


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


# Features on several devices and on disk


@pytest.mark.parametrize("replicas", [2, 8])
def test_replicas_share_extraction_in_order_with_a_partial_last_batch(replicas):
    examples, dataset = labelled_batches(count=27, batch=8)
    strategy = mirrored(replicas)
    with strategy.scope():
        encoder = tiny_encoder()
    alone = FeatureExtractor(encoder).extract(dataset)
    shared = FeatureExtractor(encoder, strategy=strategy).extract(dataset)
    np.testing.assert_array_equal(shared.ids, examples["id"])
    np.testing.assert_array_equal(shared.labels, examples["label"])
    np.testing.assert_allclose(shared.features, alone.features, rtol=1e-5)


def some_features(count=6):
    features, labels = clusters(count)
    return Features(features, labels.astype(np.int64), np.arange(count))


def test_cached_features_are_read_back_to_the_bit_and_kept_apart(tmp_path):
    made = []

    def extract():
        made.append(some_features(6 + len(made)))
        return made[-1]

    first = cached_features(tmp_path / "deep", {"weights": "a"}, extract)
    again = cached_features(tmp_path / "deep", {"weights": "a"}, extract)
    other = cached_features(tmp_path / "deep", {"weights": "b"}, extract)
    assert len(made) == 2
    for name in ("features", "labels", "ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
        assert getattr(again, name).dtype == getattr(first, name).dtype
    assert len(other) == 7


def test_interrupted_extraction_or_writing_leaves_no_file(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, {}, broken)
    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, {}, some_features)
    assert list(tmp_path.iterdir()) == []


# Explaining chance


def test_accuracy_above_chance_needs_no_explanation():
    assert explain_chance(0.6, some_features(500), "x") is None


def test_accuracy_at_chance_is_explained_by_what_the_features_show():
    test = some_features(500)
    chance = float(np.mean(test.labels == 0))
    assert "guessing" in explain_chance(chance, test, "the rate is too high.")
    assert explain_chance(chance, test, "rate 30.").endswith("rate 30.")
    sentence = explain_chance(chance, test, "rate 30.", train_top1=0.9)
    assert "90.0 % of the training images are right" in sentence
    for features, cause in (
        (np.ones((500, 4)), "has collapsed"),
        (np.zeros((500, 4)), "has collapsed"),
        (np.full((500, 4), np.nan), "not finite"),
    ):
        broken = Features(features, test.labels, test.ids)
        assert cause in explain_chance(chance, broken, "rate 30.", 0.9)


# Trained classifier


def slow_epoch(features, labels, batches, rate, classes):
    """Softmax regression by SGD with momentum 0.9 in float64, an example at a time."""
    weights = np.zeros((features.shape[1] + 1, classes))
    velocity = np.zeros_like(weights)
    for batch in batches:
        gradient = np.zeros_like(weights)
        for row in batch:
            inputs = np.append(features[row], 1.0)
            scores = np.exp(inputs @ weights - np.max(inputs @ weights))
            error = scores / scores.sum()
            error[labels[row]] -= 1
            gradient += np.outer(inputs, error) / len(batch)
        velocity = 0.9 * velocity + gradient
        weights -= rate * velocity
    return weights


@pytest.mark.parametrize("replicas", [1, 2, 8])
def test_classifier_means_over_the_global_batch_whatever_fills_it(replicas, policy):
    policy("float64")
    features, labels = clusters(21, classes=3, dim=4)
    features = features.astype(np.float64)
    whole = tf.data.Dataset.from_tensor_slices(
        {"image": features, "label": labels, "id": np.arange(21)}
    )
    batches = even_batches(whole.batch(8), replicas)
    with mirrored(replicas).scope():
        model = LinearClassifier(lambda images, training: images, 3)
        model.compile(SGD(0.5, momentum=0.9, weight_decay=0.0))
        model.head.build((None, 4))
    model.head.set_weights([np.zeros((4, 3)), np.zeros(3)])
    logs = model.fit(batches, verbose=0).history
    rows = [range(8), range(8, 16), range(16, 21)]
    expected = slow_epoch(features, labels, rows, 0.5, 3)
    np.testing.assert_allclose(model.head.kernel, expected[:-1], rtol=1e-9)
    np.testing.assert_allclose(model.head.bias, expected[-1], rtol=1e-9)
    assert 1 / 3 < logs["top1"][0] < logs["top5"][0] == 1
    scored = model.evaluate(batches, verbose=0, return_dict=True)
    logits = features @ expected[:-1] + expected[-1]
    assert scored["top1"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    assert scored == pytest.approx(model.score(Features(features, labels, labels)))


def test_equal_logits_are_no_hit_and_nan_hits_nothing():
    model = LinearClassifier(lambda images, training: images, 10)
    labels = np.arange(10)
    for value, top1, top5 in ((0.0, 0.1, 0.5), (np.nan, 0.0, 0.0)):
        features = np.full((10, 2), value, np.float32)
        score = model.score(Features(features, labels, labels))
        assert (score["top1"], score["top5"]) == pytest.approx((top1, top5))


# Sweep


def sweep_data():
    scale = np.geomspace(0.01, 100, 24)  # standardisation must undo this
    train, train_labels = clusters(3000)
    test, test_labels = clusters(2000, seed=1)
    return (
        Features(train * scale + 5, train_labels, np.arange(3000)),
        Features(test * scale + 5, test_labels, np.arange(2000)),
    )


def test_both_solvers_are_within_0_3_points_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    train, test = sweep_data()
    tried, best = linear_sweep(train, test, [0.3], [1e-2], epochs=60)
    scaler = preprocessing.StandardScaler().fit(train.features)
    oracle = linear_model.LogisticRegression(C=1 / (1e-2 * 3000), max_iter=1000)
    oracle.fit(scaler.transform(train.features), train.labels)
    expected = oracle.score(scaler.transform(test.features), test.labels)
    assert [candidate.solver for candidate in tried] == ["sgd", "lbfgs"]
    for candidate in tried:
        assert candidate.top1 == pytest.approx(expected, abs=0.003), candidate
    assert best in tried


def test_candidates_side_by_side_do_not_touch_each_other():
    train, test = sweep_data()
    rates, decays = [0.01, 1e9, 0.3], [1e-4, 1e-1]
    tried, _ = linear_sweep(train, test, rates, decays, epochs=3, lbfgs=False)
    assert [(c.learning_rate, c.weight_decay) for c in tried] == [
        (rate, decay) for rate in rates for decay in decays
    ]
    for candidate in tried:
        ((alone,), _) = linear_sweep(
            train,
            test,
            [candidate.learning_rate],
            [candidate.weight_decay],
            epochs=3,
            lbfgs=False,
        )
        assert alone.held_out == pytest.approx(candidate.held_out, abs=0.004)


def test_held_out_images_choose_and_the_test_images_do_not():
    train, test = sweep_data()
    options = dict(learning_rates=[1e-4, 0.1], weight_decays=[1e-3, 10.0], epochs=3)
    tried, best = linear_sweep(train, test, **options)
    rng = np.random.default_rng(0)
    noise = Features(test.features, rng.permutation(test.labels), test.ids)
    retried, rechosen = linear_sweep(train, noise, **options)
    for one, two in zip(tried, retried):
        assert one.held_out == two.held_out
        assert (one.top1 is None) == (two.top1 is None)
    settings = [(c.solver, c.learning_rate, c.weight_decay) for c in (best, rechosen)]
    assert settings[0] == settings[1]
    assert best.held_out == max(c.held_out for c in tried)
    assert rechosen.top1 < 0.3 < best.top1
    scored = [candidate for candidate in tried if candidate.top1 is not None]
    assert len(scored) == 2  # one a solver
    assert all(c.top1 < c.top5 == 1 for c in scored)  # five classes


def test_sweep_allows_classes_that_are_missing_in_training():
    train, test = sweep_data()
    known = train.labels < 2
    train = Features(train.features[known], train.labels[known], train.ids[known])
    tried, _ = linear_sweep(train, test, [0.1], [1e-2], epochs=20)
    seen = float(np.mean(test.labels < 2))
    for candidate in tried:
        assert 0.6 * seen < candidate.top1 <= seen


def test_sweep_explains_too_little_data():
    train, test = sweep_data()
    few = Features(train.features[:5], np.array([0, 1, 0, 1, 0]), train.ids[:5])
    with pytest.raises(ValueError, match="5 training images of 2 classes cannot be"):
        linear_sweep(few, test, [0.1], [1e-2])
    one = Features(train.features, np.zeros(3000, np.int64), train.ids)
    with pytest.raises(ValueError, match="of 1 classes"):
        linear_sweep(one, test, [0.1], [1e-2])


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
