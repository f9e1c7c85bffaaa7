"""Export an encoder as a SavedModel that runs without this package."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

_ENCODED_CHANNELS = (1, 3, 4)  # what tf.io.decode_image can give
_LOW_PRECISION = {"float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}


def export_saved_model(
    encoder: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int,
    resize: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: int = 3,
    provenance: dict,
) -> Path:
    """Write a SavedModel with the preprocessing inside, and check it by reloading.

    The signatures, each giving "features", float32 (N,F), and "embedding", the same
    rows at unit length:

    - `serving_default`: `images`, float32 (N,H,W,C) of values 0..255.
    - `encoded`: `encoded`, string (N,) of JPEG, PNG, BMP or GIF files (first frame).
      Each is decoded, its shorter side resized to `resize` (bilinear, antialiased,
      rounded to grey levels) and its centre cropped. Absent unless channels is 1, 3
      or 4, the counts that such files hold.

    `tf.saved_model.load(path)(images)` takes uint8 or float32 of values 0..255 too.
    Weights are exported as float32, whatever policy or strategy they were trained
    under. `assets.extra/provenance.json` holds `provenance` and the preprocessing.

    Args:
        encoder: normalised float (N,H,W,C) -> (N,F); must rebuild from its
            `get_config`.
        path: the folder to write; an export already there is replaced, and only once
            the new one is complete and checked.
        image_size: height and width of the centre crop.
        resize: shorter side before the crop, at least `image_size`.
        mean: C values in 0..1 units, subtracted after division by 255.
        std: C positive values in 0..1 units.
        channels: C.
        provenance: JSON-serialisable facts: recipe, data, epochs, git revision, ...

    Returns:
        `path`, as a `Path`.

    Raises:
        ValueError: the sizes or the channels contradict each other.
        RuntimeError: the reloaded export disagrees with `encoder`; nothing is written.
    """
    _check_arguments(image_size, resize, mean, std, channels)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    preprocessing = {
        "input": "RGB order, values 0..255" if channels == 3 else "values 0..255",
        "channels": channels,
        "resize_shorter_side": resize,
        "centre_crop": image_size,
        "interpolation": "bilinear, antialiased",
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }
    document = {**provenance, "preprocessing": preprocessing}
    module = _ServedEncoder(_float32_clone(encoder), image_size, resize, mean, std)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        tf.saved_model.save(
            module, str(staging / "new"), signatures=module.signatures()
        )
        extra = staging / "new" / "assets.extra"
        extra.mkdir()
        (extra / "provenance.json").write_text(
            json.dumps(document, indent=2, sort_keys=True, default=str) + "\n"
        )
        _verify(encoder, staging / "new", image_size, mean, std)
        if path.exists():
            path.rename(staging / "old")
        (staging / "new").rename(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return path


class _ServedEncoder(tf.Module):
    """Preprocessing and encoder as traced functions over plain variables."""

    def __init__(self, encoder, image_size, resize, mean, std):
        super().__init__()
        # Only the variables are tracked: a tracked Keras model would drag every
        # layer's own call functions and class names into the export.
        self.weights = list(encoder.variables)
        channels = len(mean)
        height, width = encoder.input_shape[1:3]
        images = tf.TensorSpec((None, height, width, channels), tf.float32, "images")
        pixels = tf.TensorSpec(images.shape, tf.uint8, "images")
        mean = tf.constant(mean, tf.float32)
        std = tf.constant(std, tf.float32)

        def encode(images):
            images = tf.cast(images, tf.float32) / 255.0
            features = encoder((images - mean) / std, training=False)
            features = tf.cast(features, tf.float32)
            if features.shape.rank != 2:
                raise ValueError(
                    f"The encoder's output has shape {features.shape}; an export "
                    "expects (batch, dim): add global average pooling to the encoder."
                )
            embedding = tf.math.l2_normalize(features, axis=1)
            return {"features": features, "embedding": embedding}

        def prepare(encoded):
            image = _decode(encoded, channels)
            return _resize_and_crop(image, resize, image_size, channels)

        def serve_encoded(encoded):
            crop = tf.TensorSpec((image_size, image_size, channels), tf.uint8)
            return encode(tf.map_fn(prepare, encoded, fn_output_signature=crop))

        self._call = tf.function(encode)
        self._call.get_concrete_function(images)
        self._call.get_concrete_function(pixels)
        self.__call__ = self._call
        self.serve = tf.function(encode, input_signature=[images])
        if channels in _ENCODED_CHANNELS:
            files = tf.TensorSpec((None,), tf.string, "encoded")
            self.serve_encoded = tf.function(serve_encoded, input_signature=[files])

    def signatures(self):
        """The named signatures of the export."""
        signatures = {"serving_default": self.serve}
        if hasattr(self, "serve_encoded"):
            signatures["encoded"] = self.serve_encoded
        return signatures


def _decode(encoded, channels):
    """String () -> uint8 (H,W,C)."""

    def decode_any():
        return tf.io.decode_image(encoded, channels, expand_animations=False)

    def decode_jpeg():
        # The default DCT is darker than PIL's by half a grey level and more.
        return tf.io.decode_jpeg(encoded, channels, dct_method="INTEGER_ACCURATE")

    if channels == 4:  # no JPEG has four channels
        return decode_any()
    return tf.cond(tf.io.is_jpeg(encoded), decode_jpeg, decode_any)


def _resize_and_crop(image, resize, image_size, channels):
    """Uint8 (H,W,C) -> uint8 (image_size, image_size, C)."""
    shape = tf.shape(image)[:2]
    shorter = tf.reduce_min(shape)
    size = shape * resize // shorter  # rounds down, as torchvision does
    image = tf.image.resize(image, size, method="bilinear", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.uint8)
    room = tf.cast(size - image_size, tf.float32)
    top = tf.cast(tf.round(room / 2.0), tf.int32)  # halves to even, as torchvision
    image = image[top[0] : top[0] + image_size, top[1] : top[1] + image_size]
    return tf.ensure_shape(image, (image_size, image_size, channels))


def _float32_clone(encoder):
    """The same network outside any strategy, computing in float32."""
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        # Some layers take their policy from the config, others from the global one.
        clone = type(encoder).from_config(_as_float32(encoder.get_config()))
    finally:
        keras.mixed_precision.set_global_policy(policy)
    clone.set_weights(encoder.get_weights())
    return clone


def _as_float32(config):
    """A layer's config with every floating dtype or policy set to float32."""
    if isinstance(config, (list, tuple)):
        return type(config)(_as_float32(item) for item in config)
    if not isinstance(config, dict):
        return config
    return {
        key: "float32" if key == "dtype" and _is_float(value) else _as_float32(value)
        for key, value in config.items()
    }


