"""Weights to and from other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import FORMATS
from moco_tf.lazy import importing

if TYPE_CHECKING:
    from moco_tf.interchange.checkpoints import Checkpoint, load_checkpoint
    from moco_tf.interchange.exports import export
    from moco_tf.interchange.imports import import_checkpoint
    from moco_tf.interchange.pretrained import Pretrained, load_pretrained
    from moco_tf.interchange.savedmodel import export_encoder, export_saved_model
    from moco_tf.interchange.torch import load_torch_state_dict, to_torch_state_dict

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

__all__ = [
    "FORMATS",
    "Checkpoint",
    "InterchangeError",
    "Pretrained",
    "export",
    "export_encoder",
    "export_saved_model",
    "import_checkpoint",
    "load_checkpoint",
    "load_pretrained",
    "load_torch_state_dict",
    "to_torch_state_dict",
]


__getattr__ = importing(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
