"""A quick linear probe on cached features, for watching a run.

Softmax regression on standardised features: a monitor that takes seconds, not the
paper's protocol (100 epochs with augmentation), whose figure it approximates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.evaluation.features import checked_labels

_HELD_OUT = 0.1  # share of the train set that picks the weight penalty
_BETA1, _BETA2, _EPSILON = 0.9, 0.99, 1e-8  # Adam


def linear_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    penalties: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
    steps: int = 1000,
    batch_size: int = 1024,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> float:
    """Top-1 accuracy of softmax regression on frozen features.

    All penalties are fitted side by side by Adam with a cosine schedule; the best on
    a held-out tenth of the *train* set is refitted on all of it. The test set is
    only scored.

    Args:
        train_features: float (train, dim); standardised here.
        train_labels: int (train,), none of them -1.
        test_features: float (test, dim); standardised by the train set's moments.
        test_labels: int (test,), none of them -1.
        penalties: candidates for the factor of |weights|^2 / 2 in the loss.
        steps: minibatches of one fit.
        batch_size: examples a minibatch.
        learning_rate: Adam's first rate; features have unit variance, so one serves.
        seed: decides the held-out tenth and the order of the batches.

    Returns:
        Fraction of the test set given its own label, in [0, 1].

    Raises:
        ValueError: an unlabelled example, fewer than two classes, fewer than ten
            training examples, or shapes that disagree.
    """
    train_labels = checked_labels(train_labels, train_features, "train", "linear probe")
    test_labels = checked_labels(test_labels, test_features, "test", "linear probe")
    classes, dense = np.unique(train_labels, return_inverse=True)
    if len(classes) < 2 or len(dense) < 10:
        raise ValueError(
            f"The linear probe's train set has {len(dense)} examples of {len(classes)} "
            "classes; it needs at least 10 examples and 2 classes."
        )
    train, test = standardise(train_features, test_features)
    rng = np.random.default_rng(seed)
    schedule = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate)
    best = penalties[0]
    if len(penalties) > 1:
        order = rng.permutation(len(dense))
        held, kept = np.split(order, [max(1, int(_HELD_OUT * len(order)))])
        predicted = _fit_predict(
            train[kept],
            dense[kept],
            train[held],
            len(classes),
            penalties,
            rng,
            schedule,
        )
        best = penalties[int(np.argmax(np.mean(predicted == dense[held], axis=1)))]
    predicted = _fit_predict(train, dense, test, len(classes), [best], rng, schedule)
    return float(np.mean(classes[predicted[0]] == test_labels))


def standardise(train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Both sets, float32, with the train set's mean taken off and its deviation 1."""
    train, test = (np.asarray(part, np.float32) for part in (train, test))
    # Sums are float64; whole sets never are, ImageNet's features would fill 20 GB.
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, test = train - mean, test - mean
    std = np.sqrt(np.mean(np.square(train), axis=0, dtype=np.float64))
    std = np.where(std < 1e-6, 1.0, std).astype(np.float32)  # a dead unit stays zero
    train /= std
    test /= std
    return [train, test]


def _fit_predict(features, labels, queries, num_classes, penalties, rng, schedule):
    """Int64 (penalties, queries): the classes that each candidate predicts."""
    steps = schedule["steps"]
    batch_size = min(schedule["batch_size"], len(features))
    epochs = -(-steps * batch_size // len(features))
    order = np.concatenate([rng.permutation(len(features)) for _ in range(epochs)])
    batches = order[: steps * batch_size].reshape(steps, batch_size)
    # One product serves all candidates: their weights lie side by side.
    weights, bias = _fit(
        tf.constant(features),
        tf.constant(labels, tf.int32),
        tf.constant(batches, tf.int32),
        tf.constant(np.repeat(penalties, num_classes), tf.float32),
        tf.constant(schedule["learning_rate"], tf.float32),
        num_classes,
    )
    logits = queries @ weights.numpy() + bias.numpy()
    return logits.reshape(len(queries), len(penalties), num_classes).argmax(axis=2).T


@tf.function(reduce_retracing=True)
def _fit(features, labels, batches, penalty, learning_rate, num_classes):
    """Adam on the softmax regressions of all candidates.

    Args:
        features: float32 (train, dim).
        labels: int32 (train,) in [0, num_classes).
        batches: int32 (steps, batch) rows of `features`.
        penalty: float32 (candidates * num_classes,), one for each weight column.
        learning_rate: float32 ().
        num_classes: Python int.

    Returns:
        float32 (dim, candidates * num_classes) weights, and the bias.
    """
    columns = tf.size(penalty)
    # The bias is the last row, fed by a constant one and not penalised.
    features = tf.concat([features, tf.ones((tf.shape(features)[0], 1))], axis=1)
    weights = tf.zeros((tf.shape(features)[1], columns))
    mean, square = tf.zeros_like(weights), tf.zeros_like(weights)
    penalised = tf.concat([tf.ones_like(weights[:-1]), tf.zeros((1, columns))], axis=0)
    decay = penalised * penalty
    steps, batch = tf.shape(batches)[0], tf.shape(batches)[1]
    for step in tf.range(steps):
        # Wide batches gathered ahead of their step would push its own out of the cache.
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        rows = tf.gather(features, batches[step])
        target = tf.one_hot(tf.gather(labels, batches[step]), num_classes)[:, None]
        logits = tf.reshape(rows @ weights, (batch, -1, num_classes))
        error = tf.reshape(tf.nn.softmax(logits) - target, (batch, columns))
        gradient = tf.matmul(rows, error, transpose_a=True) / tf.cast(batch, tf.float32)
        gradient += decay * weights
        mean = _BETA1 * mean + (1 - _BETA1) * gradient
        square = _BETA2 * square + (1 - _BETA2) * gradient**2
        done = tf.cast(step, tf.float32)
        rate = (
            learning_rate
            * 0.5
            * (1 + tf.cos(np.pi * done / tf.cast(steps, tf.float32)))
        )
        unbiased = mean / (1 - _BETA1 ** (done + 1))
        scale = tf.sqrt(square / (1 - _BETA2 ** (done + 1))) + _EPSILON
        weights -= rate * unbiased / scale
    return weights[:-1], weights[-1]
