"""Which other image of its group an image is contrasted with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from moco_tf.data.sources import DataError, Source


def partner_of(
    source: Source, cache: bool = False
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Makes the function that draws a partner for each image.

    Args:
        source: images with groups, any of which can be read at once.
        cache: whether they are to be kept in memory, in an order of their own.

    Returns:
        int64 id and an int64 key of the epoch, both scalars -> id of the partner and
        the group's number, int64 scalars. The same id and key give the same partner:
        each other image of the group with the same probability, or itself where there
        is no other.

    Raises:
        DataError: the source has no groups, or cannot be read so.
    """
    if source.groups is None:
        raise DataError(
            "positives=group needs images with groups, as a manifest names them "
            "(path,label,group in each line); give one as data_dir, or use "
            "positives=image."
        )
    if cache or source.load is None:
        raise DataError(
            "positives=group reads images in any order, which goes with neither "
            "cache=true nor a set that is read from front to back; leave it out."
        )
    _, group, size = np.unique(source.groups, return_inverse=True, return_counts=True)
    members = np.argsort(group, kind="stable")
    first = np.cumsum(size) - size
    place = np.empty_like(members)
    place[members] = np.arange(len(members)) - np.repeat(first, size)

    def partner(example_id, key):
        groups, sizes, firsts, of_groups, places = (
            tf.constant(table, tf.int64)
            for table in (group, size, first, members, place)
        )
        number = groups[example_id]
        count, own = sizes[number], places[example_id]
        # Views are drawn by the same key and ids, which are never below 0.
        word = tf.random.stateless_uniform(
            (),
            tf.stack([key, -1 - example_id]),
            maxval=tf.maximum(count - 1, 1),
            dtype=tf.int64,
        )
        step = tf.where(count > 1, 1 + word, 0)
        return of_groups[firsts[number] + (own + step) % count], number

    return partner
