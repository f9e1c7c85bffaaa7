"""From a configuration to a finished run directory: the only wiring of training.

Names come when they are asked for: a sweep's own process does without TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moco_tf.lazy import importing

if TYPE_CHECKING:
    from moco_tf.pretrain.build import build_encoder, build_model
    from moco_tf.pretrain.run import pretrain

_HOMES = {"build_encoder": "build", "build_model": "build", "pretrain": "run"}

__all__ = ["build_encoder", "build_model", "pretrain"]


__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
