"""Probes of the encoder on labelled images while it trains."""

from __future__ import annotations

import numpy as np
from tensorflow import keras

from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.evaluation import MonitorFeatures, knn_predict, linear_accuracy
from moco_tf.evaluation.features import checked_labels


class _Probe(keras.callbacks.Callback):
    """Adds one accuracy to the logs every few epochs, and after the last."""

    name = title = ""

    def __init__(self, features: MonitorFeatures, every: int = 1):
        super().__init__()
        self.features = features
        self.every = every

    def measure(self) -> float:
        """Accuracy of the encoder as it is now, 0 to 1."""
        share_statistics(self.model)
        step = int(self.model.optimizer.iterations.numpy())
        train, test = self.features.get(self.model.encoder, step)
        return self.score(train, test)

    def score(self, train, test) -> float:
        """Accuracy on test features, learnt from train features."""
        raise NotImplementedError

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Measures when its turn has come."""
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            logs[self.name] = self.measure()


class KNN(_Probe):
    """Weighted k-nearest-neighbour accuracy, "knn" in the logs.

    Args:
        features: the labelled images; one `MonitorFeatures` can serve several probes,
            which then share what it extracts.
        every: epochs between measurements.
        k: neighbours that vote.
        temperature: a neighbour of cosine s votes with weight exp(s / temperature).

    Attributes:
        confusion: int (classes, classes) of the last measurement, rows by label,
            columns by vote; None before the first.

    Source: Wu et al. 2018 (arXiv 1805.01978), section 3.4.
    """

    name, title = "knn", "kNN"

    def __init__(
        self,
        features: MonitorFeatures,
        every: int = 1,
        k: int = 200,
        temperature: float = 0.1,
    ):
        super().__init__(features, every)
        self.k = k
        self.temperature = temperature
        self.confusion: np.ndarray | None = None

    def score(self, train, test) -> float:
        """Accuracy on test features, by a vote of train features."""
        labels = checked_labels(test.labels, test.features, "test", "kNN vote")
        k = min(self.k, len(train))
        votes = knn_predict(
            train.features, train.labels, test.features, k, self.temperature
        )
        classes = 1 + max(labels.max(), train.labels.max())
        self.confusion = np.zeros((classes, classes), np.int64)
        np.add.at(self.confusion, (labels, votes), 1)
        return float(np.mean(votes == labels))


class LinearProbe(_Probe):
    """Accuracy of a linear classifier on the frozen features, "linear" in the logs.

    A quick probe for watching; `moco_tf.evaluation.linear_accuracy` says how it works.

    Args:
        features: see `KNN`.
        every: epochs between measurements.
    """

    name = title = "linear"

    def score(self, train, test) -> float:
        """Accuracy on test features of a classifier fitted to train features."""
        return linear_accuracy(train.features, train.labels, test.features, test.labels)
