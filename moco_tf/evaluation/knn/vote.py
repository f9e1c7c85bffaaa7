"""Weighted k-nearest-neighbour vote on cached features.

Source: Wu et al. 2018, section 3.4 (instance discrimination); the same protocol as
the official MoCo CIFAR-10 demo.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.evaluation.features import checked_labels
from moco_tf.log import watched
from moco_tf.precision import full_float32

# Similarities held at once: 2**25 float32 are 128 MiB.
_SIMILARITIES_PER_CHUNK = 2**25
# Features compared at once; those of more are read block by block, from disk too.
_ROWS_PER_BLOCK = 2**16


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int = 200,
    temperature: float = 0.07,
) -> float:
    """Top-1 accuracy of the weighted kNN vote.

    Args:
        train_features: float (train, dim); rows are normalised here.
        train_labels: int (train,), none of them -1.
        test_features: float (test, dim).
        test_labels: int (test,), none of them -1.
        k: neighbours that vote, at most `train`.
        temperature: a neighbour of cosine similarity s votes with exp(s / temperature).

    Returns:
        Fraction of the test set given its own label, in [0, 1].

    Raises:
        ValueError: k out of range, an unlabelled example, or shapes that disagree.
    """
    test_labels = checked_labels(test_labels, test_features, "test", "kNN vote")
    predicted = knn_predict(train_features, train_labels, test_features, k, temperature)
    return float(np.mean(predicted == test_labels))


def knn_predict(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    k: int = 200,
    temperature: float = 0.07,
) -> np.ndarray:
    """Labels that the weighted kNN vote gives.

    Args:
        train_features: float (train, dim); rows are normalised here.
        train_labels: int (train,), none of them -1.
        test_features: float (test, dim).
        k: neighbours that vote, at most `train`.
        temperature: a neighbour of cosine similarity s votes with exp(s / temperature).

    Returns:
        int64 (test,). Equal votes go to the smallest label.

    Raises:
        ValueError: k out of range, an unlabelled example, or shapes that disagree.
    """
    every = knn_predict_all(
        train_features, train_labels, test_features, [k], [temperature]
    )
    return every[0, 0]


def knn_predict_all(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    ks: Sequence[int],
    temperatures: Sequence[float],
    progress: str | None = None,
) -> np.ndarray:
    """Labels that the votes of several k and temperatures give, in one pass.

    Args:
        train_features: float (train, dim); rows are normalised here.
        train_labels: int (train,), none of them -1.
        test_features: float (test, dim).
        ks: numbers of neighbours that vote, each at most `train`.
        temperatures: as in `knn_predict`; infinity gives every neighbour one vote.
        progress: title of a progress bar on a terminal; None shows none.

    Returns:
        int64 (temperatures, ks, test). Equal votes go to the smallest label.

    Raises:
        ValueError: k out of range, an unlabelled example, or shapes that disagree.
    """
    for temperature in temperatures:
        if not temperature > 0:
            raise ValueError(
                f"temperature={temperature} is not positive; kNN weights are "
                "exp(similarity / temperature), use e.g. 0.07."
            )
    train_labels = checked_labels(train_labels, train_features, "train", "kNN vote")
    classes, dense = np.unique(train_labels, return_inverse=True)
    dense = tf.constant(dense, tf.int32)
    rising = sorted(set(ks))
    for k in (rising[0], rising[-1]):
        _check_k(k, len(train_features))
    predicted = []
    for similarity, index in _neighbours(
        train_features, test_features, rising[-1], progress
    ):
        labels = tf.gather(dense, index)
        predicted.append(
            [
                _winners(similarity, labels, len(classes), rising, temperature)
                for temperature in temperatures
            ]
        )
    predicted = np.concatenate(predicted, axis=2)
    return classes[predicted[:, [rising.index(k) for k in ks]]]


def nearest_neighbours(
    features: np.ndarray, queries: np.ndarray, k: int, progress: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `features` most similar to each query, best first.

    Args:
        features: float (count, dim), which may lie on disk (`numpy.memmap`): a block
            of rows is in memory at a time. Rows are normalised here.
        queries: float (queries, dim).
        k: at most `count`.
        progress: title of a progress bar on a terminal; None shows none.

    Returns:
        int64 (queries, k) row numbers, and float32 (queries, k) cosine similarities.

    Raises:
        ValueError: k out of range, or dims that disagree.
    """
    index = np.empty((len(queries), k), np.int64)
    similarity = np.empty((len(queries), k), np.float32)
    start = 0
    for best, where in _neighbours(features, queries, k, progress):
        end = start + len(best)
        similarity[start:end], index[start:end] = best, where
        start = end
    return index, similarity


def _neighbours(features, queries, k, progress=None):
    """Yield (similarity, index), each (chunk, k), over chunks of the queries."""
    features, queries = np.asanyarray(features), np.asanyarray(queries)
    count = len(features)
    _check_k(k, count)
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1]:
        raise ValueError(
            f"Features of shape {features.shape} cannot be compared with queries of "
            f"shape {queries.shape}; expected (examples, dim) with one dim for both."
        )
    if not len(queries):
        raise ValueError("The test set is empty; kNN needs at least one example.")
    block = min(count, _ROWS_PER_BLOCK)
    chunk = max(1, _SIMILARITIES_PER_CHUNK // block)
    whole = _unit_rows(features) if count == block else None

    def rows(start):
        return _unit_rows(features[start : start + block]) if whole is None else whole

    for start in watched(range(0, len(queries), chunk), progress):
        some = _unit_rows(queries[start : start + chunk])
        best = None
        for first in range(0, count, block):
            with full_float32():
                similarity = tf.matmul(some, rows(first), transpose_b=True)
            found, place = tf.math.top_k(similarity, min(k, similarity.shape[1]))
            best = _better(best, (found, place + first), k)
        yield best


def _better(best, found, k):
    """The k largest of what was found before and now; of equals the earlier."""
    if best is None:
        return found
    similarity, index = (tf.concat(pair, axis=1) for pair in zip(best, found))
    similarity, place = tf.math.top_k(similarity, min(k, similarity.shape[1]))
    return similarity, tf.gather(index, place, batch_dims=1)


def _check_k(k, count):
    if not 1 <= k <= count:
        raise ValueError(
            f"k={k} neighbours cannot be taken from a train set of {count} examples; "
            f"use a k between 1 and {count}."
        )


def _unit_rows(rows):
    return tf.math.l2_normalize(tf.cast(np.asarray(rows), tf.float32), axis=1)


def _winners(similarity, labels, num_classes, ks, temperature):
    """Int64 (ks, chunk): the classes with most votes of the first k, for rising ks."""
    # The best neighbour is subtracted: same order, and no overflow when cold.
    weight = tf.exp((similarity - similarity[:, :1]) / temperature)
    rows = labels.shape[0]
    slot = tf.range(rows)[:, None] * num_classes + labels
    votes, start, winners = tf.zeros((rows * num_classes,)), 0, []
    for k in ks:
        votes += tf.math.unsorted_segment_sum(
            tf.reshape(weight[:, start:k], [-1]),
            tf.reshape(slot[:, start:k], [-1]),
            rows * num_classes,
        )
        start = k
        winners.append(tf.argmax(tf.reshape(votes, (rows, num_classes)), axis=1))
    return tf.stack(winners).numpy()
