"""What looks wrong in a run's figures, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping


def diagnose(logs: Mapping[str, float], epoch: int) -> dict[str, str]:
    """Sentences on what looks wrong in an epoch's logs.

    Args:
        logs: with the figures that `moco_tf.callbacks.TrainingHealth` adds; NaN where
            one is not known.
        epoch: counted from 0.

    Returns:
        topic -> sentence, empty when nothing looks wrong.
    """
    found = {}
    if epoch >= 1 and (logs["feature_std"] < 0.1 or logs["effective_rank"] < 1.5):
        found["collapsed"] = (
            f"The run looks collapsed: embeddings deviate by {logs['feature_std']:.3f} "
            f"(1 is healthy) and span {logs['effective_rank']:.1f} dimensions; usually "
            "the learning rate is too high or, with a momentum encoder, "
            "method.key_momentum too low."
        )
    elif epoch >= 1 and logs["loss"] > 0.98 * logs["loss_ceiling"]:
        found["stuck"] = (
            f"The loss {logs['loss']:.2f} is stuck near ln(1+K) = "
            f"{logs['loss_ceiling']:.2f}, that of an uninformed encoder; usually the "
            "learning rate is too low or too high, or the crops share too little "
            "(data.crop_scale)."
        )
    # In the first epoch the queue still has random keys; few negatives are soon beaten.
    if epoch == 1 and logs["top1"] > 0.98 and logs["loss_ceiling"] > math.log(1000):
        found["leak"] = (
            f"The own key is found {100 * logs['top1']:.0f} % of the time so early "
            "that batch statistics or a trivial cue may leak it; usually batch norm "
            "is not cut into groups (method.bn_groups, where the method has it), or "
            "the images hold a border or a mark of their own."
        )
    if epoch >= 1 and logs["input_wait"] > 0.3:
        found["input"] = (
            f"Training waits for images {100 * logs['input_wait']:.0f} % of the "
            "time; use data.cache=true if they fit into memory, smaller files, or more "
            "cores."
        )
    if logs.get("false_negative_rate", 0) * math.expm1(logs["loss_ceiling"]) > 1:
        found["false negatives"] = (
            "The negatives hold more than one of each query's own image on average; "
            "make method.queue_size smaller than the data set, or set "
            "method.mask_same_image=true."
        )
    return found
