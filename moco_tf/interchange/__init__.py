"""Weights to and from other tools."""

from __future__ import annotations

from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import FORMATS
from moco_tf.lazy import importing

_HOMES = {
    "Checkpoint": "checkpoints",
    "Pretrained": "pretrained",
    "export": "exports",
    "export_encoder": "savedmodel",
    "export_saved_model": "savedmodel",
    "import_checkpoint": "imports",
    "load_checkpoint": "checkpoints",
    "load_pretrained": "pretrained",
    "load_torch_state_dict": "torch",
    "to_torch_state_dict": "torch",
}

__all__ = ["FORMATS", "InterchangeError", *_HOMES]


__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
