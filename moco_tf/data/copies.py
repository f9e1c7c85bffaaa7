"""Files of the same bytes."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from moco_tf.data.threads import CORES
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
            of_size[file[1]].append((place, file[0]))
    alike = [file for same in of_size.values() if len(same) > 1 for file in same]
    first: dict[bytes, int] = {}
    with concurrent.futures.ThreadPoolExecutor(max(4, 2 * CORES)) as pool:
        digests = pool.map(_digest, [path for _, path in alike])
        found = zip(alike, watched(digests, "comparing files", len(alike)))
        for (place, _), digest in found:
            if digest is not None:
                numbers[place] = first.setdefault(digest, place)
    return numbers


def _digest(path):
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        log.warning("%s cannot be compared (%s).", path, error.strerror)
        return None
    return digest.digest()
