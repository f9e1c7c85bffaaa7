"""Judging an encoder: a room for each protocol, and what they share.

Names come when they are asked for: the settings are read before TensorFlow is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moco_tf.lazy import importing

if TYPE_CHECKING:
    from moco_tf.evaluation.cache import cached_features
    from moco_tf.evaluation.chance import explain_chance
    from moco_tf.evaluation.detection.detector import build_detector
    from moco_tf.evaluation.embed.embeddings import Embeddings
    from moco_tf.evaluation.embed.reading import open_embeddings
    from moco_tf.evaluation.features import (
        FeatureExtractor,
        Features,
        MonitorFeatures,
        extract_features,
    )
    from moco_tf.evaluation.knn.gallery import neighbour_gallery
    from moco_tf.evaluation.knn.vote import (
        knn_accuracy,
        knn_predict,
        knn_predict_all,
        nearest_neighbours,
    )
    from moco_tf.evaluation.linear.candidates import Candidate, linear_sweep
    from moco_tf.evaluation.linear.classifier import LinearClassifier
    from moco_tf.evaluation.linear.logistic import linear_accuracy
    from moco_tf.evaluation.run import evaluate

_HOMES = {
    "Candidate": "linear.candidates",
    "Embeddings": "embed.embeddings",
    "FeatureExtractor": "features",
    "Features": "features",
    "LinearClassifier": "linear.classifier",
    "MonitorFeatures": "features",
    "build_detector": "detection.detector",
    "cached_features": "cache",
    "evaluate": "run",
    "explain_chance": "chance",
    "extract_features": "features",
    "knn_accuracy": "knn.vote",
    "knn_predict": "knn.vote",
    "knn_predict_all": "knn.vote",
    "linear_accuracy": "linear.logistic",
    "linear_sweep": "linear.candidates",
    "nearest_neighbours": "knn.vote",
    "neighbour_gallery": "knn.gallery",
    "open_embeddings": "embed.reading",
}

__all__ = [
    "Candidate",
    "Embeddings",
    "FeatureExtractor",
    "Features",
    "LinearClassifier",
    "MonitorFeatures",
    "build_detector",
    "cached_features",
    "evaluate",
    "explain_chance",
    "extract_features",
    "knn_accuracy",
    "knn_predict",
    "knn_predict_all",
    "linear_accuracy",
    "linear_sweep",
    "nearest_neighbours",
    "neighbour_gallery",
    "open_embeddings",
]


__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
