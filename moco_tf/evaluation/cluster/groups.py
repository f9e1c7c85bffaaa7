"""k-means on unit rows, with a block of them in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score

from moco_tf.data.labelled import evenly_spread
from moco_tf.evaluation.embed.embeddings import Embeddings
from moco_tf.log import watched

# Up to so many images k-means sees them all at once, beyond it blocks of so many.
_WHOLE, _BLOCK = 20_000, 2**14
# Images that the silhouette is computed of; it compares all with all.
_SAMPLE = 4000


def centres_of(embeddings: Embeddings, clusters: int, seed: int = 0) -> np.ndarray:
    """Centres of groups of like images.

    Args:
        embeddings: of the images.
        clusters: how many, at most as many as images.
        seed: where they start from.

    Returns:
        float32 (clusters, dim), not of unit length.
    """
    count = len(embeddings)
    if count <= _WHOLE:
        rows = embeddings.unit(slice(0, count))
        return _fitted(rows, clusters, seed).cluster_centers_.astype(np.float32)
    sample = embeddings.unit(evenly_spread(count, _WHOLE))
    start = _fitted(sample, clusters, seed)
    means = MiniBatchKMeans(
        clusters,
        init=start.cluster_centers_,
        n_init=1,
        batch_size=_BLOCK,
        random_state=seed,
    )
    blocks = -(-count // _BLOCK)
    # An order that neighbours in a folder have no part in: each block is of all places.
    order = np.random.default_rng(seed).permutation(count)
    for number in watched(range(blocks), "k-means"):
        rows = np.sort(order[number::blocks])
        means.partial_fit(embeddings.unit(rows))
    return means.cluster_centers_.astype(np.float32)


def _fitted(rows, clusters, seed):
    with warnings.catch_warnings():
        # Of images that are all the same there are fewer groups, which shows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(clusters, n_init=3, random_state=seed).fit(rows)


def assigned(
    embeddings: Embeddings, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each image, and the distance to it.

    Args:
        embeddings: of the images.
        centres: float32 (clusters, dim).

    Returns:
        int64 (images,) and float32 (images,), between 0 and 2.
    """
    cluster = np.empty(len(embeddings), np.int64)
    distance = np.empty(len(embeddings), np.float32)
    own = np.sum(centres**2, axis=1)
    for place, rows in embeddings.blocks(_BLOCK):
        square = np.sum(rows**2, axis=1)[:, None] - 2 * rows @ centres.T + own
        cluster[place] = nearest = square.argmin(axis=1)
        best = square[np.arange(len(rows)), nearest]
        distance[place] = np.sqrt(np.maximum(best, 0))
    return cluster, distance


def silhouettes(
    embeddings: Embeddings, tried: Sequence[int], seed: int = 0
) -> dict[int, float]:
    """How well separated so many groups are, -1 to 1, of a sample of the images.

    Args:
        embeddings: of the images.
        tried: numbers of groups; those that are not below the sample's size are left
            out.
        seed: where the centres start from.

    Returns:
        Number of groups -> mean silhouette (Rousseeuw 1987) by cosine.
    """
    rows = embeddings.unit(evenly_spread(len(embeddings), _SAMPLE))
    found = {}
    for clusters in watched(sorted(set(tried)), "trying numbers of groups"):
        if clusters >= len(rows):
            continue
        labels = _fitted(rows, clusters, seed).labels_
        if len(np.unique(labels)) > 1:
            score = silhouette_score(rows, labels, metric="cosine")
            found[clusters] = float(score)
    return found
