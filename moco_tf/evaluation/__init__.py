"""Judging a frozen encoder: cached features, kNN votes, linear classifiers."""

from __future__ import annotations

from moco_tf.evaluation.cache import cached_features
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.classifier import LinearClassifier
from moco_tf.evaluation.features import (
    FeatureExtractor,
    Features,
    MonitorFeatures,
    extract_features,
)
from moco_tf.evaluation.knn import (
    knn_accuracy,
    knn_predict,
    knn_predict_all,
    nearest_neighbours,
)
from moco_tf.evaluation.linear import linear_accuracy
from moco_tf.evaluation.sweep import Candidate, linear_sweep

__all__ = [
    "Candidate",
    "FeatureExtractor",
    "Features",
    "LinearClassifier",
    "MonitorFeatures",
    "cached_features",
    "explain_chance",
    "extract_features",
    "knn_accuracy",
    "knn_predict",
    "knn_predict_all",
    "linear_accuracy",
    "linear_sweep",
    "nearest_neighbours",
]
