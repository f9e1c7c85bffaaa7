"""The mathematics of contrast: losses, queue of keys, memory bank, momentum update."""

from moco_tf.contrast.bank import SlotBank, bank_bytes
from moco_tf.contrast.in_batch import in_batch, nt_xent
from moco_tf.contrast.loss import contrast, info_nce
from moco_tf.contrast.momentum import move_towards
from moco_tf.contrast.queue import KeyQueue

__all__ = [
    "KeyQueue",
    "SlotBank",
    "bank_bytes",
    "contrast",
    "in_batch",
    "info_nce",
    "move_towards",
    "nt_xent",
]
