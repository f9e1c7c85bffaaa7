"""Noisy clusters of features, a class each."""

import numpy as np

from moco_tf.evaluation import Features


def clusters(count, classes=5, dim=24, noise=3.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, count)
    features = centres[labels] + noise * rng.normal(size=(count, dim))
    return features.astype(np.float32), labels


def some_features(count=6):
    features, labels = clusters(count)
    return Features(features, labels.astype(np.int64), np.arange(count))
