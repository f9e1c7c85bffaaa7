"""Run an encoder once over a labelled set and keep the features in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.data.labelled import even_batches, replica_batches
from moco_tf.exchange import hosts, local_replicas, of_all_hosts, take_first_hosts
from moco_tf.log import watched


@dataclass(frozen=True)
class Features:
    """Features of a whole set, in the order the dataset gave them.

    Attributes:
        features: float32 (examples, dim), not normalised.
        labels: int64 (examples,); -1 where an example has no label.
        ids: int64 (examples,).
    """

    features: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.features)


class FeatureExtractor:
    """An encoder in inference mode, compiled once for each image shape.

    Keep one extractor for as long as the encoder lives: calling it every epoch
    adds no graphs, and a smaller last batch does not retrace. The encoder may hold
    mirrored variables; outside `strategy.run` their first copy is read.

    Args:
        encoder: float (N,H,W,C) -> float (N,F).
        preprocess: uint8 (N,H,W,C) -> float (N,H,W,C), e.g. a `Normalize` layer;
            None hands the images to the encoder as they are, cast to float32.
        strategy: the one whose replicas share each batch of `extract`; None encodes
            on one device. Of several hosts each gives batches of its own, as many as
            the others.
    """

    def __init__(
        self,
        encoder: keras.Model | Callable,
        preprocess: Callable | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ):
        """See the class docstring."""
        self.encoder = encoder
        self.preprocess = preprocess
        self.strategy = strategy
        self._functions: dict[tuple, Callable] = {}

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Features of one batch.

        Args:
            images: uint8 or float (N,H,W,C).

        Returns:
            float32 (N,F).
        """
        images = tf.convert_to_tensor(images)
        key = (images.dtype, tuple(images.shape[1:]))
        if key not in self._functions:
            spec = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
            self._functions[key] = tf.function(self._forward, input_signature=[spec])
        return self._functions[key](images)

    def extract(
        self, dataset: tf.data.Dataset, progress: str | None = None
    ) -> Features:
        """Features of a whole dataset.

        Args:
            dataset: finite; batches {"image": uint8 (N,S,S,C), "label": int (N,),
                "id": int (N,)}. The last batch may be smaller.
            progress: title of a progress bar on a terminal; None shows none.

        Returns:
            The set's `Features`.

        Raises:
            ValueError: the dataset is empty or the encoder's output is not (N,F).
        """
        parts = list(self.batches(dataset, progress))
        if not parts:
            raise ValueError(
                "The dataset to extract features from is empty; give it at least one "
                "batch of images."
            )
        return Features(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.ids for part in parts]),
        )

    def batches(
        self, dataset: tf.data.Dataset, progress: str | None = None
    ) -> Iterator[Features]:
        """The same a batch, or a replica's share of one, at a time."""
        length = int(dataset.cardinality())  # negative where unknown
        total = length if length >= 0 else None
        for features, label, number in watched(self._encoded(dataset), progress, total):
            yield Features(
                features.numpy(),
                label.numpy().astype(np.int64),
                number.numpy().astype(np.int64),
            )

    def _encoded(self, dataset):
        """Yield (features, labels, ids), a batch or a replica's share at a time."""
        if self.strategy is None or self.strategy.num_replicas_in_sync == 1:
            for batch in dataset:
                yield self.encode(batch["image"]), batch["label"], batch["id"]
            return

        def of_replica(batch):
            features = self._forward(batch["image"])
            kept = batch["weight"] > 0
            outputs = features, batch["label"], batch["id"]
            return [tf.boolean_mask(output, kept) for output in outputs]

        replicas = local_replicas(self.strategy)
        dataset = even_batches(dataset, replicas)
        if hosts(self.strategy) == 1:
            shared = self.strategy.experimental_distribute_dataset(dataset)
        else:
            own = replica_batches(dataset, replicas)
            shared = self.strategy.distribute_datasets_from_function(lambda _: own)
        key = tuple(tf.nest.flatten(dataset.element_spec))
        if key not in self._functions:
            self._functions[key] = tf.function(
                lambda batch: self.strategy.run(of_replica, args=(batch,)),
                input_signature=[shared.element_spec],
            )
        for batch in shared:
            shares = self._functions[key](batch)
            yield from zip(*map(self.strategy.experimental_local_results, shares))

    def _forward(self, images):
        if self.preprocess is None:
            images = tf.cast(images, tf.float32)
        else:
            images = self.preprocess(images)
        features = self.encoder(images, training=False)
        if features.shape.rank != 2:
            raise ValueError(
                f"The encoder's output has shape {features.shape}; feature extraction "
                "expects (batch, dim): add global average pooling to the encoder."
            )
        return tf.cast(features, tf.float32)


