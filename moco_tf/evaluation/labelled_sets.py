"""The labelled images of a protocol, and their features."""

from __future__ import annotations

import json
import logging
import pathlib
import re
from dataclasses import dataclass, replace
from typing import Union

import numpy as np
import tensorflow as tf

from moco_tf.augment import Normalize
from moco_tf.config import ConfigError, Data
from moco_tf.data.labelled import check_labels, evenly_spread, subset
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import Source, check_same_classes, open_source
from moco_tf.data.sources.places import places_fingerprint
from moco_tf.evaluation.cache import cached_features
from moco_tf.evaluation.features import FeatureExtractor, Features
from moco_tf.evaluation.fewshot.settings import FewShot
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.knn.settings import KNN
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.results.output import results_folder
from moco_tf.evaluation.settings import Extraction, LabelledData
from moco_tf.interchange import Pretrained
from moco_tf.paths import each_place, to_path

LabelledSettings = Union[KNN, Linear, FewShot, Finetune]

log = logging.getLogger("moco_tf")


@dataclass(frozen=True)
class LabelledSet:
    """Labelled images that an encoder can take.

    Attributes:
        source: the images.
        facts: what they are, JSON-serialisable; equal facts mean equal images.
    """

    source: Source
    facts: dict


def open_labelled_sets(
    data: LabelledData, pretrained: Pretrained
) -> tuple[LabelledSet, LabelledSet]:
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
        _open(part, pretrained, most)
        for part, most in zip(asked, (data.max_train, data.max_test))
    )
    check_same_classes(train.source, test.source, "The training set", "the test set")
    for part, title in ((train, "Training"), (test, "Test")):
        name = part.facts.get("name", part.facts["source"])
        images = f"{part.source.num_examples:,}"
        log.info("%s images: %s of %s %s.", title, images, name, part.facts["split"])
    return train, test


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
    images = _called(resolve_labelled(settings.data, pretrained)[0])
    base = pretrained.path / "report" / name
    if pretrained.config is not None:
        own = _called(pretrained.config.monitor_train)
    else:
        own = _judged_on(base) or images
    if images != own:
        base = base.with_name(f"{name}_on_{re.sub(r'[^A-Za-z0-9.-]+', '_', images)}")
    return results_folder(base, settings.out), images


def _called(data):
    """A short name of a set of images."""
    if data.source == "tfds":
        # Known parts of a set (imagenet2012_subset/1pct) go by its name.
        return re.sub(r"_subset(/.*)?$", "", data.name)
    if data.source == "folder":
        return " ".join(
            to_path(place).resolve().name for place in each_place(data.data_dir)
        )
    return data.source


def _judged_on(folder):
    """What the images of earlier results are called, where they say so."""
    try:
        return json.loads((folder / "results.json").read_text()).get("data_set")
    except (OSError, ValueError):
        return None


def extract(
    labelled: LabelledSet,
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

    def run():
        batches = labelled_batches(
            labelled.source,
            batch_size=settings.batch_size,
            image_size=pretrained.image_size,
            resize=pretrained.resize,
            channels=pretrained.channels,
        )
        count = -(-labelled.source.num_examples // settings.batch_size)
        batches = batches.apply(tf.data.experimental.assert_cardinality(count))
        extractor = FeatureExtractor(
            pretrained.encoder,
            Normalize(pretrained.mean, pretrained.std, pretrained.pixels.value_range),
            tf.distribute.get_strategy(),
        )
        features = extractor.extract(batches, title)
        _check_finite(features, precision, title)
        return features

    key = {
        "weights": pretrained.digest,
        "architecture": pretrained.architecture,
        "precision": precision,
        "data": labelled.facts,
        "image_size": pretrained.image_size,
        "resize": pretrained.resize,
        "mean": list(pretrained.mean),
        "std": list(pretrained.std),
        **pretrained.pixels.noted,
    }
    folder = pretrained.path / "report" / "features"
    features = cached_features(folder, key, run) if settings.cache else run()
    check_labels(features.labels, title)
    return features


def _check_finite(features, precision, title):
    broken = int(np.sum(~np.isfinite(features.features).all(axis=1)))
    if not broken:
        return
    cause = (
        "its training diverged; train it again with a lower learning rate."
        if precision != "mixed_float16"
        else "numbers above 65,504 probably overflow in mixed_float16; use "
        "--precision=mixed_bfloat16 or float32."
    )
    raise ConfigError(
        f"the encoder gives features that are not finite for {broken} of the "
        f"{len(features)} {title} images: {cause}"
    )


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
        _overridden(data, base, split, default, bool(config))
        for base, split, default in zip(own, splits, ("train", "test"))
    ]


def _overridden(data, base, split, default, has_run):
    same = has_run and data.source in (None, base.source)
    # A name, folder or split of another kind of set would mean something else there.
    inherited = base if same else Data()
    same = same and data.name in (None, base.name)
    source = data.source or base.source
    asked = replace(
        base,
        source=source,
        name=data.name or inherited.name,
        data_dir=data.data_dir or inherited.data_dir,
        manual_dir=data.manual_dir or inherited.manual_dir,
        split=split or (inherited.split if same else default),
        max_unreadable=data.max_unreadable,
    )
    for kind, key, example in (
        ("tfds", "name", "cifar10"),
        ("folder", "data_dir", "PATH"),
    ):
        if source == kind and not getattr(asked, key):
            raise ConfigError(
                f"data.source={kind} needs data.{key}; add --data.{key}={example}."
            )
    return asked


def _open(data, pretrained, most):
    source = open_source(
        **data.place,
        channels=pretrained.channels,
        labelled=True,
        pixels=pretrained.pixels,
    )
    if most is not None and most < source.num_examples:
        source = subset(source, evenly_spread(source.num_examples, most))
    facts = {"source": data.source, "split": data.split, "images": source.num_examples}
    if data.source == "tfds":
        # Imported here: TensorFlow Datasets takes seconds.
        from moco_tf.data.sources.tfds import copy_facts

        facts["name"], facts["files"] = copy_facts(data.name, data.data_dir)
    if data.source == "folder":
        facts["files"] = places_fingerprint(data.data_dir)
    return LabelledSet(source, facts)
