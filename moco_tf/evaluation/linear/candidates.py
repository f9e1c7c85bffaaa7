"""Softmax regressions on cached features: many candidates as one batched problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from moco_tf.evaluation.features import Features, checked_labels
from moco_tf.evaluation.linear.logistic import standardise
from moco_tf.log import watched

_MOMENTUM = 0.9
_LOGITS_PER_CHUNK = 2**25


@dataclass(frozen=True)
class Candidate:
    """One way to fit the classifier, and what came of it.

    Attributes:
        solver: "sgd" or "lbfgs".
        weight_decay: factor of |weights|^2 / 2 in the mean loss; the bias is free.
        learning_rate: of sgd, for a batch of 256; None for lbfgs.
        held_out: top-1 on the held-out part of the training images, 0 to 1.
        top1: on the test images, after training on all training images; None where
            the candidate was not its solver's best.
        top5: as top1.
        others: top1 and top5 on each further test set; () where top1 is None.
    """

    solver: str
    weight_decay: float
    learning_rate: float | None = None
    held_out: float = 0.0
    top1: float | None = None
    top5: float | None = None
    others: tuple[tuple[float, float], ...] = ()


def linear_sweep(
    train: Features,
    test: Features,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    *,
    epochs: int = 100,
    batch_size: int = 1024,
    held_out: float = 0.1,
    lbfgs: bool = True,
    seed: int = 0,
    progress: bool = False,
    others: Sequence[Features] = (),
) -> tuple[list[Candidate], Candidate]:
    """Fits every rate with every penalty; the held-out images choose.

    Features are standardised by the training images' moments. SGD has momentum 0.9 and
    a cosine schedule, from zero weights. Each solver's best candidate is trained again
    on all training images and scored on the test images, which choose nothing.

    Args:
        train: features to learn from, labels 0 .. classes - 1.
        test: features that are scored.
        learning_rates: of SGD, for a batch of 256; scaled linearly with batch_size.
        weight_decays: penalties, for both solvers.
        epochs: passes over the training images, of SGD.
        batch_size: of SGD; at most the training images. A last partial batch is left
            out, other images each time.
        held_out: share of the training images that chooses.
        lbfgs: also fit scikit-learn's `LogisticRegression` with each penalty.
        seed: decides the held-out images and the order of batches.
        progress: show progress bars on a terminal.
        others: further test sets, which each solver's best is scored on as well.

    Returns:
        All candidates, and the one that the held-out images prefer.

    Raises:
        ValueError: an unlabelled example, fewer than two classes in training, or too
            few images to hold any out.
    """
    labels = checked_labels(train.labels, train.features, "train", "linear sweep")
    tests = (test, *others)
    test_labels = [
        checked_labels(each.labels, each.features, "test", "linear sweep")
        for each in tests
    ]
    count = int(held_out * len(labels))
    num_classes = 1 + max(int(each.max()) for each in (labels, *test_labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    held, kept = np.split(order, [count])
    if not count or len(np.unique(labels[kept])) < 2:
        raise ValueError(
            f"{len(labels)} training images of {len(np.unique(labels))} classes cannot "
            f"be split with held_out={held_out}; the sweep needs at least two classes "
            "to learn and one image to choose by."
        )
    queries = np.concatenate([each.features for each in tests])
    rows, queries = standardise(train.features, queries)
    learn, choose = (rows[kept], labels[kept]), (rows[held], labels[held])
    whole = rows, labels
    ends = np.cumsum([len(each) for each in test_labels])[:-1]
    scored = list(zip(np.split(queries, ends), test_labels))
    schedule = dict(epochs=epochs, batch_size=batch_size, seed=seed)
    tried = [
        Candidate("sgd", decay, rate)
        for rate in learning_rates
        for decay in weight_decays
    ]
    title = "linear sweep" if progress else None
    fitted = _sgd(learn, tried, num_classes, **schedule, progress=title)
    tried = [
        replace(candidate, held_out=top1)
        for candidate, (top1, _) in zip(tried, _accuracies(fitted, choose))
    ]
    title = "best of the sweep" if progress else None
    best = max(tried, key=lambda candidate: candidate.held_out)
    fitted = _sgd(whole, [best], num_classes, **schedule, progress=title)
    _score_tests(tried, best, fitted, scored)
    if lbfgs:
        tried += _lbfgs_candidates(
            learn, choose, whole, scored, weight_decays, num_classes, progress
        )
    finished = [candidate for candidate in tried if candidate.top1 is not None]
    return tried, max(finished, key=lambda candidate: candidate.held_out)


def _score_tests(tried, best, fitted, scored):
    (top1, top5), *others = (_accuracies(fitted, each)[0] for each in scored)
    tried[tried.index(best)] = replace(
        best, top1=top1, top5=top5, others=tuple(map(tuple, others))
    )


def _lbfgs_candidates(learn, choose, whole, scored, decays, num_classes, progress):
    candidates = []
    for decay in watched(decays, "L-BFGS" if progress else None):
        fitted = _lbfgs(learn, decay, num_classes)
        ((top1, _),) = _accuracies(fitted, choose)
        candidates.append(Candidate("lbfgs", decay, held_out=top1))
    best = max(candidates, key=lambda candidate: candidate.held_out)
    fitted = _lbfgs(whole, best.weight_decay, num_classes)
    _score_tests(candidates, best, fitted, scored)
    return candidates


def _lbfgs(data, decay, num_classes):
    """Weights float32 (dim, 1, classes) and bias (1, classes)."""
    from sklearn.linear_model import LogisticRegression

    rows, labels = data
    # scikit-learn's objective is C x the summed loss + |weights|^2 / 2. Of two classes
    # it fits one vector, the difference of ours, whose penalty is half of that.
    factor = 2 if len(np.unique(labels)) == 2 else 1
    model = LogisticRegression(C=factor / (decay * len(rows)), max_iter=1000, tol=1e-4)
    model.fit(rows, labels)
    weights = np.zeros((rows.shape[1], 1, num_classes), np.float32)
    bias = np.full((1, num_classes), -np.inf, np.float32)  # classes it never saw
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps the second class's only
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weights[:, 0, model.classes_] = coefficients.T
    bias[0, model.classes_] = intercepts
    return weights, bias


def _sgd(data, candidates, num_classes, epochs, batch_size, seed, progress):
    """Weights float32 (dim, candidates, classes) and biases (candidates, classes)."""
    rows, labels = (tf.constant(part) for part in data)
    batch = min(batch_size, len(data[0]))
    steps = len(data[0]) // batch
    columns = len(candidates) * num_classes
    rate = [candidate.learning_rate * batch / 256 for candidate in candidates]
    decay = [candidate.weight_decay for candidate in candidates]
    rate, decay = (
        tf.constant(np.repeat(values, num_classes), tf.float32)
        for values in (rate, decay)
    )
    weights = tf.Variable(tf.zeros((rows.shape[1] + 1, columns)))
    velocity = tf.Variable(tf.zeros_like(weights))
    random = np.random.default_rng(seed)
    epoch_step = tf.function(_sgd_epoch)
    for epoch in watched(range(epochs), progress):
        order = random.permutation(len(data[0]))[: steps * batch]
        epoch_step(
            rows,
            labels,
            tf.constant(order.reshape(steps, batch)),
            weights,
            velocity,
            rate,
            decay,
            tf.constant(epoch / epochs, tf.float32),
            tf.constant(1 / (epochs * steps), tf.float32),
            num_classes,
        )
    result = weights.numpy().reshape(-1, len(candidates), num_classes)
    return result[:-1], result[-1]


def _sgd_epoch(
    rows, labels, order, weights, velocity, rate, decay, start, advance, num_classes
):
    """SGD over the batches of `order`, for all candidates at once.

    The candidates' weights lie side by side, float32 (dim + 1, candidates x classes),
    so that one product serves all. The last row is the bias, fed by a constant one and
    not penalised. `start` is the share of the run that is over, and each step takes
    `advance` of it.
    """
    steps, batch = order.shape
    penalised = tf.concat([tf.ones((rows.shape[1], 1)), tf.zeros((1, 1))], axis=0)
    for step in tf.range(steps):
        inputs = tf.gather(rows, order[step])
        inputs = tf.concat([inputs, tf.ones((batch, 1))], axis=1)
        target = tf.one_hot(tf.gather(labels, order[step]), num_classes)[:, None]
        logits = tf.reshape(inputs @ weights, (batch, -1, num_classes))
        error = tf.reshape(tf.nn.softmax(logits) - target, (batch, -1))
        gradient = tf.matmul(inputs, error, transpose_a=True) / batch
        gradient += penalised * decay * weights
        velocity.assign(_MOMENTUM * velocity + gradient)
        done = start + tf.cast(step, tf.float32) * advance
        weights.assign_sub(rate * 0.5 * (1 + tf.cos(np.pi * done)) * velocity)


def _accuracies(fitted, data):
    """Top-1 and top-5 of each candidate, 0 to 1; one that diverged has 0."""
    weights, bias = fitted
    rows, labels = data
    candidates, num_classes = bias.shape
    hits = np.zeros((candidates, 2))
    chunk = max(1, _LOGITS_PER_CHUNK // (candidates * num_classes))
    for start in range(0, len(rows), chunk):
        part, label = rows[start : start + chunk], labels[start : start + chunk]
        logits = np.tensordot(part, weights, axes=1) + bias
        own = np.take_along_axis(logits, label[:, None, None], axis=2)
        # Of equal logits the first wins, as in argmax.
        first = np.arange(num_classes) < label[:, None, None]
        rank = np.sum((logits > own) | ((logits == own) & first), axis=2)
        finite = ~np.isnan(logits).any(axis=2)
        right = [np.sum(finite & (rank < k), axis=0) for k in (1, 5)]
        hits += np.stack(right, axis=1)
    return (hits / len(rows)).tolist()
