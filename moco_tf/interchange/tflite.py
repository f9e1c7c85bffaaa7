"""TensorFlow Lite files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

from moco_tf.interchange.pretrained import Pretrained
from moco_tf.interchange.serving import PixelEncoder
from moco_tf.log import quiet_libraries


def write_tflite(pretrained: Pretrained, path: Path, quantise: bool = False) -> None:
    """Writes a model of pixels 0..255, float32 (1,H,W,C), with normalisation inside.

    Args:
        pretrained: what to write; H and W are its `image_size`.
        path: the `.tflite` file.
        quantise: store the weights as int8, one scale a channel, and let the runtime
            quantise activations as it goes (dynamic range).
    """
    size, channels = pretrained.image_size, pretrained.channels
    module = PixelEncoder(pretrained.encoder, pretrained.mean, pretrained.std)
    graph = module.function(1, size, size, channels).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], module)
    if quantise:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with quiet_libraries():
        path.write_bytes(converter.convert())


def tflite_features(path: Path, images: np.ndarray) -> np.ndarray:
    """Runs a file that `write_tflite` wrote on pixels (N,H,W,C), giving (N,F)."""
    with warnings.catch_warnings():
        # TensorFlow announces that its interpreter will move to another package.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is")
        run = tf.lite.Interpreter(str(path)).get_signature_runner()
    rows = [run(images=image[None].astype(np.float32)) for image in images]
    return np.concatenate([row["features"] for row in rows])
