"""moco_tf: momentum-contrast pretraining (MoCo v1 to v3) for TensorFlow."""

from __future__ import annotations

import importlib

from moco_tf.lanes import use_keras_2

__version__ = "0.2.0"

use_keras_2()  # before anything imports TensorFlow

_MODULES = (
    "augment",
    "callbacks",
    "config",
    "contrast",
    "data",
    "distribution",
    "encoders",
    "evaluation",
    "interchange",
    "methods",
    "optimizers",
    "pretrain",
    "protocols",
    "report",
)

__all__ = ["MoCo", *_MODULES]


def __getattr__(name: str):
    # TensorFlow takes seconds to import; `train.py --help` should not wait for it.
    if name == "MoCo":
        return importlib.import_module("moco_tf.methods").MoCo
    if name in _MODULES:
        return importlib.import_module(f"moco_tf.{name}")
    raise AttributeError(f"module 'moco_tf' has no attribute {name!r}")
