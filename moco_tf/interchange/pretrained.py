"""A pretrained encoder with all that is needed to use it or train it further."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.config import Config, load_config
from moco_tf.interchange.architecture import describe, rebuild
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.formats import find_export
from moco_tf.paths import to_path
from moco_tf.pixels import GREY_LEVELS, Pixels


@dataclass(frozen=True)
class Pretrained:
    """An encoder from disk.

    Attributes:
        encoder: normalised float32 (N, H, W, C) -> float32 (N, F); trainable.
        image_size: Side of the centre crop that the encoder is meant for.
        resize: Shorter side of an image before that crop.
        channels: C.
        mean: C values in 0..1 units, subtracted after division by 255.
        std: C values in 0..1 units that the result is divided by.
        pixels: The numbers of images; of others than grey levels their range becomes
            0..1 instead of a division by 255.
        provenance: Recipe, data, epochs, git revision and whatever else was noted.
        config: The pretraining configuration; None outside a run directory.
        digest: SHA-256 of the weights in hexadecimal.
        path: Where the encoder was asked for: a run directory or a SavedModel.
    """

    encoder: keras.Model
    image_size: int
    resize: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: dict
    config: Config | None
    digest: str
    path: Path
    pixels: Pixels = GREY_LEVELS

    @property
    def architecture(self) -> str:
        """SHA-256 of the encoder's description: the same weights may be of others."""
        return hashlib.sha256(describe(self.encoder).encode()).hexdigest()


def load_pretrained(path: str | os.PathLike) -> Pretrained:
    """Reads a finished run or a SavedModel, and rebuilds its encoder to the bit.

    Call it in a strategy's scope for an encoder of that strategy, and under the global
    dtype policy that the encoder should compute in.

    Args:
        path: a run directory, or a folder that `export_saved_model` wrote.

    Raises:
        InterchangeError: if there is no such encoder at `path`.
        ConfigError: if the run directory's config.yaml is broken.
    """
    path = to_path(path)
    saved = find_export(path)
    config = _load_run_config(path) if saved != path else None
    extra = saved / "assets.extra"
    try:
        document = json.loads((extra / "provenance.json").read_text())
        preprocessing = document.pop("preprocessing")
        description = (extra / "encoder.json").read_text()
        weights = stored_weights(saved)
    except (OSError, ValueError, LookupError, tf.errors.OpError) as error:
        raise InterchangeError(
            f"{saved} is damaged ({type(error).__name__} while reading it); export the "
            "encoder again."
        ) from error
    return Pretrained(
        encoder=rebuild(description, weights),
        image_size=preprocessing["centre_crop"],
        resize=preprocessing["resize_shorter_side"],
        channels=preprocessing["channels"],
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
        provenance=document,
        config=config,
        digest=weights_digest(weights),
        path=path,
        pixels=Pixels.from_note(preprocessing),
    )


def present_digest(path: Path) -> str | None:
    """Digest of the weights at `path`, without building the encoder; None: no export.

    Args:
        path: a run directory or a SavedModel.
    """
    nested = path / "saved_model"
    try:
        weights = stored_weights(nested if nested.is_dir() else path)
    except (ValueError, tf.errors.OpError):
        return None
    return weights_digest(weights) if weights else None


def weights_digest(weights: Sequence[np.ndarray]) -> str:
    """SHA-256 in hexadecimal over shapes, dtypes and bytes, in order."""
    digest = hashlib.sha256()
    for array in weights:
        digest.update(f"{array.dtype.name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _load_run_config(run_dir: Path) -> Config:
    # A run may have been moved since: where it lies now is what counts.
    place = run_dir.resolve()
    return load_config(
        run_dir / "config.yaml", [f"runs_dir={place.parent}", f"name={place.name}"]
    )


def stored_weights(saved: Path) -> list[np.ndarray]:
    """The encoder's weights, in order, out of the SavedModel's own checkpoint.

    Args:
        saved: a SavedModel's folder.

    Raises:
        tf.errors.OpError: it has no checkpoint, or a broken one.
    """
    reader = tf.compat.v1.train.NewCheckpointReader(
        str(saved / "variables" / "variables")
    )
    count = sum(
        name.startswith("weights/") for name in reader.get_variable_to_shape_map()
    )
    return [
        reader.get_tensor(f"weights/{index}/.ATTRIBUTES/VARIABLE_VALUE")
        for index in range(count)
    ]
