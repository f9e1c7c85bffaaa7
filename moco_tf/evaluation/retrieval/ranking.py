"""Ranks of the relevant images of each query, exactly, and the figures made of them.

Source: Musgrave et al. 2020 (arXiv 2003.08505), section 3.2, of R-precision and MAP@R.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from moco_tf.evaluation.embed.embeddings import unit_rows
from moco_tf.evaluation.features import checked_labels
from moco_tf.log import watched
from moco_tf.precision import full_float32

# Similarities held at once: 2**25 float32 are 128 MiB.
_SIMILARITIES_PER_CHUNK = 2**25


@dataclass(frozen=True)
class Ranking:
    """How each query found what is relevant, which are the others of its label.

    Attributes:
        relevant: int64 (queries,), how many there are; 0: the query counts nowhere, and
            its other figures mean nothing.
        first: int64 (queries,), rank of the nearest of them, from 1.
        r_precision: float64 (queries,), their share of the `relevant` nearest images.
        map_at_r: float64 (queries,), MAP@R: the mean over the `relevant` nearest images
            of the precision up to each, which is 0 where that one is not relevant.
        average_precision: float64 (queries,), the mean over all relevant images of the
            precision up to each.
    """

    relevant: np.ndarray
    first: np.ndarray
    r_precision: np.ndarray
    map_at_r: np.ndarray
    average_precision: np.ndarray

    def figures(
        self, k: Sequence[int], of: np.ndarray | slice = slice(None)
    ) -> dict[str, float]:
        """Means over the queries that have something to find.

        Args:
            k: recall@k is the share of queries with a relevant image among the k
                nearest.
            of: which queries; one of them at least must have something to find.

        Returns:
            Shares by name.
        """
        counts = self.relevant[of] > 0

        def mean(values):
            return float(np.mean(values[of][counts]))

        recall = {f"recall@{n}": mean(self.first <= n) for n in sorted(set(k))}
        return {
            **recall,
            "R-precision": mean(self.r_precision),
            "MAP@R": mean(self.map_at_r),
            "mAP": mean(self.average_precision),
        }


def rank(
    queries: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    progress: str | None = None,
) -> Ranking:
    """Ranks a gallery by its cosine with each query.

    Of equal cosines those of other labels come first, so that a collapsed encoder finds
    nothing.

    Args:
        queries: float (queries, dim), finite.
        labels: int (queries,), none of them -1.
        gallery: float (images, dim); None: the queries themselves, each of which is
            left out of its own ranking.
        gallery_labels: int (images,) of the gallery.
        progress: title of a progress bar on a terminal; None shows none.

    Raises:
        ValueError: an unlabelled example, or shapes that disagree.
    """
    labels = checked_labels(labels, queries, "test", "retrieval")
    is_own = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = queries, labels
    gallery_labels = checked_labels(gallery_labels, gallery, "train", "retrieval")
    rows_of = _rows_by_label(gallery_labels)
    none = np.zeros(0, np.int64)
    count = len(queries)
    relevant, first = np.zeros(count, np.int64), np.zeros(count, np.int64)
    precisions = np.zeros((3, count))
    whole = tf.constant(unit_rows(gallery))
    chunk = max(1, _SIMILARITIES_PER_CHUNK // len(gallery))
    for start in watched(range(0, count, chunk), progress):
        some = unit_rows(queries[start : start + chunk])
        with full_float32():
            similarity = tf.matmul(some, whole, transpose_b=True).numpy()
        for query, similar in enumerate(similarity, start):
            rows = rows_of.get(int(labels[query]), none)
            if is_own:
                rows = rows[rows != query]
                similar[query] = -np.inf
            if not len(rows):
                continue
            ranks = _ranks(similar, rows)
            found = np.arange(1, len(ranks) + 1)
            is_near = ranks <= len(ranks)
            relevant[query], first[query] = len(ranks), ranks[0]
            precisions[:, query] = (
                np.mean(is_near),
                np.sum(found[is_near] / ranks[is_near]) / len(ranks),
                np.mean(found / ranks),
            )
    return Ranking(relevant, first, *precisions)


def _ranks(similar, rows):
    """Ranks of some rows, from 1, rising; those of equal similarity come last.

    They are counted instead of sorted: of a fine class that is several times faster.

    Args:
        similar: float32 (images,), which is written to; -inf is in no ranking.
        rows: int (relevant,).
    """
    best = np.sort(similar[rows])
    similar[rows] = -np.inf
    others = similar[similar >= best[0]]
    # Each other image is ahead of as many relevant ones as are no more similar.
    passed = np.searchsorted(best, others, "right")
    passed = np.bincount(passed, minlength=len(best) + 1)
    ahead = np.cumsum(passed[:0:-1])
    return np.arange(1, len(best) + 1) + ahead


def _rows_by_label(labels):
    order = np.argsort(labels, kind="stable")
    values, starts = np.unique(labels[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:])))
