"""Accuracies of logistic regression on a few unit features a class.

Source: Tian et al. 2020 (arXiv 2003.11539), section 3.3; here with all of a set's
classes at once rather than five of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

_ITERATIONS = 1000


def draw(labels: np.ndarray, shots: int, random: np.random.Generator) -> np.ndarray:
    """Rows of so many examples of each class.

    Args:
        labels: int (examples,), each class `shots` times or more.
        shots: how many of each.
        random: decides which.

    Returns:
        int64 (classes * shots,), class by class.
    """
    order = random.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.flatnonzero(np.diff(labels[by_class], prepend=-1))
    return by_class[starts[:, None] + np.arange(shots)].reshape(-1)


def accuracies(
    train: tuple[np.ndarray, np.ndarray],
    tests: Sequence[tuple[np.ndarray, np.ndarray]],
    shots: int,
    draws: int,
    inverse_penalty: float,
    seed: int,
) -> Iterator[list[float]]:
    """Top-1 accuracy on each test set, a draw of training examples after the other.

    Args:
        train: float (examples, dim) and int (examples,), each class `shots` times.
        tests: the same of each test set.
        shots: examples of each class.
        draws: how many accuracies.
        inverse_penalty: C of scikit-learn's logistic regression.
        seed: of the draws; those of other `shots` are independent.
    """
    features = _unit(train[0])
    asked = [(_unit(rows), labels) for rows, labels in tests]
    for number in range(draws):
        rows = draw(train[1], shots, np.random.default_rng([seed, shots, number]))
        classifier = LogisticRegression(C=inverse_penalty, max_iter=_ITERATIONS)
        classifier.fit(features[rows], train[1][rows])
        yield [float(classifier.score(*each)) for each in asked]


def _unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
