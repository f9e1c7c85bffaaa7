"""How good features look where nobody has labels."""

from __future__ import annotations

import numpy as np

NAMES = ("rankme", "alignment", "uniformity")
_SMALLEST = 1e-7  # RankMe's epsilon


def quality(query: np.ndarray, key: np.ndarray) -> dict[str, float]:
    """RankMe, alignment and uniformity of the features of two views of images.

    Args:
        query: float (images, dim), of one view of each; 2 images or more.
        key: the same, of the other view, in the same order.

    Returns:
        Figures by the `NAMES`; NaN where a feature is not finite.
    """
    both = np.concatenate([query, key]).astype(np.float64)
    if not np.isfinite(both).all():
        return dict.fromkeys(NAMES, np.nan)
    return {
        "rankme": rankme(both),
        "alignment": alignment(both[: len(query)], both[len(query) :]),
        "uniformity": uniformity(both[: len(query)]),
    }


def rankme(features: np.ndarray) -> float:
    """Dimensions that features span, from 1 to the lesser of their numbers.

    exp of the entropy of the singular values, as shares of their sum.

    Args:
        features: float (examples, dim), neither centred nor normalised.

    Source: Garrido et al. 2023 (arXiv 2210.02885), equation 1.
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(np.float64).tiny) + _SMALLEST
    return float(np.exp(-np.sum(shares * np.log(shares))))


def alignment(query: np.ndarray, key: np.ndarray) -> float:
    """Mean squared distance of unit features of two views of an image, 0 to 4.

    Args:
        query: float (images, dim).
        key: the same, of the other views.

    Source: Wang and Isola 2020 (arXiv 2005.10242), equation 4 with alpha 2.
    """
    return float(np.mean(np.sum((_unit(query) - _unit(key)) ** 2, axis=1)))


def uniformity(features: np.ndarray) -> float:
    """How evenly unit features cover the sphere, -8 to 0; lower is more evenly.

    log of the mean of exp(-2 d^2) over all pairs of different images.

    Args:
        features: float (images, dim), 2 images or more.

    Source: Wang and Isola 2020 (arXiv 2005.10242), equation 5 with t 2.
    """
    rows = _unit(features)
    first, second = np.triu_indices(len(rows), 1)
    squared = 2 - 2 * (rows @ rows.T)[first, second]
    return float(np.log(np.mean(np.exp(-2 * squared))))


def _unit(rows):
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.maximum(norms, np.finfo(np.float64).tiny)
