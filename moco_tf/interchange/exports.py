"""An encoder as a file of another tool, checked by reading it back."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders import ResNet, ViT
from moco_tf.interchange.architecture import describe, rebuild
from moco_tf.interchange.card import known_figures
from moco_tf.interchange.detectron2 import load_detectron2, write_detectron2
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import FORMATS
from moco_tf.interchange.pretrained import Pretrained
from moco_tf.interchange.savedmodel import export_saved_model, preprocessing_document
from moco_tf.interchange.staging import replacing
from moco_tf.interchange.torch import load_torch_state_dict, to_torch_state_dict
from moco_tf.interchange.writers import (
    onnx_features,
    read_state_dict,
    tflite_features,
    write_onnx,
    write_state_dict,
    write_tflite,
)
from moco_tf.paths import to_path
from moco_tf.pixels import unit_array
from moco_tf.precision import full_float32


def export(pretrained: Pretrained, path: str | os.PathLike, to: str) -> float:
    """Writes an encoder for another tool, and checks it by reading it back.

    Beside a file goes `PATH.json` with provenance, preprocessing and the result of the
    check; a SavedModel, a `.safetensors` and an `.onnx` have the former two inside as
    well. Nothing is written when anything fails.

    Args:
        pretrained: the encoder.
        path: file or folder to write; one of before is replaced.
        to: a key of `FORMATS`.

    Returns:
        The deviation of the features read back, relative to their norm.

    Raises:
        InterchangeError: if the format or the name of the file does not fit, or the
            features deviate by more than the format's tolerance.
    """
    if to not in FORMATS:
        raise InterchangeError(f"format {to!r} is unknown; use {', '.join(FORMATS)}.")
    path, kind = to_path(path), FORMATS[to]
    kind.check_name(path)
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(replacing(path, folder=not kind.suffixes))
        # Put in place before the file, which is never without it.
        if kind.suffixes:
            note = stack.enter_context(replacing(f"{path}.json", folder=False))
        stack.enter_context(warnings.catch_warnings())
        # KerasCV reads every attribute of a backbone while Keras saves or loads it.
        warnings.filterwarnings("ignore", r".*updates` will be removed", UserWarning)
        _WRITE[to](pretrained, new)
        deviation = _deviation(pretrained, new, to)
        if not deviation <= kind.tolerance:  # also catches NaN
            raise InterchangeError(
                f"the {to} file read back differs from the encoder by {deviation:.2g} "
                f"of the features' norm (limit {kind.tolerance:g}), so it was not "
                "kept; check that the encoder's own features are finite."
            )
        if kind.suffixes:
            verified = {
                "deviation_of_features": deviation,
                "tolerance": kind.tolerance,
            }
            document = {**_document(pretrained, to), "verified": verified}
            note.write_text(json.dumps(document, indent=2, default=str) + "\n")
    return deviation


def _document(pretrained, to):
    kind = FORMATS[to]
    return {
        **pretrained.provenance,
        "encoder": _arguments(pretrained.encoder),
        "preprocessing": preprocessing_document(
            pretrained.image_size,
            pretrained.resize,
            pretrained.mean,
            pretrained.std,
            pretrained.channels,
            pretrained.pixels,
        ),
        "format": to,
        "network_input": kind.input.replace("0..255", pretrained.pixels.words),
        "weights_sha256": pretrained.digest,
    }


def _arguments(encoder):
    """Class and arguments of an encoder of ours; of another, its class."""
    own = encoder.get_config() if isinstance(encoder, (ResNet, ViT)) else {}
    return {"class": type(encoder).__name__, **own}


@full_float32()
def _deviation(pretrained, path, to):
    side = pretrained.image_size
    shape = (2, side, side, pretrained.channels)
    pixels = pretrained.pixels.noise(shape)
    expected = _features(pretrained, pretrained.encoder, pixels).astype(np.float64)
    error = np.linalg.norm(_READ[to](pretrained, path, pixels) - expected)
    return float(error / (np.linalg.norm(expected) + 1e-12))


def _features(pretrained, encoder, pixels):
    images = unit_array(pixels, pretrained.pixels.value_range)
    images = (images - np.asarray(pretrained.mean)) / np.asarray(pretrained.std)
    return encoder(images.astype(np.float32), training=False).numpy()


def _fresh(pretrained):
    """The same network with other weights, so that only a file can bring these."""
    zeros = [np.zeros_like(weight) for weight in pretrained.encoder.get_weights()]
    return rebuild(describe(pretrained.encoder), zeros)


def _write_saved_model(pretrained, path):
    export_saved_model(
        pretrained.encoder,
        path,
        image_size=pretrained.image_size,
        resize=pretrained.resize,
        mean=pretrained.mean,
        std=pretrained.std,
        channels=pretrained.channels,
        pixels=pretrained.pixels,
        provenance=pretrained.provenance,
        figures=known_figures(pretrained.path, pretrained.digest),
    )


def _read_saved_model(pretrained, path, pixels):
    del pretrained
    return tf.saved_model.load(str(path))(tf.constant(pixels))["features"].numpy()


def _write_keras(pretrained, path):
    if path.suffix == ".keras":
        pretrained.encoder.save(path)
    else:
        pretrained.encoder.save_weights(path)


def _read_keras(pretrained, path, pixels):
    if path.suffix == ".keras":
        encoder = keras.models.load_model(path, compile=False)
    else:
        encoder = _fresh(pretrained)
        encoder.load_weights(path)
    return _features(pretrained, encoder, pixels)


def _write_torchvision(pretrained, path):
    if isinstance(pretrained.encoder, ViT):
        raise InterchangeError(
            "torchvision's ViTs have names and a layout of their own; export to timm."
        )
    _write_state_dict(pretrained, path, "torchvision")


def _write_state_dict(pretrained, path, to):
    provenance = json.dumps(_document(pretrained, to), default=str)
    write_state_dict(to_torch_state_dict(pretrained.encoder), path, provenance)


def _write_onnx(pretrained, path):
    write_onnx(pretrained, path, json.dumps(_document(pretrained, "onnx"), default=str))


def _read_state_dict(pretrained, path, pixels):
    encoder = _fresh(pretrained)
    load_torch_state_dict(encoder, read_state_dict(path))
    return _features(pretrained, encoder, pixels)


def _read_detectron2(pretrained, path, pixels):
    encoder = _fresh(pretrained)
    load_detectron2(encoder, path)
    return _features(pretrained, encoder, pixels)


def _read_tflite(pretrained, path, pixels):
    del pretrained
    return tflite_features(path, pixels)


def _read_onnx(pretrained, path, pixels):
    del pretrained
    return onnx_features(path, pixels)


# (pretrained, path) writes; (pretrained, path, pixels) reads and gives features.
_WRITE: dict[str, Callable[[Pretrained, Path], None]] = {
    "savedmodel": _write_saved_model,
    "keras": _write_keras,
    "torchvision": _write_torchvision,
    "timm": functools.partial(_write_state_dict, to="timm"),
    "detectron2": lambda pretrained, path: write_detectron2(pretrained.encoder, path),
    "tflite": write_tflite,
    "tflite_int8": functools.partial(write_tflite, quantise=True),
    "onnx": _write_onnx,
}
_READ = {
    "savedmodel": _read_saved_model,
    "keras": _read_keras,
    "torchvision": _read_state_dict,
    "timm": _read_state_dict,
    "detectron2": _read_detectron2,
    "tflite": _read_tflite,
    "tflite_int8": _read_tflite,
    "onnx": _read_onnx,
}
