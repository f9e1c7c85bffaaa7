"""How near is a near-duplicate: chosen from how far neighbours lie from each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma

# The neighbours that an image's surroundings are measured by: near ones may be copies.
FAR, MIDDLE = 20, 10
# Images that may stand out by chance, of a whole set without copies.
INVENTED = 0.5
# Images whose surroundings are all copies are judged by those of others: this share of
# images has nearer ones.
_CROWDED = 0.05


@dataclass(frozen=True)
class Standing:
    """When two images stand out from their surroundings.

    Attributes:
        ratio: how far they may be from each other, as a share of how far either is
            from its `far`-th neighbour.
        surroundings: float32 (images,), that distance; 2 - 2 cosine is its square.
        far: which neighbour that is.
        dimension: of the features where they lie, estimated: how fast neighbours
            become more with distance.
    """

    ratio: float
    surroundings: np.ndarray
    far: int
    dimension: float

    def is_pair(self, one: np.ndarray, other: np.ndarray, cosine: np.ndarray):
        """Whether images are copies: both must see the other stand out.

        Args:
            one: int (pairs,), rows.
            other: int (pairs,), rows.
            cosine: float32 (pairs,).

        Returns:
            bool (pairs,).
        """
        nearest = np.minimum(self.surroundings[one], self.surroundings[other])
        return distances(cosine) <= self.ratio * nearest


def distances(cosine: np.ndarray) -> np.ndarray:
    """Distances between unit rows of these cosines."""
    return np.sqrt(np.maximum(2 - 2 * np.asarray(cosine, np.float64), 0))


def choose(cosine: np.ndarray) -> Standing | None:
    """Chooses how much nearer than its surroundings a copy must be.

    Where images lie evenly in m dimensions, the distance to the nearest, as a share r
    of that to the k-th, is larger with a chance of (1 - r^m)^(k-1). m is estimated from
    neighbours k/2 to k (Levina and Bickel 2004), which copies hardly reach, and r is
    such that a set of this size without copies has `INVENTED` images below it.

    Args:
        cosine: float32 (images, k), of each image's nearest others, best first.

    Returns:
        When two stand out; None where there are fewer than 4 neighbours to go by.
    """
    count, known = cosine.shape
    far = min(FAR, known)
    if far < 4:
        return None
    middle = far // 2
    apart = distances(cosine)
    rim, half = apart[:, far - 1], apart[:, middle - 1]
    usable = half > 1e-4  # what float32 can tell from 0
    if not usable.any():
        return None
    rim_of_usable = rim[usable]
    growth = np.log(rim_of_usable / half[usable])
    # The mean of log(d_k / d_j) is (digamma(k) - digamma(j)) / m.
    expected = digamma(far) - digamma(middle)
    dimension = float(expected / max(np.mean(growth), 1e-9))
    # 1 - (1 - r^m)^(k-1) = INVENTED / count
    share = 1 - (1 - min(INVENTED / count, 0.5)) ** (1 / (far - 1))
    ratio = float(share ** (1 / dimension))
    crowded = float(np.quantile(rim_of_usable, _CROWDED))
    surroundings = np.maximum(rim, crowded)
    return Standing(ratio, surroundings, far, dimension)
