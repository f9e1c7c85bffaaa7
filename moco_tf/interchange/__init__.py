"""Weights to and from other tools."""

from __future__ import annotations

import importlib

from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import FORMATS

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


def __getattr__(name: str):
    # TensorFlow takes seconds to import; the command's --help should not wait for it.
    if name in _HOMES:
        home = importlib.import_module(f"moco_tf.interchange.{_HOMES[name]}")
        return getattr(home, name)
    raise AttributeError(f"module 'moco_tf.interchange' has no attribute {name!r}")
