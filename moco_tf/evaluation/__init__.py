"""Judging a frozen encoder: cached features, kNN vote, quick linear probe."""

from __future__ import annotations

from moco_tf.evaluation.features import (
    FeatureExtractor,
    Features,
    MonitorFeatures,
    extract_features,
)
from moco_tf.evaluation.knn import knn_accuracy, knn_predict, nearest_neighbours
from moco_tf.evaluation.linear import linear_accuracy

__all__ = [
    "FeatureExtractor",
    "Features",
    "MonitorFeatures",
    "extract_features",
    "knn_accuracy",
    "knn_predict",
    "linear_accuracy",
    "nearest_neighbours",
]
