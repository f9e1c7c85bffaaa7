"""Groups of images that are copies of one another."""

from __future__ import annotations

import collections
import hashlib
import logging
import pathlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from moco_tf.log import watched

log = logging.getLogger("moco_tf")

_CHUNK = 2**20


def exact_copies(files: Sequence[tuple[pathlib.Path, int] | None]) -> np.ndarray:
    """Numbers that are equal where files hold the same bytes.

    Only files that share their size with another one are read.

    Args:
        files: path and size of each; None of an image that is no file.

    Returns:
        int64 (count,); of a file that is like no other one, its own place.
    """
    numbers = np.arange(len(files))
    of_size = collections.defaultdict(list)
    for place, file in enumerate(files):
        if file is not None:
            of_size[file[1]].append(place)
    alike = [
        place for places in of_size.values() if len(places) > 1 for place in places
    ]
    first: dict[str, int] = {}
    for place in watched(alike, "comparing files"):
        path = files[place][0]  # type: ignore[index]  # None is of no size
        try:
            digest = _digest(path)
        except OSError as error:
            log.warning("%s cannot be compared (%s).", path, error.strerror)
            continue
        numbers[place] = first.setdefault(digest, place)
    return numbers


def _digest(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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
