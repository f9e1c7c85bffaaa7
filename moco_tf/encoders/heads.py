"""Projection heads, and what any backbone needs to carry one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.batchnorm import BatchNormalization
from moco_tf.lanes import require_keras_2


def pooled(backbone: keras.Model) -> keras.Model:
    """Adds global average pooling to a backbone that gives feature maps.

    Args:
        backbone: images -> (N, h, w, F), as KerasCV's, or (N, F).

    Returns:
        A model images -> (N, F); the backbone itself where it gives that.

    Raises:
        TypeError: if it is not a `keras.Model` of Keras 2's API.
        ValueError: if it is a classifier, whose output is probabilities, or a model
            that was never called.
    """
    require_keras_2(backbone, keras.Model, "encoder")
    if not hasattr(backbone, "output_shape"):
        raise ValueError(
            f"encoder {backbone.name!r} has not been called yet, so its output has no "
            "shape; make it of Keras layers as keras.Model(inputs, outputs)."
        )
    last = backbone.layers[-1]
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if activation == "softmax" or isinstance(last, keras.layers.Softmax):
        raise ValueError(
            f"encoder {backbone.name!r} ends in a softmax over "
            f"{backbone.output_shape[-1]} classes; give the network without its "
            "classifier, in keras.applications with include_top=False."
        )
    if len(backbone.output_shape) == 2:
        return backbone
    model = Pooled(backbone)
    model.rebuild = lambda: pooled(clone(backbone))
    return model


@keras.saving.register_keras_serializable(package="moco_tf")
class Pooled(keras.Model):
    """A backbone with global average pooling: images -> (N, F).

    Its config holds the backbone's as a whole, since some layers inside KerasCV's
    backbones cannot be made from theirs.

    Args:
        backbone: images -> (N, h, w, F).
        name: of the model.
    """

    def __init__(self, backbone: keras.Model, name: str | None = None):
        dtype = keras.mixed_precision.global_policy().variable_dtype
        pool = keras.layers.GlobalAveragePooling2D(name="avgpool", dtype=dtype)
        name = name or f"{backbone.name}_pooled"
        super().__init__(backbone.input, pool(backbone.output), name=name)
        # Not as an attribute, which Keras would take for a layer more.
        self._describe = lambda: keras.saving.serialize_keras_object(backbone)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"backbone": self._describe(), "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Pooled:
        """Makes the model from `get_config`'s dict, with fresh weights."""
        backbone = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects
        )
        return cls(backbone, config["name"])


def with_head(
    backbone: keras.Model,
    head: Callable[[tf.Tensor], tf.Tensor],
    name: str = "encoder",
) -> keras.Model:
    """Puts a head on a backbone.

    Args:
        backbone: images -> (N, F), or feature maps, which are pooled first.
        head: symbolic (N, F) -> (N, dim), which makes new layers at each call, such as
            a `functools.partial` of `mlp_head`.
        name: of the model.

    Returns:
        A model images -> (N, dim), in the policy's variable dtype, as normalisation,
        similarities and loss that follow are. `clone` can copy it.
    """
    backbone = pooled(backbone)
    dtype = keras.mixed_precision.global_policy().variable_dtype
    x = keras.layers.Activation("linear", dtype=dtype, name="projection")(
        head(backbone.output)
    )
    model = keras.Model(backbone.input, x, name=name)
    model.rebuild = lambda: with_head(clone(backbone), head, name)
    return model


def projection_encoder(
    backbone: keras.Model,
    projection: str = "mlp",
    dim: int = 128,
    name: str = "encoder",
) -> keras.Model:
    """Puts one of MoCo's heads on a backbone.

    Args:
        backbone: images -> (N, F), or feature maps, which are pooled first.
        projection: "linear" (F -> dim; MoCo v1) or "mlp" (F -> F, ReLU, F -> dim;
            v2), without batch norm, initialised as torch's linear layers.
        dim: length of a projection.
        name: of the model.

    Returns:
        A model images -> (N, dim), before normalisation, in the policy's variable
        dtype. Its layers are the backbone and `fc` or `fc_0`, `fc_1`, `fc_2`.

    Raises:
        ValueError: if projection is neither or dim is not positive.

    Source: He et al. 2020, section 4; Chen et al. 2020 (arXiv 2003.04297), section 3.
    """
    if projection not in ("linear", "mlp"):
        raise ValueError(
            f'projection="{projection}" is unknown; use "linear" or "mlp".'
        )
    if dim < 1:
        raise ValueError(f"dim={dim} must be at least 1; 128 is the paper's.")

    def head(x):
        if projection == "mlp":
            x = _linear(x, x.shape[-1], "fc_0")
            x = keras.layers.ReLU(name="fc_1")(x)
            return _linear(x, dim, "fc_2")
        return _linear(x, dim, "fc")

    return with_head(backbone, head, name)


