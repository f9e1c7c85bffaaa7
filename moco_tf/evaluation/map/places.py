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
    places = np.asarray(places, np.float64)
    places -= places.min(axis=0)
    return places / np.maximum(places.max(axis=0), 1e-12)
