"""Groups of images that are copies of one another."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def groups_of(count: int, one: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Groups of what pairs connect, also by way of others.

    Args:
        count: of all.
        one: int (pairs,).
        other: int (pairs,).

    Returns:
        For each group of two or more its members, rising; the largest groups first.
    """
    links = coo_matrix((np.ones(len(one), bool), (one, other)), (count, count))
    group = connected_components(links, directed=False)[1]
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    found = [members for members in np.split(order, ends) if len(members) > 1]
    return sorted(found, key=lambda members: (-len(members), members[0]))
