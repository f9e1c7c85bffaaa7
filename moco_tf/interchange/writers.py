"""How each foreign format is written, and read back to be verified."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
import tensorflow as tf

from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.pretrained import Pretrained
from moco_tf.interchange.serving import PixelEncoder
from moco_tf.interchange.torch_files import read_torch_file
from moco_tf.lanes import install
from moco_tf.log import quiet_libraries

_OPSET = 17


def write_state_dict(
    state: Mapping[str, np.ndarray], path: Path, provenance: str
) -> None:
    """Writes a state dict that torch or timm loads with `strict=True`.

    Args:
        state: name -> array.
        path: ends in `.safetensors`, or in `.pth` or `.pt`, for which torch is needed.
        provenance: text for the metadata of a `.safetensors`, under "moco_tf"; a
            `.pth` has no place for it that `strict=True` allows.

    Raises:
        InterchangeError: if torch is needed and missing.
    """
    if path.suffix == ".safetensors":
        metadata = {"format": "pt", "moco_tf": provenance}
        path.write_bytes(safetensors.numpy.save(dict(state), metadata))
        return
    try:
        import torch
    except ImportError as error:
        raise InterchangeError(
            f"{path.name} is written by torch, which is not installed; `pip install "
            "torch`, or give a name that ends in .safetensors."
        ) from error
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_state_dict` wrote."""
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    state = read_torch_file(path)
    assert isinstance(state, dict)  # as it was written
    return dict(state)


def write_onnx(pretrained: Pretrained, path: Path, provenance: str) -> None:
    """Writes a model of pixels, float32 (N,H,W,C), with normalisation inside.

    Args:
        pretrained: what to write; H and W are its `image_size`, N stays open.
        path: the `.onnx` file.
        provenance: text for the model's `metadata_props`, under "moco_tf".

    Raises:
        InterchangeError: if tf2onnx is missing.
    """
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise InterchangeError(
            "ONNX files are written by tf2onnx, which is not installed; in moco_tf's "
            f"checkout, under Python 3.10 or newer, `{install('onnx')}`."
        ) from error
    size, channels = pretrained.image_size, pretrained.channels
    module = _pixel_encoder(pretrained)
    function = module.function(None, size, size, channels)
    model, _ = tf2onnx.convert.from_function(
        function, function.input_signature, opset=_OPSET
    )
    onnx.helper.set_model_props(model, {"moco_tf": provenance})
    onnx.save(model, str(path))


def _pixel_encoder(pretrained):
    value_range = pretrained.pixels.value_range
    return PixelEncoder(
        pretrained.encoder, pretrained.mean, pretrained.std, value_range
    )


def onnx_features(path: Path, images: np.ndarray) -> np.ndarray:
    """Runs an ONNX file in NumPy, by the format's own reference, giving (N,F)."""
    from onnx.reference import ReferenceEvaluator

    run = ReferenceEvaluator(str(path)).run
    return run(["features"], {"images": images.astype(np.float32)})[0]


def write_tflite(pretrained: Pretrained, path: Path, quantise: bool = False) -> None:
    """Writes a model of pixels, float32 (1,H,W,C), with normalisation inside.

    Args:
        pretrained: what to write; H and W are its `image_size`.
        path: the `.tflite` file.
        quantise: store the weights as int8, one scale a channel, and let the runtime
            quantise activations as it goes (dynamic range).
    """
    size, channels = pretrained.image_size, pretrained.channels
    module = _pixel_encoder(pretrained)
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
