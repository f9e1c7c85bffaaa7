"""Weights to and from other tools."""

from moco_tf.interchange.savedmodel import export_saved_model
from moco_tf.interchange.torch import load_torch_state_dict, to_torch_state_dict

__all__ = ["export_saved_model", "load_torch_state_dict", "to_torch_state_dict"]
