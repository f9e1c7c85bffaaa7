"""A checkpoint of another project as a SavedModel, with its preprocessing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moco_tf.augment import IMAGENET_MEAN, IMAGENET_STD
from moco_tf.data.crops import default_resize
from moco_tf.interchange.checkpoints import Checkpoint, load_checkpoint
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.pretrained import weights_digest
from moco_tf.interchange.savedmodel import export_saved_model
from moco_tf.paths import to_path
from moco_tf.pixels import Pixels


@dataclass(frozen=True)
class Imported:
    """What became of a checkpoint.

    Attributes:
        checkpoint: what was read.
        preprocessing: image_size, resize, mean, std and channels of the SavedModel.
        is_guess: whether mean and std are only the usual ones.
    """

    checkpoint: Checkpoint
    preprocessing: dict
    is_guess: bool


def import_checkpoint(
    path: str | os.PathLike,
    out: str | os.PathLike,
    image_size: int | None = None,
    resize: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    heads: int | None = None,
) -> Imported:
    """Turns a checkpoint into a SavedModel folder, which evaluate.py and export take.

    No code in the file is run. A file that `export` wrote comes back with its own
    preprocessing and provenance.

    Args:
        path: as `load_checkpoint` reads.
        out: folder to write; a SavedModel of before is replaced.
        image_size: side of the centre crop, in pixels; None, as for all below, takes
            what the note beside the file says, else the usual.
        resize: shorter side before it, in pixels.
        mean: of each channel, of images of 0 to 1.
        std: of each channel, of images of 0 to 1.
        heads: of a ViT's attention.

    Raises:
        InterchangeError: the file holds no encoder that is known, the preprocessing
            cannot be told, or the note beside the file describes other weights.
    """
    path = to_path(path)
    document = _sidecar(path)
    noted_heads = document.pop("encoder", {}).get("heads")
    checkpoint = load_checkpoint(path, heads or noted_heads)
    noted_weights = document.pop("weights_sha256", None)
    weights = checkpoint.encoder.get_weights()
    if noted_weights and noted_weights != weights_digest(weights):
        raise InterchangeError(
            f"{path}.json beside the checkpoint describes other weights, so the "
            "checkpoint was written over since; move that file away, and give --mean, "
            "--std and --image_size if they are not the usual ones."
        )
    noted = document.pop("preprocessing", {})
    preprocessing = _preprocessing(
        checkpoint.encoder, noted, image_size, resize, mean, std
    )
    pixels = Pixels.from_note(noted)
    known = {"recipe": f"imported: {checkpoint.kind}", "epochs": checkpoint.epochs}
    export_saved_model(
        checkpoint.encoder,
        out,
        **preprocessing,
        pixels=pixels,
        provenance={
            **{key: value for key, value in known.items() if value is not None},
            **document,
            "checkpoint": path.name,
            "checkpoint_sha256": _sha256(path),
        },
    )
    is_guess = not (mean or std or noted)
    return Imported(checkpoint, preprocessing, is_guess)


def _preprocessing(encoder, noted, image_size, resize, mean, std):
    """What was asked for, else the file beside the checkpoint, else a guess."""
    small = getattr(encoder, "stem", None) == "cifar"
    side, channels = encoder.input_shape[-2:]
    usual = side or (32 if small else 224)
    size = image_size or noted.get("centre_crop") or usual
    if not (resize or image_size):
        resize = noted.get("resize_shorter_side")
    guess = {"mean": [*IMAGENET_MEAN], "std": [*IMAGENET_STD]} if channels == 3 else {}
    mean = mean or noted.get("mean") or guess.get("mean")
    std = std or noted.get("std") or guess.get("std")
    if not (mean and std):
        raise InterchangeError(
            f"the encoder takes {channels} channels, for which there is no usual "
            "normalisation; give --mean and --std, one value per channel."
        )
    return {
        "image_size": size,
        "resize": resize or (size if small else default_resize(size)),
        "mean": mean,
        "std": std,
        "channels": channels,
    }


def _sidecar(checkpoint: Path) -> dict:
    """Provenance and preprocessing that `export` put beside a file."""
    path = to_path(f"{checkpoint}.json")
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text())
        document["preprocessing"]["centre_crop"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InterchangeError(
            f"{path} is not what export writes beside a file; move it away or mend it."
        ) from error
    kept = ["recipe", "data", "images", "epochs", "git_revision", "encoder"]
    kept.append("weights_sha256")
    return {key: document[key] for key in [*kept, "preprocessing"] if key in document}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
