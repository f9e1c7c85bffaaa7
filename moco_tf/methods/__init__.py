"""Pretraining methods, each a `keras.Model`."""

from moco_tf.methods.base import ContrastiveModel
from moco_tf.methods.end_to_end import EndToEnd
from moco_tf.methods.memory_bank import MemoryBank
from moco_tf.methods.moco import MoCo
from moco_tf.methods.moco_v3 import MoCoV3
from moco_tf.methods.simclr import SimCLR

__all__ = ["ContrastiveModel", "EndToEnd", "MemoryBank", "MoCo", "MoCoV3", "SimCLR"]