def mlp_head(
    x: tf.Tensor,
    widths: Sequence[int],
    last_batch_norm: bool = True,
    last_scale: bool = False,
    prefix: str = "fc",
) -> tf.Tensor:
    """Applies new linear layers with batch norm, and ReLU between them.

    SimCLR's projector is ``(F, 128)`` with the last batch norm and its scale; MoCo
    v3's has the last batch norm without scale, and for ResNets its predictor has none.
    No linear layer has a bias. They are initialised as torch's; SimCLR's code draws
    N(0, 0.01) instead, a scale that the batch norm after each layer takes out again.

    Args:
        x: symbolic (N, F).
        widths: of the layers, the last of them the length of a projection.
        last_batch_norm: put batch norm, without an offset, after the last layer.
        last_scale: give that batch norm a scale.
        prefix: of the layers' names, which end in their place in the sequence: for
            two layers ``fc_0`` linear, ``fc_1`` batch norm, ``fc_2`` ReLU, ``fc_3``
            linear, ``fc_4`` batch norm.

    Returns:
        Symbolic (N, widths[-1]).

    Raises:
        ValueError: if there is no width or one is not positive.

    Source: Chen et al. 2020 (arXiv 2002.05709), section 3 and its code; Chen et al.
    2021 (arXiv 2104.02057), section 4 and its code.
    """
    if not widths or min(widths) < 1:
        raise ValueError(
            f"widths={tuple(widths)} of a head must be one or more positive numbers."
        )
    last = len(widths) - 1
    for index, width in enumerate(widths):
        place = 3 * index
        x = _linear(x, width, f"{prefix}_{place}", use_bias=False)
        if index < last:
            x = BatchNormalization(name=f"{prefix}_{place + 1}")(x)
            x = keras.layers.ReLU(name=f"{prefix}_{place + 2}")(x)
        elif last_batch_norm:
            x = BatchNormalization(
                center=False, scale=last_scale, name=f"{prefix}_{place + 1}"
            )(x)
    return x


def _linear(x, outputs, name, use_bias=True):
    limit = x.shape[-1] ** -0.5
    return keras.layers.Dense(
        outputs,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        bias_initializer=keras.initializers.RandomUniform(-limit, limit),
        name=name,
    )(x)


def clone(encoder: keras.Model) -> keras.Model:
    """Makes an independent encoder of the same architecture and weights.

    Args:
        encoder: a `ResNet`, a KerasCV backbone, what `pooled`, `with_head` and
            `projection_encoder` make of these, or any functional or sequential
            model whose layers can be made from their configs.

    Raises:
        ValueError: if the encoder's layers cannot be copied.
    """
    if hasattr(encoder, "rebuild"):
        # KerasCV's backbones copy as a whole, while some of their layers cannot be
        # made from their configs: so what this module made is made anew on a copy.
        return _same_state(encoder.rebuild(), encoder)
    try:
        return _same_state(keras.models.clone_model(encoder), encoder)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"encoder '{encoder.name}' ({type(encoder).__name__}) cannot be copied for "
            f"the keys ({error}); give a functional model of layers with get_config."
        ) from error


def _same_state(twin, encoder):
    # Which layers learn is not in the configs of all models, such as a freed ViT.
    for copy, layer in zip(twin._flatten_layers(), encoder._flatten_layers()):
        copy.trainable = layer.trainable  # outer ones first
    twin.set_weights(encoder.get_weights())
    return twin
