"""Made photographs: like files of a real set, the same every time, any split."""

import numpy as np
import tensorflow as tf

from moco_tf.config import load_config
from moco_tf.data import labelled_batches, open_source, two_views
from moco_tf.data.sources.synthetic import photographs


def test_photographs_are_files_of_imagenets_shape_and_size():
    files = photographs()
    assert len(set(files)) == len(files) == 32
    images = [tf.io.decode_jpeg(file).numpy() for file in files[:3]]
    assert {image.shape for image in images} == {(375, 500, 3)}
    assert all(image.std() > 20 for image in images)
    assert 30_000 < np.mean([len(file) for file in files]) < 200_000


def test_any_split_opens_and_is_labelled():
    train = open_source("synthetic", "train", labelled=True)
    part = open_source("synthetic", "train[:10%]", labelled=True)
    validation = open_source("synthetic", "validation", labelled=True)
    counts = [source.num_examples for source in (train, part, validation)]
    assert counts == [4096, 512, 512]
    assert train.class_names == validation.class_names
    (batch, *_) = labelled_batches(
        validation, batch_size=20, image_size=64, channels=3
    ).take(1)
    np.testing.assert_array_equal(batch["label"], np.arange(20) % 10)
    assert batch["image"].shape == (20, 64, 64, 3)


def test_views_are_made_of_them():
    source = open_source("synthetic", "train")
    batch = next(iter(two_views(source, batch_size=8, image_size=32)))
    assert batch["query"].shape == (8, 32, 32, 3)
    assert len(set(batch["id"].numpy())) == 8


def test_recipe_of_imagenet_rehearses_with_them():
    words = ["data.source=synthetic", "distribution.replicas=8"]
    config = load_config("moco_v2_resnet50_200ep", words)
    assert config.monitor_train.source == config.monitor_test.source == "synthetic"
