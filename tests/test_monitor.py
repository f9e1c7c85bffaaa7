"""The labelled sets that a run is watched on."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import mirrored
from pretrained_runs import write_images

from moco_tf.config import load_config
from moco_tf.data import DataError
from moco_tf.pretrain.build import build_model
from moco_tf.pretrain.monitor import Monitor


def small(folder, *overrides):
    words = (
        "encoder.width=4",
        "data.source=folder",
        f"data.data_dir={folder}",
        "data.image_size=16",
        "method.queue_size=64",
        "method.dim=16",
        "train.batch_size=16",
        "monitor.knn_k=1",
    )
    return load_config(None, (*words, *overrides))


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images" / "train", 4)
    write_images(tmp_path / "images" / "test", 2, seed=1)
    return tmp_path / "images"


def test_sets_of_other_classes_are_refused(folder):
    shutil.rmtree(folder / "test" / "blue")
    with pytest.raises(DataError, match=r"3 classes and its test set 2 \(blue in only"):
        Monitor(small(folder), model=None)


def test_images_that_are_not_taken_are_not_read(folder):
    config = small(folder, "monitor.max_train=3", "monitor.max_test=2")
    monitor = Monitor(config, build_model(config, 1, 1, 12))
    for index in range(3):
        for file in folder.glob(f"train/*/{index:03d}.png"):
            file.unlink()
    (batch,) = monitor.features.train_dataset.as_numpy_iterator()
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])
    images, _ = monitor.album.load()
    assert images.shape == (2, 16, 16, 3)


def test_pictures_show_every_class_of_a_sorted_folder(folder, monkeypatch):
    monkeypatch.setattr("moco_tf.pretrain.monitor._SHOWN", 3)
    config = small(folder)
    model = build_model(config, 1, 1, 12)
    monitor = Monitor(config, model)
    test = monitor.features.test_dataset.unbatch()
    images = [element["image"].numpy() for element in test]
    album = monitor.album
    shown, labels = album.load()
    assert sorted(labels) == [0, 1, 2]
    _, features = monitor.features.get(model.encoder, 0)
    for row, image in enumerate(shown):
        (place,) = [n for n, other in enumerate(images) if (other == image).all()]
        np.testing.assert_array_equal(album.features()[row], features.features[place])


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ((), "9 examples of 3 classes; it needs at least 10"),
        (("monitor.max_train=1",), "1 examples of 1 classes"),
    ],
)
def test_too_few_images_are_told_in_a_sentence(folder, tmp_path, overrides, sentence):
    for file in folder.glob("train/*/000.png"):
        file.unlink()
    config = small(folder, *overrides)
    model = build_model(config, 1, 1, 9)
    (tmp_path / "report").mkdir()
    with pytest.raises(DataError, match=sentence) as raised:
        Monitor(config, model).baselines(model, tmp_path, resumed=False)
    assert "\n" not in str(raised.value)


def test_replicas_measure_what_one_device_measures(folder):
    config = small(folder, "method.bn_groups=1")
    strategy = mirrored(2)
    with strategy.scope():
        many = build_model(config, 1, 2, 12)
    one = build_model(config, 1, 1, 12)
    one.set_weights(many.get_weights())
    alone, shared = Monitor(config, one).features, Monitor(config, many).features
    assert shared.strategy is strategy
    for ours, theirs in zip(shared.get(many.encoder, 0), alone.get(one.encoder, 0)):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_allclose(ours.features, theirs.features, rtol=1e-4, atol=1e-6)
