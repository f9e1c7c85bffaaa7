"""Places on a plane for rows of features."""

from __future__ import annotations

import numpy as np

from moco_tf.config import ConfigError

_DIMENSIONS = 50  # that the neighbours are found in


def places_of(
    rows: np.ndarray, method: str, perplexity: float, seed: int = 0
) -> np.ndarray:
    """Places such that what is alike is close together; distances mean little.

    Args:
        rows: float32 (images, dim), unit rows; at least 4.
        method: "tsne" (van der Maaten and Hinton 2008) or "umap".
        perplexity: of tsne; reduced where there are too few images for it.
        seed: where they start from.

    Returns:
        float64 (images, 2), 0 to 1 both ways.

    Raises:
        ConfigError: umap is asked for and not there.
    """
    # Imported here: scikit-learn's manifolds take a second, umap several.
    from sklearn.decomposition import PCA

    count = len(rows)
    if not np.ptp(rows, axis=0).any():  # all the same
        return np.full((count, 2), 0.5)
    parts = min(_DIMENSIONS, *rows.shape)
    rows = PCA(parts, random_state=seed).fit_transform(rows)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ConfigError(
                "method=umap needs umap-learn; install it with `pip install "
                "umap-learn` (the extra moco_tf[umap]), or use --method=tsne."
            ) from error
        places = UMAP(n_neighbors=min(15, count - 1), random_state=seed).fit_transform(
            rows
        )
    else:
        from sklearn.manifold import TSNE

        most = (count - 1) / 3
        start = "pca" if parts > 1 else "random"
        places = TSNE(
            perplexity=min(perplexity, most), init=start, random_state=seed
        ).fit_transform(rows)
    return _within(places)


def principal_places(features: np.ndarray) -> np.ndarray:
    """Places by the two directions in which unit rows differ most (PCA), in a moment.

    Args:
        features: float (images, dim); at least 2.

    Returns:
        float64 (images, 2), 0 to 1 both ways. A direction points to where the largest
        of its parts is positive, so that later maps are not mirrored.
    """
    rows = features.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows -= rows.mean(axis=0)
    # A few more directions than wanted, turned towards the widest ones (Halko 2011).
    count = min(8, rows.shape[1])
    turned = np.random.default_rng(0).normal(size=(rows.shape[1], count))
    for _ in range(6):
        turned, _ = np.linalg.qr(rows.T @ (rows @ turned))
    _, _, within = np.linalg.svd(rows @ turned, full_matrices=False)
    axes = turned @ within[:2].T
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    places = rows @ axes
    if places.shape[1] < 2:
        places = np.concatenate([places, np.zeros((len(places), 1))], axis=1)
    return _within(places)


def _within(places):
    """The same from 0 to 1 both ways."""
    places = np.asarray(places, np.float64)
    places = places - places.min(axis=0)
    return places / np.maximum(places.max(axis=0), 1e-12)
