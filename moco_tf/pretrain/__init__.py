"""From a configuration to a finished run directory: the only wiring of training."""

from moco_tf.pretrain.build import build_encoder, build_model
from moco_tf.pretrain.run import pretrain

__all__ = ["build_encoder", "build_model", "pretrain"]
