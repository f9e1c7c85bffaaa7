"""The momentum (EMA) update of the key encoder."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def move_towards(
    targets: Sequence[tf.Variable],
    sources: Sequence[tf.Variable],
    momentum: float | tf.Tensor,
) -> None:
    """Moves each target to momentum * target + (1 - momentum) * source.

    Call it in replica context. Every replica moves its own copy and nothing
    crosses devices. Give it parameters only: the reference does not average
    batch-norm statistics, the key encoder gathers its own.

    Args:
        targets: the key encoder's parameters.
        sources: the query encoder's, in the same order and shapes.
        momentum: weight of the old value, 0 to 1; 0.999 in MoCo.

    Raises:
        ValueError: if the two lists differ in length.

    Source: He et al. 2020 (arXiv 1911.05722), eq. 2.
    """
    if len(targets) != len(sources):
        raise ValueError(
            f"{len(targets)} target variables cannot follow {len(sources)} source "
            "variables; give the parameters of two encoders of one architecture."
        )

    def move(target, source):
        # In place, and of two operations where the formula as written has four.
        return tf.raw_ops.ResourceApplyGradientDescent(
            var=target.handle,
            alpha=tf.convert_to_tensor(1.0 - momentum, target.dtype),
            delta=target - source,
        )

    def move_all(strategy):
        for target, source in zip(targets, sources):
            strategy.extended.update(target, move, args=(source,), group=True)

    tf.distribute.get_replica_context().merge_call(move_all)
