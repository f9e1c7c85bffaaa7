"""An encoder's architecture as JSON, and the encoder made anew from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
from tensorflow import keras

from moco_tf.interchange.errors import InterchangeError

_KNOWN = {"keras", "tf_keras", "keras_cv", "moco_tf", "tensorflow"}
_LOW_PRECISION = {"float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}


def describe(encoder: keras.Model) -> str:
    """Writes down class and configuration, with float32 for every float policy.

    Args:
        encoder: a `ResNet`, a KerasCV backbone, or any model whose layers can be made
            from their configs.

    Returns:
        JSON that `rebuild` reads.

    Raises:
        InterchangeError: if a config holds what JSON cannot say.
    """
    try:
        description = keras.saving.serialize_keras_object(encoder)
        description.pop("compile_config", None)
        # Frozen for a while, not by nature.
        description["config"].pop("trainable", None)
        return json.dumps(_as_float32(description), indent=2)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise InterchangeError(
            f"encoder '{encoder.name}' ({type(encoder).__name__}) cannot be described "
            f"in JSON ({_first_line(error)}); make it of layers with a get_config of "
            "plain values."
        ) from error


def rebuild(description: str, weights: Sequence[np.ndarray]) -> keras.Model:
    """Makes a trainable encoder.

    Layers whose configuration does not fix a dtype (all of a `ResNet`) follow the
    global policy, so an encoder computes in mixed precision when the policy says so.

    Args:
        description: what `describe` wrote.
        weights: arrays in the order of `encoder.weights`.

    Raises:
        InterchangeError: if the description cannot be followed or the weights do not
            fit it.
    """
    try:
        config = json.loads(description)
        _require_layers_alone(config)
        encoder = keras.saving.deserialize_keras_object(config)
        encoder.set_weights(weights)
    except InterchangeError:
        raise
    except Exception as error:  # a foreign layer's constructor can raise anything
        raise InterchangeError(
            f"the encoder cannot be rebuilt ({_first_line(error)}); import the module "
            "that defines its layers first, or export it again with this version."
        ) from error
    return encoder


def _require_layers_alone(config):
    """Refuses a description that would have Keras import and call other things.

    Keras imports whatever module a description names, and takes functions of it.
    """
    if isinstance(config, (list, tuple)):
        for item in config:
            _require_layers_alone(item)
    if not isinstance(config, dict):
        return
    kind, module = config.get("class_name"), config.get("module")
    if isinstance(kind, str):
        own = ">" in str(config.get("registered_name"))  # of code imported before
        if kind in ("Lambda", "__lambda__", "function") and not own:
            raise _foreign(f"a {kind}")
        root = str(module or "keras").partition(".")[0]
        made = getattr(sys.modules.get(str(module)), kind, None)
        is_layer = isinstance(made, type) and issubclass(made, keras.layers.Layer)
        if root not in _KNOWN and not is_layer:
            raise _foreign(f"{module}.{kind}")
    for value in config.values():
        _require_layers_alone(value)


def _foreign(what):
    return InterchangeError(
        f"the encoder cannot be rebuilt (its description asks for {what}, which is no "
        "layer of Keras, KerasCV or of a module that was imported before, and could "
        "run code from the file); import the module that defines it first if it is "
        "yours, or export the encoder without it."
    )


def computes_in_low_precision(encoder: keras.Model) -> bool:
    """Tells whether any layer computes in float16 or bfloat16."""
    layers = (
        part for part in encoder.submodules if isinstance(part, keras.layers.Layer)
    )
    return any(layer.compute_dtype in _LOW_PRECISION for layer in layers)


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


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
