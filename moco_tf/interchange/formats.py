"""The kinds of file that an encoder is written to, and the one it is read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moco_tf.interchange.errors import InterchangeError
from moco_tf.mistakes import require_plain
from moco_tf.shell import command

_PIXELS = "float32 (N,H,W,C) of 0..255, RGB order where C is 3"
_NCHW = "normalised float32 (N,C,H,W), RGB order where C is 3"


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        about: What it is for, in a line.
        suffixes: How a file's name may end; empty for a folder.
        input: What the network in the file takes.
        tolerance: Greatest deviation of the features read back, relative to their norm.
    """

    about: str
    suffixes: tuple[str, ...]
    input: str
    tolerance: float

    def check_name(self, path: Path) -> None:
        """Raises InterchangeError unless a file of this kind may be called so."""
        if self.suffixes and not path.name.endswith(self.suffixes):
            raise InterchangeError(
                f"{path} should end in {' or '.join(self.suffixes)}; rename it."
            )


FORMATS = {
    "savedmodel": Format(
        "folder for TensorFlow and TF Serving, preprocessing inside",
        (),
        _PIXELS,
        1e-4,
    ),
    "keras": Format(
        "whole Keras model, or its weights alone",
        (".keras", ".weights.h5"),
        "normalised float32 (N,H,W,C), RGB order where C is 3",
        1e-5,
    ),
    "torchvision": Format(
        "state dict of torchvision's resnets, without fc",
        (".pth", ".pt", ".safetensors"),
        _NCHW,
        1e-5,
    ),
    "timm": Format(
        "state dict of timm's models with num_classes=0",
        (".pth", ".pt", ".safetensors"),
        _NCHW,
        1e-5,
    ),
    "detectron2": Format(
        "backbone for Detectron2's R-CNNs, C4 or FPN",
        (".pkl",),
        "float32 (N,3,H,W), RGB, normalised by Detectron2's PIXEL_MEAN and PIXEL_STD",
        1e-5,
    ),
    "tflite": Format(
        "TensorFlow Lite in float32, preprocessing but the crop inside",
        (".tflite",),
        f"{_PIXELS}, N is 1",
        1e-4,
    ),
    "tflite_int8": Format(
        "the same with weights in int8, a quarter of the size",
        (".tflite",),
        f"{_PIXELS}, N is 1",
        0.1,
    ),
    "onnx": Format(
        "ONNX, preprocessing but the crop inside; needs tf2onnx",
        (".onnx",),
        _PIXELS,
        1e-4,
    ),
}


def find_export(path: Path) -> Path:
    """Where the SavedModel of a run directory lies, or of a SavedModel: itself.

    Raises:
        InterchangeError: if there is none, or none of this project's.
    """
    require_plain(path, "the encoder's path", InterchangeError)
    is_run = (path / "config.yaml").is_file()
    saved = path / "saved_model" if is_run else path
    if not path.exists():
        raise InterchangeError(
            f"{path} does not exist; give a run directory such as runs/demo, or a "
            "SavedModel folder."
        )
    if path.is_file():
        raise InterchangeError(
            f"{path} is a file; turn a checkpoint into a SavedModel first with "
            f"`{command('import', path, 'OUT')}`."
        )
    if is_run and not saved.exists():
        raise InterchangeError(
            f"{path} holds no saved_model, so the run is not finished; continue it "
            f"with `{command('train', '--resume', path)}`."
        )
    if not (saved / "saved_model.pb").is_file():
        raise InterchangeError(
            f"{path} is neither a run directory (no config.yaml) nor a SavedModel (no "
            "saved_model.pb); give one of the two."
        )
    if not (saved / "assets.extra" / "encoder.json").is_file():
        raise InterchangeError(
            f"{saved} is a SavedModel without assets.extra/encoder.json, so its "
            "encoder cannot be rebuilt; export it with this version of moco_tf."
        )
    return saved
