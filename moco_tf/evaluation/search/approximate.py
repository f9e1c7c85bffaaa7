"""Nearest neighbours of many rows by faiss, which looks at a part of the rows."""

from __future__ import annotations

import logging
import math

import numpy as np

from moco_tf.config import ConfigError
from moco_tf.evaluation.embed.embeddings import unit_rows
from moco_tf.evaluation.knn.vote import nearest_neighbours
from moco_tf.log import watched
from moco_tf.mistakes import reason

log = logging.getLogger("moco_tf")

# Lists of the index are so many times the root of the rows, as faiss's guide says.
_LISTS = 4
# Of which a query looks through so many at least, and twice as many until this share of
# the neighbours of some queries is found.
_FEWEST, _SHARE, _CHECKED = 8, 0.95, 100
# Rows that the lists' centres are learnt from, for each; faiss warns of fewer than 39.
_ROWS_PER_LIST, _FEWEST_ROWS = 64, 39
_ROWS, _QUERIES = 2**16, 2**12  # added, and asked, at once


def approximate_neighbours(
    features: np.ndarray, queries: np.ndarray, k: int, progress: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest_neighbours`, though a few of them may be missed; in memory.

    Rows are sorted into lists by the nearest of `4 sqrt(count)` centres, and a query is
    compared with those of the lists whose centres are nearest to it: of 8 lists, or of
    16, 32 and so on, until 95 % of the neighbours of 100 queries are found, which are
    searched exactly as well. The log says how many these are.

    Args:
        features: float (count, dim), finite; rows are normalised here.
        queries: float (queries, dim).
        k: at most `count`.
        progress: title of a progress bar on a terminal; None shows none.

    Returns:
        int64 (queries, k) row numbers, and float32 (queries, k) cosine similarities.

    Raises:
        ConfigError: faiss is not installed.
    """
    faiss = import_faiss()
    count, dim = features.shape
    lists = min(round(_LISTS * math.sqrt(count)), count // _FEWEST_ROWS)
    lists = max(1, lists)
    centres = faiss.IndexFlatIP(dim)
    found = faiss.IndexIVFFlat(centres, dim, lists, faiss.METRIC_INNER_PRODUCT)
    found.cp.spherical = True  # centres are unit rows too
    learnt = min(count, _ROWS_PER_LIST * lists)
    found.train(unit_rows(features[np.arange(learnt) * count // learnt]))
    for start in watched(range(0, count, _ROWS), progress and "sorting into lists"):
        found.add(unit_rows(features[start : start + _ROWS]))
    _choose_probes(found, features, queries, k)
    index = np.empty((len(queries), k), np.int64)
    cosine = np.empty((len(queries), k), np.float32)
    for start in watched(range(0, len(queries), _QUERIES), progress):
        some = slice(start, start + _QUERIES)
        cosine[some], index[some] = found.search(unit_rows(queries[some]), k)
    # Lists that hold fewer than k rows together.
    short = np.flatnonzero((index < 0).any(axis=1))
    if len(short):
        index[short], cosine[short] = nearest_neighbours(features, queries[short], k)
    return index, cosine


def _choose_probes(found, features, queries, k):
    """Sets how many lists a query looks through, by what some queries miss."""
    chosen = np.unique(np.linspace(0, len(queries) - 1, _CHECKED).astype(int))
    asked = queries[chosen]
    worst = nearest_neighbours(features, asked, k)[1][:, -1:]
    found.nprobe, share = _FEWEST // 2, 0.0
    while share < _SHARE and found.nprobe < found.nlist:
        found.nprobe = min(2 * found.nprobe, found.nlist)
        cosine, _ = found.search(unit_rows(asked), k)
        share = float(np.mean(cosine >= worst - 1e-6))  # a missing one is far below
    log.info(
        "faiss looks through %s of %s lists, and finds %.1f %% of the %s nearest of "
        "%s images that were searched exactly as well.",
        f"{found.nprobe:,}", f"{found.nlist:,}", 100 * share, f"{k:,}", len(chosen),
    )  # fmt: skip


def require_index(index: str) -> None:
    """Raises ConfigError where a kind of index needs faiss and it is not here."""
    if index == "faiss":
        import_faiss()


def import_faiss():
    """The package; ConfigError where it is not here."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ConfigError(
            "index=faiss needs faiss; install it with `pip install faiss-cpu` (the "
            "extra moco_tf[faiss]), or leave it out to search exactly."
        ) from error
    except ImportError as error:  # one that wants another NumPy
        raise ConfigError(
            f"index=faiss needs a faiss that fits ({reason(error)}); install one, or "
            "leave it out to search exactly."
        ) from error
    return faiss
