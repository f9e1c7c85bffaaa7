"""State dicts in torch's names and layouts, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.contrast.queue import NO_IMAGE
from moco_tf.encoders.batchnorm import BatchNormalization
from moco_tf.encoders.vit import ClassToken, Positions
from moco_tf.interchange.errors import InterchangeError
from moco_tf.lanes import refuse_keras_3

# Permutations from torch's layout to Keras's; the inverse comes by argsort.
_CONVOLUTION = (2, 3, 1, 0)  # OIHW -> HWIO
_MATRIX = (1, 0)
_VECTOR = (0,)
_TOKENS = (0, 1, 2)

# The layers of a ResNet in torchvision's names, of a ViT in timm's, and of heads; "_"
# in Keras's names is "." in torch's, except in patch_embed, cls_token and pos_embed.
_MODULE = re.compile(
    r"conv1|bn1|layer[1-4]_\d+_(conv[1-3]|bn[1-3]|downsample_[01])|(fc|head|predictor)(_\d+)?"
    r"|cls_token|pos_embed|patch_embed_proj|norm"
    r"|blocks_\d+_(norm[12]|attn_(qkv|proj)|mlp_fc[12])"
)


class _Entry(NamedTuple):
    """One tensor of a state dict: its variable here and the change of layout."""

    variable: tf.Variable | None  # None: a counter that nothing here keeps
    permutation: tuple[int, ...] = _VECTOR

    @property
    def is_kept(self) -> bool:
        return self.variable is not None

    def torch_shape(self) -> tuple[int, ...]:
        assert self.variable is not None  # asked of kept ones only
        # torch keeps the queue's pointer as a vector of one.
        shape = tuple(self.variable.shape) or (1,)
        return tuple(shape[axis] for axis in np.argsort(self.permutation))

    def load(self, array: np.ndarray) -> None:
        assert self.variable is not None
        array = array.transpose(self.permutation).reshape(self.variable.shape)
        self.variable.assign(array.astype(self.variable.dtype.as_numpy_dtype))

    def export(self) -> np.ndarray:
        if self.variable is None:
            return np.zeros((), np.int64)
        shape = tuple(self.variable.shape) or (1,)
        array = self.variable.numpy().reshape(shape)
        # A copy in torch's order: no view of what training will change.
        return np.array(array.transpose(np.argsort(self.permutation)), order="C")


def load_torch_state_dict(model: keras.Model, state_dict: Mapping) -> None:
    """Loads weights that torch has saved, all of them or none.

    Args:
        model: a `ResNet` or `ViT` backbone, an encoder with a projection head, or a
            whole `MoCo` or `MoCoV3`.
        state_dict: name -> array. Names are torchvision's for a ResNet
            (`layer1.0.bn2.running_var`), timm's for a ViT (`blocks.0.norm1.bias`), the
            references' for a whole model (`encoder_q.*`, `encoder_k.*`, `queue` as
            (dim, size), `queue_ptr`; v3: `base_encoder.*`, `momentum_encoder.*`,
            `predictor.*`), each with or without `module.` in front. Counters of seen
            batches are read and not kept.

    Raises:
        InterchangeError: if a name is missing or unknown, or a shape differs. Nothing
            is loaded then.
    """
    given = {
        name[7:] if name.startswith("module.") else name: np.asarray(array)
        for name, array in state_dict.items()
    }
    table = _table(model)
    wanted = {name: entry for name, entry in table.items() if entry.is_kept}
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in table],
        "of another shape": [
            f"{name} {given[name].shape} instead of {entry.torch_shape()}"
            for name, entry in wanted.items()
            if name in given and given[name].shape != entry.torch_shape()
        ],
    }
    found = "; ".join(
        f"{len(names)} {problem}: {', '.join(names)}"
        for problem, names in problems.items()
        if names
    )
    if found:
        raise InterchangeError(
            f"the state dict does not fit {type(model).__name__} '{model.name}' "
            f"({found}); build the model with the checkpoint's depths, width, head and "
            "queue, and leave out entries that it does not have."
        )
    for name, entry in wanted.items():
        entry.load(given[name])
    if "queue" in wanted:
        # torch's queue does not say which images its keys are of.
        model.queue.ids.assign(np.full(model.queue.size, NO_IMAGE, np.int64))


def to_torch_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Gives the weights under torch's names; the inverse of loading.

    Args:
        model: as in `load_torch_state_dict`.

    Returns:
        name -> array in torch's layout, in torch's order within a layer.
    """
    return {name: entry.export() for name, entry in _table(model).items()}


def _table(model) -> dict[str, _Entry]:
    refuse_keras_3(model, "model")
    if not hasattr(model, "query_encoder"):
        return _encoder_table(model)
    if not hasattr(model, "key_encoder"):
        raise InterchangeError(
            f"{type(model).__name__} has no counterpart among the reference's "
            "checkpoints; take its encoder alone, model.encoder."
        )
    if hasattr(model, "predictor"):  # MoCo v3, whose keys are the batch itself
        parts = {
            "base_encoder.": model.query_encoder,
            "momentum_encoder.": model.key_encoder,
            "": model.predictor,
        }
    else:
        parts = {"encoder_q.": model.query_encoder, "encoder_k.": model.key_encoder}
    table = {}
    for prefix, encoder in parts.items():
        entries = _encoder_table(encoder).items()
        table.update({prefix + name: entry for name, entry in entries})
    if hasattr(model, "queue"):
        table["queue"] = _Entry(model.queue.keys, _MATRIX)
        table["queue_ptr"] = _Entry(model.queue.cursor)
    return table


def _encoder_table(encoder) -> dict[str, _Entry]:
    """Entries of an encoder whose layers are torch's modules."""
    table = {}
    for layer in encoder.layers:
        if not layer.weights:
            continue
        entries = _entries(layer) if _MODULE.fullmatch(layer.name) else None
        if entries is None:
            raise InterchangeError(
                f"layer '{layer.name}' of '{encoder.name}' is a "
                f"{type(layer).__name__} that has no name in torch; only the ResNets "
                "and ViTs of moco_tf.encoders travel as state dicts."
            )
        module = re.sub("_(?!embed|token)", ".", layer.name)
        table.update({module + name: entry for name, entry in entries.items()})
    return table


def _entries(layer) -> dict[str, _Entry] | None:
    """A layer's entries by what follows its module's name; None: no such layer."""
    if isinstance(layer, ClassToken):
        return {"": _Entry(layer.token, _TOKENS)}
    if isinstance(layer, Positions):
        return {"": _Entry(layer.table, _TOKENS)}
    if isinstance(layer, keras.layers.Conv2D):
        entries = {".weight": (layer.kernel, _CONVOLUTION), ".bias": (layer.bias,)}
    elif isinstance(layer, keras.layers.Dense):
        entries = {".weight": (layer.kernel, _MATRIX), ".bias": (layer.bias,)}
    elif isinstance(layer, keras.layers.LayerNormalization):
        entries = {".weight": (layer.gamma,), ".bias": (layer.beta,)}
    elif isinstance(layer, BatchNormalization):
        entries = {
            ".weight": (layer.gamma,),
            ".bias": (layer.beta,),
            ".running_mean": (layer.moving_mean,),
            ".running_var": (layer.moving_variance,),
        }
    else:
        return None
    # A layer without bias, scale or offset has none in torch either.
    table = {name: _Entry(*e) for name, e in entries.items() if e[0] is not None}
    if isinstance(layer, BatchNormalization):
        table[".num_batches_tracked"] = _Entry(None)
    return table
