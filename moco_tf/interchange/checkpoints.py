"""Encoders from the checkpoints of other projects."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from tensorflow import keras

from moco_tf.encoders import ResNet, ViT
from moco_tf.encoders.vit import sin_cos_positions
from moco_tf.interchange import tf1_port
from moco_tf.interchange.errors import InterchangeError
from moco_tf.interchange.torch import load_torch_state_dict
from moco_tf.interchange.torch_files import read_torch_file
from moco_tf.paths import is_remote, to_path

# Prefix of the encoder to keep -> where such names come from. The first that a file has
# is taken: a key encoder only where there is no query encoder.
_KINDS = {
    "encoder_q.0.": "MoCo v1 or v2",  # the backbone, then the head, in a Sequential
    "encoder_q.": "MoCo v1 or v2",
    "base_encoder.": "MoCo v3",
    "encoder.": "SimSiam",
    "backbone.": "MMSelfSup",
    "encoder_k.0.": "MoCo v1 or v2 (its key encoder, the only one there)",
    "encoder_k.": "MoCo v1 or v2 (its key encoder, the only one there)",
    "momentum_encoder.": "MoCo v3 (its momentum encoder, the only one there)",
    "": "torchvision or timm",
}
# Where training scripts put the state dict.
_NESTS = ("state_dict", "model", "model_state_dict", "net")
# What torch's wrappers (DataParallel, compile) and Lightning put before names.
_WRAPPER = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|model)\.")
_HEAD = re.compile(r"(fc|head)\..*")
# What else lies beside an encoder of which a prefix tells.
_LEFTOVER = re.compile(
    r"(encoder_[qk]|backbone|momentum_encoder|predictor|projector|neck|fc|head"
    r"|data_preprocessor|optimizer)\..*|queue|queue_ptr"
)
# Block and stages of the ResNets that have a name -> the number in it.
DEPTHS = {
    ("basic", (2, 2, 2, 2)): 18,
    ("basic", (3, 4, 6, 3)): 34,
    ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101,
    ("bottleneck", (3, 8, 36, 3)): 152,
}
_STEMS: dict[tuple[int, ...], str] = {(7, 7): "imagenet", (3, 3): "cifar"}


@dataclass(frozen=True)
class Checkpoint:
    """An encoder read from a foreign file.

    Attributes:
        encoder: The backbone, normalised float32 (N, H, W, C) -> (N, F).
        kind: Where its names come from, such as "MoCo v1 or v2".
        epochs: How long it was trained, where the file says so.
        left_out: Names of what is no part of the backbone: heads, queue, key encoder.
    """

    encoder: keras.Model
    kind: str
    epochs: int | None
    left_out: tuple[str, ...]

    @property
    def is_timm_vit(self) -> bool:
        """Whether it may have been trained with mean and std of 0.5."""
        return self.kind == _KINDS[""] and isinstance(self.encoder, ViT)


def load_checkpoint(path: str | os.PathLike, heads: int | None = None) -> Checkpoint:
    """Reads a checkpoint, and builds the encoder that its shapes call for.

    Known are MoCo v1 and v2 (their query encoder), MoCo v3 (its base encoder), SimSiam,
    MMSelfSup's backbones, torchvision's ResNets and timm's ResNets and ViTs with or
    without classifier, and the TensorFlow 1 port's `.npz`. Depth, width, channels,
    patch and kind of block are read off the shapes; a 3x3 stem is taken for CIFAR's
    (stride 1, no max-pool).

    Args:
        path: a `.pth.tar`, `.pth`, `.pt`, `.bin`, `.npz` or `.safetensors` file.
        heads: of a ViT's attention, which no shape tells (None: 12 for MoCo v3's
            ViT-S, known by its names or fixed positions, else one for each 64 of
            width, as timm's).

    Raises:
        InterchangeError: if the file cannot be read without running code from it, or
            does not hold exactly such an encoder.
    """
    path = to_path(path)
    if is_remote(path):
        raise InterchangeError(
            f"{path} is on another file system; copy it to this machine first."
        )
    if not path.is_file():
        raise InterchangeError(f"{path} is not a file; give a checkpoint.")
    tensors, epochs = _read(path)
    try:
        if tf1_port.is_tf1_port(tensors):
            kind = "TensorFlow 1 port"
            state, left_out = tf1_port.to_torchvision_names(tensors)
        else:
            kind, state, left_out = _query_backbone(tensors)
        if "patch_embed.proj.weight" in state:
            encoder = _build_vit(state, heads or _heads(state, kind))
        else:
            encoder = _build_resnet(state)
        load_torch_state_dict(encoder, state)
    except ValueError as error:
        raise InterchangeError(f"{path}: {error}") from error
    return Checkpoint(encoder, kind, epochs, left_out)


def _read(path: Path) -> tuple[dict[str, np.ndarray], int | None]:
    """Reads the named tensors of any kind of file, and the epoch beside them."""
    if path.suffix == ".npz":
        return _read_npz(path), None
    if path.suffix == ".safetensors":
        return _read_safetensors(path), None
    return _tensors_of(read_torch_file(path), path)


def _read_npz(path):
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged archive can fail in any way
        raise InterchangeError(
            f"{path} cannot be read as an .npz of plain arrays "
            f"({type(error).__name__}); fetch or save it again."
        ) from error


def _read_safetensors(path):
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # its Rust errors have no common class
        raise InterchangeError(
            f"{path} cannot be read as safetensors ({type(error).__name__}), so it is "
            "cut short or of another format; fetch or save it again."
        ) from error


def _tensors_of(saved, path):
    """Digs the state dict out of what a training script saved."""
    epochs = None
    while isinstance(saved, Mapping):
        inner = [key for key in _NESTS if key in saved]
        if not inner:
            break
        if isinstance(saved.get("epoch"), int):
            epochs = saved["epoch"]
        saved = saved[inner[0]]
    if not isinstance(saved, Mapping) or not all(
        isinstance(name, str) and isinstance(array, np.ndarray)
        for name, array in saved.items()
    ):
        raise InterchangeError(
            f"{path} holds no state dict (names with tensors, by itself or under "
            f"{', '.join(map(repr, _NESTS))}); give a checkpoint of a MoCo, "
            "torchvision or timm encoder."
        )
    return dict(saved), epochs


def _query_backbone(tensors):
    """The part of a state dict that is the backbone to keep."""
    bare = {_WRAPPER.sub("", name): array for name, array in tensors.items()}
    if len(bare) < len(tensors):
        raise InterchangeError(
            f"{len(tensors) - len(bare)} names are there twice, with and without "
            "`module.` or another wrapper's prefix; keep one of the two networks."
        )
    prefix = next(
        p for p in _KINDS if any(name.startswith(p) for name in bare) or not p
    )
    state = {
        name[len(prefix) :]: array
        for name, array in bare.items()
        if name.startswith(prefix) and not _HEAD.fullmatch(name[len(prefix) :])
    }
    left_out = tuple(
        name
        for name in bare
        if not name.startswith(prefix) or name[len(prefix) :] not in state
    )
    unknown = [
        name
        for name in left_out
        if not name.startswith(prefix) and not _LEFTOVER.fullmatch(name)
    ]
    if unknown:
        raise InterchangeError(
            f"{len(unknown)} names are no part of a {_KINDS[prefix]} checkpoint: "
            f"{', '.join(unknown)}; remove them, or give the encoder alone."
        )
    return _KINDS[prefix], state, left_out


def _build_vit(state: Mapping[str, np.ndarray], heads: int) -> ViT:
    """The ViT that names and shapes call for, with weights yet to be loaded."""
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    places = state.get("pos_embed", np.empty((1, 0, 0))).shape[1] - 1
    side = math.isqrt(max(places, 0))
    if side == 0 or side**2 != places:
        raise InterchangeError(
            f"pos_embed has {places} places after the class token, which are no square "
            "grid; only ViTs with a class token on square images are known."
        )
    depth = _count(state, "blocks")
    return ViT(side * patch, patch, width, depth, heads, channels, name="vit")


def _heads(state, kind):
    width = state["patch_embed.proj.weight"].shape[0]
    is_v3 = width == 384 and (kind.startswith("MoCo v3") or _has_fixed_positions(state))
    return 12 if is_v3 else max(width // 64, 1)


def _has_fixed_positions(state):
    """Whether a ViT has MoCo v3's table, also without the prefix of its names."""
    found = state.get("pos_embed", np.empty(0))
    side = math.isqrt(max(found.size // 384 - 1, 0))
    if found.shape != (1, side**2 + 1, 384):
        return False
    return np.allclose(found[0, 1:], sin_cos_positions(side, 384), rtol=0, atol=1e-5)


def _build_resnet(state: Mapping[str, np.ndarray]) -> ResNet:
    """The ResNet that names and shapes call for, with weights yet to be loaded."""
    stem = state.get("conv1.weight")
    depths = tuple(_count(state, f"layer{stage}") for stage in (1, 2, 3, 4))
    if stem is None or stem.ndim != 4 or not all(depths):
        shown = ", ".join(list(state)[:5]) or "nothing"
        raise InterchangeError(
            f"no ResNet in torchvision's names (conv1.weight, layer1.0.conv1.weight, "
            f"...) but {shown}; convert the names first."
        )
    if stem.shape[2:] not in _STEMS:
        raise InterchangeError(
            f"conv1.weight is {stem.shape[2]}x{stem.shape[3]}; only the 7x7 stem of "
            "ImageNet and the 3x3 stem of CIFAR are known."
        )
    block = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    number = DEPTHS.get((block, depths), "")
    return ResNet(
        depths,
        block,
        width=stem.shape[0],
        stem=_STEMS[stem.shape[2:]],
        channels=stem.shape[1],
        name=f"resnet{number}",
    )


def _count(state, stem):
    """How many numbered parts such as `layer1.0.` there are."""
    found = (re.match(rf"{stem}\.(\d+)\.", name) for name in state)
    # Not the greatest number: a single name could ask for a network of any depth.
    return len({match[1] for match in found if match})
