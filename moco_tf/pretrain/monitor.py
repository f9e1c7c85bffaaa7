"""What a run is watched on: labelled images, their probes, the figures to beat."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging

import numpy as np
import tensorflow as tf

from moco_tf import callbacks
from moco_tf.cluster import find_cluster
from moco_tf.config import Config
from moco_tf.data.labelled import evenly_spread, subset
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import DataError, Source, check_same_classes
from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.evaluation import (
    FeatureExtractor,
    MonitorFeatures,
    knn_accuracy,
    linear_accuracy,
)
from moco_tf.evaluation.knn.gallery import Album
from moco_tf.exchange import hosts, of_all_hosts
from moco_tf.pixels import GREY_LEVELS, Pixels, for_the_eye, to_unit
from moco_tf.pretrain.images import open_data

log = logging.getLogger("moco_tf")

# Images that pictures and TensorBoard's projector show.
_SHOWN = 2000


class Monitor:
    """The labelled sets, their probes, and test images for pictures.

    Args:
        config: the run.
        model: whose `normalise` prepares the images.
        pixels: the numbers of the images that it learns from.

    Attributes:
        features: `MonitorFeatures` of both sets, extracted once for all probes.
        probes: callbacks that write an accuracy to the logs.
        album: test images that pictures show, spread over the set.
        class_names: a name per class.

    Raises:
        DataError: a set cannot be opened or has no labels, or classes differ.
    """

    def __init__(self, config: Config, model, pixels: Pixels = GREY_LEVELS):
        self._config = config
        train = open_data(config.monitor_train, config, True, pixels)
        test = open_data(config.monitor_test, config, True, pixels)
        self._range = pixels.value_range
        check_same_classes(train, test, "The monitor's training set", "its test set")
        self.class_names = train.class_names
        train = _some(train, config.monitor.max_train)
        test = _some(test, config.monitor.max_test)
        self._strategy = model.distribute_strategy
        self._counts = (train.num_examples, test.num_examples)
        shares = (_share(source, self._strategy) for source in (train, test))
        train_batches, test_batches = (_in_batches(share, config) for share in shares)
        self._batches = (train_batches, test_batches)
        self.features = MonitorFeatures(
            *self._batches, model.normalise, self._strategy, self._counts
        )
        every = config.monitor.every
        knn = callbacks.KNN(
            self.features, every, config.monitor.knn_k, config.monitor.knn_temperature
        )
        self.probes = [knn]
        if config.monitor.linear:
            self.probes.append(callbacks.LinearProbe(self.features, every))
        shown = evenly_spread(test.num_examples, _SHOWN)

        def features():
            step = int(model.optimizer.iterations.numpy())
            return self.features.get(model.encoder, step)[1].features[shown]

        some = subset(test, shown)
        self.album = _album(_in_batches(some, config), some, features)

    def baselines(self, model, run_dir, resumed: bool) -> dict:
        """Accuracies on raw pixels and of the untrained encoder, measured once.

        Args:
            model: untrained, unless `resumed`.
            run_dir: where they are written, and read when the run is resumed.
            resumed: whether the model has been trained already.

        Returns:
            {"raw_pixels": {"knn": 0..1, "linear": 0..1}, "untrained": the same}, the
            latter only if it was measured when it could be.

        Raises:
            DataError: an image without a label, or too few images or classes.
        """
        path = run_dir / "report" / "baselines.json"
        for probe in self.probes:
            probe.set_model(model)
        if resumed:
            with contextlib.suppress(OSError, ValueError):  # absent or broken
                return json.loads(path.read_text())
        encoder = "" if resumed else " and the encoder as it is"
        log.info("Measuring raw pixels%s first.", encoder)
        try:
            baselines = {"raw_pixels": self._raw_pixels()}
        except ValueError as error:  # images without labels, too few images or classes
            raise DataError(str(error)) from error
        if not resumed:
            baselines["untrained"] = {p.name: p.measure() for p in self.probes}
        path.write_text(json.dumps(baselines, indent=2))
        return baselines

    def _raw_pixels(self):
        sets = [
            of_all_hosts(self._strategy, share, count)
            for batches, count in zip(self._batches, self._counts)
            for share in _pixels(batches, self._range)
        ]
        monitor = self._config.monitor
        k = min(monitor.knn_k, self._counts[0])
        raw = {"knn": knn_accuracy(*sets, k=k, temperature=monitor.knn_temperature)}
        if monitor.linear:
            raw["linear"] = linear_accuracy(*sets)
        return raw


def training_album(config: Config, source: Source, model) -> Album:
    """The album of a run without a monitor: some of its training images.

    Args:
        config: the run.
        source: what it learns from.
        model: whose encoder gives the features.
    """
    if source.load is None:
        # Read from the start: a stream has no others at hand.
        count = min(source.num_examples, _SHOWN)
        some = dataclasses.replace(
            source, dataset=source.dataset.take(count), num_examples=count
        )
    else:
        some = subset(source, evenly_spread(source.num_examples, _SHOWN))
    batches = _in_batches(some, config)
    extractor = FeatureExtractor(model.encoder, model.normalise)
    newest: dict[int, np.ndarray] = {}

    def features():
        step = int(model.optimizer.iterations.numpy())
        if step not in newest:
            share_statistics(model)
            newest.clear()
            newest[step] = extractor.extract(batches).features
        return newest[step]

    return _album(batches, some, features)


def _album(batches, source, features):
    @functools.cache  # TensorBoard and the gallery show the same ones
    def load():
        rows = [(batch["image"].numpy(), batch["label"].numpy()) for batch in batches]
        images, labels = map(np.concatenate, zip(*rows))
        return for_the_eye(images, source.pixels.value_range), labels

    return Album(load, source.class_names, features, source.file_names)


def _in_batches(source, config):
    return labelled_batches(
        source,
        batch_size=config.monitor.batch_size,
        image_size=config.data.image_size,
        channels=config.data.channels,
    )


def _some(source, most):
    return subset(source, evenly_spread(source.num_examples, most))


def _share(source, strategy):
    """What this host encodes: every n-th image, as many as the others."""
    number, count = hosts(strategy), source.num_examples
    if number == 1:
        return source
    ids = np.arange(find_cluster().index, -(-count // number) * number, number)
    return subset(source, np.minimum(ids, count - 1))


def _pixels(batches, value_range):
    """Images as vectors of 32 x 32 pixels at most, and their labels."""
    images, labels = [], []
    for batch in batches:
        image = tf.cast(batch["image"], tf.float32)
        if image.shape[1] > 32:
            image = tf.image.resize(image, (32, 32), antialias=True)
        image = to_unit(image, value_range) - 0.5
        images.append(tf.reshape(image, (image.shape[0], -1)).numpy())
        labels.append(batch["label"].numpy())
    return np.concatenate(images), np.concatenate(labels)
