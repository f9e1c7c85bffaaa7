"""The labelled images of a protocol, and their features."""

from __future__ import annotations

import logging
import pathlib
import re
from dataclasses import replace
from typing import Union

import numpy as np

from moco_tf.config import ConfigError, Data
from moco_tf.data.labelled import check_labels
from moco_tf.data.sources import check_same_classes
from moco_tf.evaluation.cache import cached_features
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.fewshot.settings import FewShot
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.images import (
    ImageSet,
    central_crops,
    extractor_of,
    features_key,
    open_images,
    require_finite,
    resolve,
)
from moco_tf.evaluation.knn.settings import KNN
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.results.output import of_images, results_folder
from moco_tf.evaluation.retrieval.settings import Retrieve
from moco_tf.evaluation.settings import Extraction, LabelledData
from moco_tf.interchange import Pretrained

LabelledSettings = Union[KNN, Linear, FewShot, Finetune, Retrieve]

log = logging.getLogger("moco_tf")


def open_labelled_sets(
    data: LabelledData, pretrained: Pretrained
) -> tuple[ImageSet, ImageSet]:
    """Opens the training and the test images, which have the same classes.

    Args:
        data: what the user asked for; null fields are the run's own.
        pretrained: whose channels the images must have.

    Raises:
        ConfigError: a SavedModel alone names no images, and neither did the user.
        DataError: a set cannot be opened or has no labels, or classes differ.
    """
    asked = resolve_labelled(data, pretrained)
    train, test = (
        open_images(part, pretrained, most, labelled=True)
        for part, most in zip(asked, (data.max_train, data.max_test))
    )
    check_same_classes(train.source, test.source, "The training set", "the test set")
    told("Training", train)
    told("Test", test)
    return train, test


def open_test_set(
    data: LabelledData, pretrained: Pretrained, labelled: bool = True
) -> ImageSet:
    """Opens the test images alone.

    Raises:
        ConfigError, DataError: as `open_labelled_sets`.
    """
    asked = resolve_labelled(data, pretrained)[1]
    test = open_images(asked, pretrained, data.max_test, labelled)
    told("Test", test)
    return test


def told(title: str, images: ImageSet) -> None:
    """Says in the log what is opened."""
    name = images.facts.get("name", images.facts["source"])
    count = f"{images.source.num_examples:,}"
    log.info("%s images: %s of %s %s.", title, count, name, images.facts["split"])


def place_of_results(
    name: str, settings: LabelledSettings, pretrained: Pretrained
) -> tuple[pathlib.Path, str]:
    """Where a protocol's results go: figures on other images keep out of each other.

    Args:
        name: of the protocol's folder.
        settings: with the images asked for, and a folder of the user's own or None.
        pretrained: the encoder.

    Returns:
        report/NAME for a run's own images, and for those that a SavedModel was judged
        on first; report/NAME_on_IMAGES for others. And what the images are called.

    Raises:
        ConfigError: as `open_labelled_sets`, or the folder cannot be written.
    """
    images = resolve_labelled(settings.data, pretrained)[0].called
    config = pretrained.config
    own = None if config is None else config.monitor_train.called
    base = pretrained.path / "report" / name
    return results_folder(of_images(base, images, own), settings.out), images


def extract(
    labelled: ImageSet,
    pretrained: Pretrained,
    settings: Extraction,
    precision: str,
    title: str,
) -> Features:
    """Features of the central crops, from disk where they were extracted before.

    Args:
        labelled: the images.
        pretrained: its encoder runs in inference mode, on all replicas in scope.
        settings: batch and cache.
        precision: the policy that the encoder was built under.
        title: what the images are, for the progress bar.

    Raises:
        ConfigError: some features are not finite.
        DataError: some images have no label.
    """
    features = extract_any(labelled, pretrained, settings, precision, title)
    check_labels(features.labels, title)
    return features


def extract_any(
    images: ImageSet,
    pretrained: Pretrained,
    settings: Extraction,
    precision: str,
    title: str,
) -> Features:
    """As `extract`, of images that need no labels."""

    def run():
        batches = central_crops(images.source, pretrained, settings.batch_size)
        features = extractor_of(pretrained).extract(batches, title)
        broken = int(np.sum(~np.isfinite(features.features).all(axis=1)))
        require_finite(broken, len(features), precision, title)
        return features

    key = features_key(images.facts, pretrained, precision)
    folder = pretrained.path / "report" / "features"
    return cached_features(folder, key, run) if settings.cache else run()


def resolve_labelled(data: LabelledData, pretrained: Pretrained) -> list[Data]:
    """What to open for training and for test: the user's words, else the run's own.

    Raises:
        ConfigError: as `open_labelled_sets`.
    """
    config = pretrained.config
    if config is None and data.source is None:
        raise ConfigError(
            f"{pretrained.path} is a SavedModel, which names no labelled images; add "
            "for instance --data.source=tfds --data.name=cifar10."
        )
    own = (config.monitor_train, config.monitor_test) if config else (Data(), Data())
    if own[0].source == "tfds":
        # A part of the split is to watch a run by; the protocols take the whole.
        whole = re.sub(r"^(\w+)\[.*\]$", r"\1", own[0].split)
        own = (replace(own[0], split=whole), own[1])
    splits = (data.train_split, data.test_split)
    return [
        resolve(data, base, split, default, bool(config))
        for base, split, default in zip(own, splits, ("train", "test"))
    ]
