"""The nearest others of the images of a set."""

from __future__ import annotations

import numpy as np

from moco_tf.evaluation.embed.embeddings import Embeddings
from moco_tf.evaluation.knn.vote import nearest_neighbours


def nearest_others(
    embeddings: Embeddings,
    k: int,
    rows: np.ndarray | None = None,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k images most similar to each image, itself left out, best first.

    Args:
        embeddings: of the images, on disk.
        k: at most one less than they are.
        rows: int (queries,), of which images; None for all.
        progress: title of a progress bar on a terminal; None shows none.

    Returns:
        int64 (queries, k) row numbers, and float32 (queries, k) cosine similarities.
    """
    own = np.arange(len(embeddings)) if rows is None else np.asarray(rows)
    queries = embeddings.features if rows is None else embeddings.features[own]
    index, cosine = nearest_neighbours(embeddings.features, queries, k + 1, progress)
    is_own = index == own[:, None]
    # Among more copies than k an image may not find itself.
    is_own[~is_own.any(axis=1), -1] = True
    return index[~is_own].reshape(-1, k), cosine[~is_own].reshape(-1, k)
