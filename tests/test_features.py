"""Extraction of features: order, replicas, dtypes, and the copy kept on disk."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from clusters import some_features
from conftest import mirrored
from tensorflow import keras

from moco_tf.evaluation import FeatureExtractor, MonitorFeatures, extract_features
from moco_tf.evaluation.cache import cached_features


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
from test_features import extract_features, labelled_batches, tiny_encoder
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


def test_replicas_share_the_monitor_and_trace_once():
    examples, dataset = labelled_batches(count=27, batch=8)
    strategy, traces = mirrored(2), []
    with strategy.scope():
        encoder = tiny_encoder()

    def counted(images, training):
        traces.append(images.shape)
        return encoder(images, training=training)

    monitor = MonitorFeatures(dataset, dataset.take(1), strategy=strategy)
    for step in (1, 2):
        train, test = monitor.get(counted, step)
        np.testing.assert_array_equal(train.ids, examples["id"])
        assert len(test) == 8
    assert len(traces) == 2  # once for each replica


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


def test_features_that_cannot_be_kept_are_used_and_told(tmp_path, caplog):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "features"  # not even root can make it
    features = some_features()
    with caplog.at_level("WARNING"):
        assert cached_features(folder, {}, lambda: features) is features
    (record,) = caplog.records
    assert f"{folder} cannot be written (not a directory)" in record.message


def test_interrupted_extraction_or_writing_leaves_no_file(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, {}, broken)
    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, {}, some_features)
    assert list(tmp_path.iterdir()) == []
