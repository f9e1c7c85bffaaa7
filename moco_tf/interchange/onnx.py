"""ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.pretrained import Pretrained
from moco_tf.interchange.serving import PixelEncoder
from moco_tf.lanes import install

_OPSET = 17


def write_onnx(pretrained: Pretrained, path: Path, provenance: str) -> None:
    """Writes a model of pixels 0..255, float32 (N,H,W,C), with normalisation inside.

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
    module = PixelEncoder(pretrained.encoder, pretrained.mean, pretrained.std)
    function = module.function(None, size, size, channels)
    model, _ = tf2onnx.convert.from_function(
        function, function.input_signature, opset=_OPSET
    )
    onnx.helper.set_model_props(model, {"moco_tf": provenance})
    onnx.save(model, str(path))


def onnx_features(path: Path, images: np.ndarray) -> np.ndarray:
    """Runs an ONNX file in NumPy, by the format's own reference, giving (N,F)."""
    from onnx.reference import ReferenceEvaluator

    run = ReferenceEvaluator(str(path)).run
    return run(["features"], {"images": images.astype(np.float32)})[0]
