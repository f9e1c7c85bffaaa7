"""The mathematics of contrast: loss, queue of keys, momentum update."""

from moco_tf.contrast.loss import contrast, info_nce
from moco_tf.contrast.momentum import move_towards
from moco_tf.contrast.queue import KeyQueue

__all__ = ["KeyQueue", "contrast", "info_nce", "move_towards"]