def _is_float(dtype):
    if isinstance(dtype, dict):  # a serialised policy
        dtype = dtype.get("config", {}).get("name")
    return dtype in _LOW_PRECISION or dtype == "float64"


def _verify(encoder, path, image_size, mean, std):
    """Raise unless the reloaded export gives the encoder's own features."""
    height, width = (side or image_size for side in encoder.input_shape[1:3])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, height, width, len(mean)), dtype=np.uint8)
    given = (images / 255.0 - np.asarray(mean)) / np.asarray(std)
    expected = np.asarray(encoder(given.astype(np.float32), training=False), np.float64)
    loaded = tf.saved_model.load(str(path))
    features = loaded(tf.constant(images))["features"].numpy()
    scale = np.linalg.norm(expected) + 1e-12
    error = float(np.linalg.norm(features - expected) / scale)
    tolerance = 0.1 if _computes_in_low_precision(encoder) else 1e-3
    if not error <= tolerance:  # also catches NaN
        raise RuntimeError(
            f"The reloaded export differs from the encoder by {error:.2g} of the "
            f"features' norm (limit {tolerance:g}), so it was not kept; check that the "
            "encoder rebuilds exactly from its get_config."
        )


def _computes_in_low_precision(encoder):
    layers = (
        part for part in encoder.submodules if isinstance(part, keras.layers.Layer)
    )
    return any(layer.compute_dtype in _LOW_PRECISION for layer in layers)


def _check_arguments(image_size, resize, mean, std, channels):
    if resize < image_size:
        raise ValueError(
            f"resize={resize} is smaller than image_size={image_size}; the centre crop "
            f"must fit, use at least {image_size}."
        )
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"mean has {len(mean)} values and std {len(std)} for channels={channels}; "
            "give one of each per channel."
        )
    if min(std) <= 0:
        raise ValueError(f"std={tuple(std)} must be positive in every channel.")
