"""Pretraining methods, each a `keras.Model`."""

from moco_tf.methods.moco import MoCo

__all__ = ["MoCo"]
