"""Parts of a batch that are worked on one after the other, where memory is scarce."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from moco_tf.encoders.batchnorm import Part


def over_parts(
    step: Callable[[Part, Any], tuple[Sequence[tf.Tensor], Sequence[tf.Tensor]]],
    count: int,
    rows: Any,
    sums: Sequence[tf.Tensor] = (),
    kinds: Sequence[tf.DType] = (),
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Runs a step on equal parts of some rows, of which one at a time takes memory.

    Args:
        step: part, its rows -> what is added to the sums, and the part's results.
        count: of the parts.
        rows: nest of tensors (N, ...), whose N the count divides.
        sums: what is added to, such as zeros.
        kinds: dtypes of the results.

    Returns:
        The sums, and each result of all parts, (count, ...).
    """
    cut = tf.nest.map_structure(
        lambda each: tf.reshape(each, (count, -1, *each.shape[1:])), rows
    )

    def work(index, sums, arrays):
        own = tf.nest.map_structure(lambda each: each[index], cut)
        added, results = step(Part(index, count), own)
        sums = [before + more for before, more in zip(sums, added)]
        return (
            index + 1,
            sums,
            [array.write(index, result) for array, result in zip(arrays, results)],
        )

    arrays = [tf.TensorArray(kind, count) for kind in kinds]
    _, sums, arrays = tf.while_loop(
        lambda index, *_: index < count,
        work,
        (tf.constant(0), list(sums), arrays),
        parallel_iterations=1,
    )
    return list(sums), [array.stack() for array in arrays]
