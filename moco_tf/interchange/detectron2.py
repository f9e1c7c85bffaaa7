"""Files for Detectron2's checkpointer."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorflow import keras

from moco_tf.encoders import ResNet
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.torch import load_torch_state_dict, to_torch_state_dict


def detectron2_name(name: str) -> str:
    """Detectron2's name of a tensor that torchvision calls `name`.

    `conv1.weight` becomes `stem.conv1.weight`, `bn1.bias` `stem.conv1.norm.bias`, and
    `layer4.0.downsample.1.running_var` `res5.0.shortcut.norm.running_var`. Models put
    prefixes before that (`backbone.`, `backbone.bottom_up.`, and `roi_heads.` for the
    res5 of a C4 model), which Detectron2 matches by itself.

    Source: detection/convert-pretrain-to-detectron2.py of facebookresearch/moco.
    """
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace(
        "downsample.1", "shortcut.norm"
    )


def write_detectron2(encoder: keras.Model, path: Path) -> None:
    """Writes a `.pkl` in the layout of Detectron2's model zoo.

    The file holds {"model": name -> array, "__author__", "matching_heuristics": True}.
    The encoder's colours stay RGB, and its strides are in the 3x3 convolutions: set
    INPUT.FORMAT to "RGB", MODEL.PIXEL_MEAN and PIXEL_STD to 255 times the encoder's,
    and MODEL.RESNETS.STRIDE_IN_1X1 to False.

    Raises:
        InterchangeError: if Detectron2 has no such network.
    """
    if not isinstance(encoder, ResNet) or encoder.stem != "imagenet":
        raise InterchangeError(
            f"encoder '{encoder.name}' is no ResNet with the 7x7 stem, the only one "
            "that Detectron2's backbones have; train one with encoder.stem=imagenet."
        )
    state = to_torch_state_dict(encoder)
    content = {
        "model": {detectron2_name(name): array for name, array in state.items()},
        "__author__": "moco_tf",
        "matching_heuristics": True,
    }
    with path.open("wb") as file:
        pickle.dump(content, file)


def load_detectron2(encoder: keras.Model, path: Path) -> None:
    """Loads back what `write_detectron2` wrote; for no other file, as it unpickles."""
    with path.open("rb") as file:
        tensors: Mapping[str, np.ndarray] = pickle.load(file)["model"]
    names = {detectron2_name(name): name for name in to_torch_state_dict(encoder)}
    load_torch_state_dict(encoder, {names[name]: a for name, a in tensors.items()})
