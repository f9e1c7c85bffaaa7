"""The nearest images, and the nearest others of the images of a set."""

from __future__ import annotations

import numpy as np

from moco_tf.evaluation.embed.embeddings import Embeddings
from moco_tf.evaluation.knn.vote import nearest_neighbours
from moco_tf.evaluation.search.approximate import approximate_neighbours


def nearest(
    features: np.ndarray,
    queries: np.ndarray,
    k: int,
    progress: str | None = None,
    index: str = "exact",
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_neighbours`, or with index "faiss" as `approximate_neighbours`."""
    if index == "faiss":
        return approximate_neighbours(features, queries, k, progress)
    return nearest_neighbours(features, queries, k, progress)


def nearest_others(
    embeddings: Embeddings,
    k: int,
    rows: np.ndarray | None = None,
    progress: str | None = None,
    index: str = "exact",
) -> tuple[np.ndarray, np.ndarray]:
    """The k images most similar to each image, itself left out, best first.

    Args:
        embeddings: of the images, on disk.
        k: at most one less than they are.
        rows: int (queries,), of which images; None for all.
        progress: title of a progress bar on a terminal; None shows none.
        index: "exact", or "faiss", which may miss some.

    Returns:
        int64 (queries, k) row numbers, and float32 (queries, k) cosine similarities.
    """
    own = np.arange(len(embeddings)) if rows is None else np.asarray(rows)
    queries = embeddings.features if rows is None else embeddings.features[own]
    found, cosine = nearest(embeddings.features, queries, k + 1, progress, index)
    is_own = found == own[:, None]
    # Among more copies than k an image may not find itself.
    is_own[~is_own.any(axis=1), -1] = True
    return found[~is_own].reshape(-1, k), cosine[~is_own].reshape(-1, k)
