"""Export an encoder as a SavedModel that runs without this package."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.data.crops import default_resize
from moco_tf.encoders.batchnorm import share_statistics
from moco_tf.interchange.architecture import (
    computes_in_low_precision,
    describe,
    rebuild,
)
from moco_tf.interchange.card import write_card
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.handover import write_handover
from moco_tf.interchange.serving import ServedEncoder
from moco_tf.interchange.staging import replacing
from moco_tf.lanes import require_keras_2
from moco_tf.paths import to_path
from moco_tf.pixels import GREY_LEVELS, Pixels, unit_array


def export_saved_model(
    encoder: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int,
    resize: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: int = 3,
    pixels: Pixels = GREY_LEVELS,
    provenance: dict,
    figures: Sequence[dict] = (),
) -> Path:
    """Write a SavedModel with the preprocessing inside, and check it by reloading.

    The signatures, each giving "features", float32 (N,F), and "embedding", the same
    rows at unit length:

    - `serving_default`: `images`, float32 (N,image_size,image_size,C) of 0..255;
      images of another size are an error that says so.
    - `uint8`: the same of uint8, a quarter of the bytes. Of other pixels the range is
      theirs, and this is `uint16`, or absent.
    - `encoded`: `encoded`, string (N,) of JPEG, PNG, BMP or GIF files (first frame).
      Each is decoded, its shorter side resized to `resize` (bilinear, antialiased,
      rounded to grey levels) and its centre cropped. A file that cannot be read gives
      zeros, and False in a third output "valid", bool (N,). Absent unless channels is
      1, 3 or 4, the counts that such files hold, and the pixels are whole numbers.

    `tf.saved_model.load(path)(images)` takes uint8 or float32 of 0..255 of any size.
    Weights are exported as float32, whatever policy or strategy they were trained
    under. `assets.extra/provenance.json` holds `provenance` and the preprocessing;
    `assets.extra/encoder.json` the architecture, from which `load_pretrained` makes
    the trainable encoder again. Beside them lie `golden`, an image with its features,
    `check.py`, which checks them wherever the folder goes, and
    `tf_serving_warmup_requests`. `MODEL_CARD.md` says all that for a reader.

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
        pixels: the numbers of images, whose range becomes 0..1 units.
        provenance: JSON-serialisable facts: recipe, data, epochs, git revision, ...
        figures: for the card, as `figures_beside` gives them, of the same weights.

    Returns:
        `path`, as a `Path`.

    Raises:
        InterchangeError: the sizes or the channels contradict each other, the encoder
            cannot be rebuilt, `path` is something else than an export, or the reloaded
            one disagrees with `encoder`; nothing is written then.
    """
    require_keras_2(encoder, keras.Model, "encoder")
    _check_arguments(encoder, image_size, resize, mean, std, channels)
    preprocessing = preprocessing_document(
        image_size, resize, mean, std, channels, pixels
    )
    document = {**provenance, "preprocessing": preprocessing}
    description = describe(encoder)
    module = ServedEncoder(
        _in_float32(description, encoder), mean, std, image_size, resize, pixels
    )
    with replacing(path, folder=True) as new:
        tf.saved_model.save(module, str(new), signatures=module.signatures())
        extra = new / "assets.extra"
        extra.mkdir()
        (extra / "provenance.json").write_text(
            json.dumps(document, indent=2, sort_keys=True, default=str) + "\n"
        )
        (extra / "encoder.json").write_text(description + "\n")
        _verify(encoder, new, image_size, mean, std, pixels)
        write_handover(new, image_size, resize, channels, pixels)
        write_card(new, to_path(path), figures)
    return to_path(path)


def export_encoder(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int,
    resize: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pixels: Pixels | None = None,
    provenance: dict | None = None,
) -> Path:
    """Writes the encoder that a method has trained, ready to judge and to serve.

    What it writes is a SavedModel as `export_saved_model`'s, which
    `moco-tf evaluate knn PATH --data.source=...` and `moco-tf export PATH` take.

    Args:
        model: a method, such as `moco_tf.MoCo`, whose `encoder` is written.
        path: the folder to write.
        image_size: height and width of the crops that it was trained on.
        resize: shorter side of an image before the crop; None is the usual 8/7 of
            image_size (from 64 pixels on; below, image_size itself).
        mean: C values in 0..1 units; None is the model's augmentation's.
        std: C values in 0..1 units; None is the model's augmentation's.
        pixels: the numbers of images, such as a source's; None is the range of the
            model's augmentation, of real numbers unless that of grey levels.
        provenance: JSON-serialisable facts, such as {"data": "my photos"}.

    Returns:
        `path`, as a `Path`.

    Raises:
        InterchangeError: as `export_saved_model`, or if neither the model nor the
            caller says how images are normalised.
    """
    normalise = getattr(model.augment, "layers", [None])[-1]
    mean = getattr(normalise, "mean", None) if mean is None else mean
    std = getattr(normalise, "std", None) if std is None else std
    if mean is None or std is None:
        raise InterchangeError(
            f"{model.name} has no augmentation that says how images are normalised; "
            "give mean and std, one value per channel in 0..1 units."
        )
    value_range = getattr(model.augment, "value_range", None)
    if pixels is None:
        pixels = Pixels("float32", *value_range) if value_range else GREY_LEVELS
    share_statistics(model)
    return export_saved_model(
        model.encoder,
        path,
        image_size=image_size,
        resize=default_resize(image_size) if resize is None else resize,
        mean=mean,
        std=std,
        channels=len(mean),
        pixels=pixels,
        provenance={"method": type(model).__name__, **(provenance or {})},
    )


def preprocessing_document(
    image_size: int,
    resize: int,
    mean: Sequence[float],
    std: Sequence[float],
    channels: int,
    pixels: Pixels = GREY_LEVELS,
) -> dict:
    """Says in JSON's terms what is done to an image before the encoder sees it."""
    order = "RGB order, " if channels == 3 else ""
    return {
        "input": f"{order}values {pixels.words}",
        **pixels.noted,
        "channels": channels,
        "resize_shorter_side": resize,
        "centre_crop": image_size,
        "interpolation": "bilinear, antialiased",
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def _in_float32(description, encoder):
    """The same network outside any strategy, computing in float32."""
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        # Some layers take their policy from the config, others from the global one.
        return rebuild(description, encoder.get_weights())
    finally:
        keras.mixed_precision.set_global_policy(policy)


def _verify(encoder, path, image_size, mean, std, pixels):
    """Raise unless the reloaded export gives the encoder's own features."""
    height, width = (side or image_size for side in encoder.input_shape[1:3])
    images = pixels.noise((2, height, width, len(mean)))
    given = unit_array(images, pixels.value_range)
    given = (given - np.asarray(mean)) / np.asarray(std)
    expected = np.asarray(encoder(given.astype(np.float32), training=False), np.float64)
    loaded = tf.saved_model.load(str(path))
    features = loaded(tf.constant(images))["features"].numpy()
    scale = np.linalg.norm(expected) + 1e-12
    error = float(np.linalg.norm(features - expected) / scale)
    tolerance = 0.1 if computes_in_low_precision(encoder) else 1e-3
    if not error <= tolerance:  # also catches NaN
        raise InterchangeError(
            f"The reloaded export differs from the encoder by {error:.2g} of the "
            f"features' norm (limit {tolerance:g}), so it was not kept; check that the "
            "encoder rebuilds exactly from its get_config."
        )


def _check_arguments(encoder, image_size, resize, mean, std, channels):
    sides = {side for side in encoder.input_shape[1:3] if side}
    if sides - {image_size}:
        raise InterchangeError(
            f"image_size={image_size}, but encoder '{encoder.name}' takes images of "
            f"{sides.pop()} pixels only; use that."
        )
    if resize < image_size:
        raise InterchangeError(
            f"resize={resize} is smaller than image_size={image_size}; the centre crop "
            f"must fit, use at least {image_size}."
        )
    if not len(mean) == len(std) == channels:
        raise InterchangeError(
            f"mean has {len(mean)} values and std {len(std)} for channels={channels}; "
            "give one of each per channel."
        )
    if min(std) <= 0:
        raise InterchangeError(f"std={tuple(std)} must be positive in every channel.")