def extract_features(
    encoder: keras.Model | Callable,
    dataset: tf.data.Dataset,
    preprocess: Callable | None = None,
    progress: str | None = None,
) -> Features:
    """Features of a whole dataset, once.

    For repeated extraction with the same encoder keep a `FeatureExtractor`.

    Args:
        encoder: float (N,H,W,C) -> float (N,F).
        dataset: see `FeatureExtractor.extract`.
        preprocess: see `FeatureExtractor`.
        progress: title of a progress bar on a terminal; None shows none.

    Returns:
        The set's `Features`.
    """
    return FeatureExtractor(encoder, preprocess).extract(dataset, progress)


class MonitorFeatures:
    """The labelled set that callbacks watch, extracted once for all of them.

    Args:
        train_dataset: labelled batches that kNN votes with and a probe learns from.
        test_dataset: labelled batches that are scored.
        preprocess: see `FeatureExtractor`.
        strategy: see `FeatureExtractor`. Of several hosts each has its share of the
            sets, as `moco_tf.distribution.of_all_hosts` joins them.
        counts: examples of both sets, where there are several hosts.
    """

    def __init__(
        self,
        train_dataset: tf.data.Dataset,
        test_dataset: tf.data.Dataset,
        preprocess: Callable | None = None,
        strategy: tf.distribute.Strategy | None = None,
        counts: tuple[int, int] = (0, 0),
    ):
        """See the class docstring."""
        self.train_dataset = train_dataset
        self.test_dataset = test_dataset
        self.preprocess = preprocess
        self.strategy = strategy
        self.counts = counts
        self._is_shared = strategy is not None and hosts(strategy) > 1
        self._extractor: FeatureExtractor | None = None
        self._step: int | None = None
        self._newest: tuple[Features, Features] | None = None

    def get(
        self, encoder: keras.Model | Callable, step: int
    ) -> tuple[Features, Features]:
        """Train and test features of the encoder as it is at `step`.

        Only the newest pair is held, so ask for one step from all callbacks before
        going on to the next.

        Args:
            encoder: the encoder to judge.
            step: any number that changes whenever the encoder's weights do.

        Returns:
            (train, test) `Features`.
        """
        if self._extractor is None or self._extractor.encoder is not encoder:
            self._extractor = FeatureExtractor(encoder, self.preprocess, self.strategy)
            self._newest = None
        if self._newest is None or step != self._step:
            self._newest = None  # frees the old pair before the new one is made
            if self._is_shared:
                variables = getattr(encoder, "non_trainable_variables", [])
                take_first_hosts(self.strategy, variables)
            self._newest = (
                self._of_all(self.train_dataset, self.counts[0]),
                self._of_all(self.test_dataset, self.counts[1]),
            )
            self._step = step
        return self._newest

    def _of_all(self, dataset, count):
        own = self._extractor.extract(dataset)
        if not self._is_shared:
            return own
        parts = own.features, own.labels
        parts = [of_all_hosts(self.strategy, part, count) for part in parts]
        return Features(*parts, np.arange(count))


def checked_labels(
    labels: np.ndarray, features: np.ndarray, which: str, probe: str
) -> np.ndarray:
    """Labels as int64, or a sentence on why the probe cannot use them.

    Args:
        labels: int (examples,).
        features: (examples, dim).
        which: "train" or "test", for the error.
        probe: what wants the labels, for the error.

    Returns:
        int64 (examples,), none negative.

    Raises:
        ValueError: not one label for each feature row, or some are -1.
    """
    labels = np.asarray(labels).astype(np.int64)
    if labels.shape != (len(features),):
        raise ValueError(
            f"The {which} set has labels of shape {labels.shape} for {len(features)} "
            "features; expected one label for each feature row."
        )
    unlabelled = int(np.sum(labels < 0))
    if unlabelled:
        raise ValueError(
            f"{unlabelled} of {len(labels)} examples of the {which} set have no label "
            f"(-1); the {probe} needs a labelled set, so name one or switch it off."
        )
    return labels
