"""What a run is watched on: labelled images, their probes, the figures to beat."""

from __future__ import annotations

import json
import logging

import numpy as np
import tensorflow as tf

from moco_tf import callbacks
from moco_tf.config import Config, Data
from moco_tf.data.labelled import evenly_spread, subset
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import (
    DataError,
    Source,
    check_same_classes,
    open_source,
)
from moco_tf.distribution import hosts
from moco_tf.evaluation import MonitorFeatures, knn_accuracy, linear_accuracy

log = logging.getLogger("moco_tf")

# Test images that pictures and TensorBoard's projector show.
_SHOWN = 2000


def open_data(data: Data, config: Config, labelled: bool = False) -> Source:
    """Opens images with the channels of the run.

    Args:
        data: which images.
        config: the run.
        labelled: see `open_source`.
    """
    return open_source(
        data.source,
        data.split,
        name=data.name,
        data_dir=data.data_dir,
        manual_dir=data.manual_dir,
        labelled=labelled,
        channels=config.data.channels,
        max_unreadable=data.max_unreadable,
    )


class Monitor:
    """The labelled sets, their probes, and test images for pictures.

    Args:
        config: the run.
        model: whose `normalise` prepares the images.

    Attributes:
        features: `MonitorFeatures` of both sets, extracted once for all probes.
        probes: callbacks that write an accuracy to the logs.
        class_names: of the labels.
        shown: int64 (count,), rows of the test set that pictures show, spread over it.
        images: uint8 (count, S, S, C), these.

    Raises:
        DataError: a set cannot be opened or has no labels, or classes differ.
    """

    def __init__(self, config: Config, model):
        self._config = config
        train = open_data(config.monitor_train, config, labelled=True)
        test = open_data(config.monitor_test, config, labelled=True)
        check_same_classes(train, test, "The monitor's training set", "its test set")
        self.class_names = test.class_names
        train = _some(train, config.monitor.max_train)
        test = _some(test, config.monitor.max_test)
        self._batches = [self._in_batches(train), self._in_batches(test)]
        strategy = model.distribute_strategy
        if hosts(strategy) > 1:
            strategy = None  # each host measures all by itself, for its own files
        self.features = MonitorFeatures(*self._batches, model.normalise, strategy)
        every = config.monitor.every
        knn = callbacks.KNN(
            self.features, every, config.monitor.knn_k, config.monitor.knn_temperature
        )
        self.probes = [knn]
        if config.monitor.linear:
            self.probes.append(callbacks.LinearProbe(self.features, every))
        self.shown = evenly_spread(test.num_examples, _SHOWN)
        images = self._in_batches(subset(test, self.shown))
        self.images = np.concatenate([batch["image"].numpy() for batch in images])

    def _in_batches(self, source):
        return labelled_batches(
            source,
            batch_size=self._config.monitor.batch_size,
            image_size=self._config.data.image_size,
            channels=self._config.data.channels,
        )

    def baselines(self, model, run_dir, resumed: bool) -> dict:
        """Accuracies on raw pixels and of the untrained encoder, measured once.

        Args:
            model: untrained, unless `resumed`.
            run_dir: where they are written, and read when the run is resumed.
            resumed: whether the model has been trained already.

        Returns:
            {"raw_pixels": {"knn": 0..1, "linear": 0..1}, "untrained": the same}.

        Raises:
            DataError: an image without a label, or too few images or classes.
        """
        path = run_dir / "report" / "baselines.json"
        if resumed and path.exists():
            return json.loads(path.read_text())
        log.info("Measuring raw pixels and the untrained encoder first.")
        try:
            baselines = {"raw_pixels": self._raw_pixels(), "untrained": {}}
        except ValueError as error:  # images without labels, too few images or classes
            raise DataError(str(error)) from error
        for probe in self.probes:
            probe.set_model(model)
            baselines["untrained"][probe.name] = probe.measure()
        path.write_text(json.dumps(baselines, indent=2))
        return baselines

    def _raw_pixels(self):
        (train, train_labels), (test, test_labels) = map(_pixels, self._batches)
        sets = (train, train_labels, test, test_labels)
        monitor = self._config.monitor
        k = min(monitor.knn_k, len(train))
        raw = {"knn": knn_accuracy(*sets, k=k, temperature=monitor.knn_temperature)}
        if monitor.linear:
            raw["linear"] = linear_accuracy(*sets)
        return raw


def _some(source, most):
    return subset(source, evenly_spread(source.num_examples, most))


def _pixels(batches):
    """Images as vectors of 32 x 32 pixels at most, and their labels."""
    images, labels = [], []
    for batch in batches:
        image = tf.cast(batch["image"], tf.float32)
        if image.shape[1] > 32:
            image = tf.image.resize(image, (32, 32), antialias=True)
        images.append(tf.reshape(image / 255 - 0.5, (image.shape[0], -1)).numpy())
        labels.append(batch["label"].numpy())
    return np.concatenate(images), np.concatenate(labels)
