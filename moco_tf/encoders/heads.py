"""Projection heads, and what any backbone needs to carry one."""

from __future__ import annotations

from tensorflow import keras


def pooled(backbone: keras.Model) -> keras.Model:
    """Adds global average pooling to a backbone that gives feature maps.

    Args:
        backbone: images -> (N, h, w, F), as KerasCV's, or (N, F).

    Returns:
        A model images -> (N, F); the backbone itself where it gives that.
    """
    if len(backbone.output_shape) == 2:
        return backbone
    dtype = keras.mixed_precision.global_policy().variable_dtype
    features = keras.layers.GlobalAveragePooling2D(name="avgpool", dtype=dtype)(
        backbone.output
    )
    model = keras.Model(backbone.input, features, name=f"{backbone.name}_pooled")
    model.rebuild = lambda: pooled(clone(backbone))
    return model


def projection_encoder(
    backbone: keras.Model,
    projection: str = "mlp",
    dim: int = 128,
    name: str = "encoder",
) -> keras.Model:
    """Puts a projection head on a backbone.

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
    backbone = pooled(backbone)
    features = width = backbone.output_shape[-1]
    x = backbone.output
    if projection == "mlp":
        x = _linear(x, features, width, "fc_0")
        x = keras.layers.ReLU(name="fc_1")(x)
        x = _linear(x, width, dim, "fc_2")
    else:
        x = _linear(x, features, dim, "fc")
    # Normalisation, similarities and loss that follow are in the variable dtype.
    dtype = keras.mixed_precision.global_policy().variable_dtype
    x = keras.layers.Activation("linear", dtype=dtype, name="projection")(x)
    model = keras.Model(backbone.input, x, name=name)
    model.rebuild = lambda: projection_encoder(clone(backbone), projection, dim, name)
    return model


def _linear(x, inputs, outputs, name):
    limit = inputs**-0.5
    return keras.layers.Dense(
        outputs,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        bias_initializer=keras.initializers.RandomUniform(-limit, limit),
        name=name,
    )(x)


def clone(encoder: keras.Model) -> keras.Model:
    """Makes an independent encoder of the same architecture and weights.

    Args:
        encoder: a `ResNet`, a KerasCV backbone, what `pooled` and
            `projection_encoder` make of these, or any functional or sequential
            model whose layers can be made from their configs.

    Raises:
        ValueError: if the encoder's layers cannot be copied.
    """
    if hasattr(encoder, "rebuild"):
        # KerasCV's backbones copy as a whole, while some of their layers cannot be
        # made from their configs: so what this module made is made anew on a copy.
        twin = encoder.rebuild()
        twin.set_weights(encoder.get_weights())
        return twin
    try:
        twin = keras.models.clone_model(encoder)
        twin.set_weights(encoder.get_weights())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"encoder '{encoder.name}' ({type(encoder).__name__}) cannot be copied for "
            f"the keys ({error}); give a functional model of layers with get_config."
        ) from error
    return twin
