"""moco_tf: momentum-contrast pretraining (MoCo v1 to v3) for TensorFlow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from moco_tf.lanes import use_keras_2

if TYPE_CHECKING:
    from moco_tf import (
        augment,
        callbacks,
        config,
        contrast,
        data,
        distribution,
        encoders,
        evaluation,
        interchange,
        methods,
        optimizers,
        pretrain,
        report,
    )
    from moco_tf.methods import EndToEnd, MemoryBank, MoCo, MoCoV3, SimCLR

__version__ = "0.2.0"

use_keras_2()  # before anything imports TensorFlow

__all__ = [
    "EndToEnd",
    "MemoryBank",
    "MoCo",
    "MoCoV3",
    "SimCLR",
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
    "report",
]


def __getattr__(name: str):
    # TensorFlow takes seconds to import; `train.py --help` should not wait for it.
    if name not in __all__:
        raise AttributeError(f"module 'moco_tf' has no attribute {name!r}")
    if name.islower():
        return importlib.import_module(f"moco_tf.{name}")
    return getattr(importlib.import_module("moco_tf.methods"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
