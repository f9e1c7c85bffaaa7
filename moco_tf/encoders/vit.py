"""Vision transformers as MoCo v3 trains them, in timm's arithmetic and names."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow import keras

_register = keras.saving.register_keras_serializable(package="moco_tf")


@_register
class ViT(keras.Model):
    """A vision transformer: float (N, S, S, channels) -> class token (N, width).

    Its positions are a fixed sine-cosine table, and its patch projection stays at its
    random initialisation, without which training is unstable (`trainable = True` on
    the model frees it, for fine-tuning). Layers have timm's names with "_" for ".",
    and no dropout. The class token leaves after the last layer norm, in the policy's
    variable dtype: float32 under the mixed policies.

    Args:
        image_size: S, a multiple of the patch.
        patch_size: side of a patch in pixels.
        width: of a token.
        depth: number of blocks.
        heads: of the attention in each block.
        channels: of the images.
        name: of the model.
        **kwargs: further arguments of `keras.Model`.

    Raises:
        ValueError: if the image is not whole patches, or the width not a multiple of
            4 and of the heads, or an argument not positive.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929); Chen et al. 2021 (arXiv
    2104.02057), sections 4.3 and 5 and the appendix; arithmetic of timm's.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        width: int = 384,
        depth: int = 12,
        heads: int = 12,
        channels: int = 3,
        name: str | None = None,
        **kwargs,
    ):
        """Builds the network; see the class."""
        if min(image_size, patch_size, width, depth, heads, channels) < 1:
            raise ValueError(
                f"image_size={image_size}, patch_size={patch_size}, width={width}, "
                f"depth={depth}, heads={heads} and channels={channels} must all be at "
                "least 1."
            )
        if image_size % patch_size:
            raise ValueError(
                f"image_size={image_size} is not a multiple of patch_size="
                f"{patch_size}; ViTs on ImageNet use 224 and 16, on CIFAR 32 and 4."
            )
        if width % 4 or width % heads:
            raise ValueError(
                f"width={width} must be a multiple of 4, for the sines and cosines of "
                f"two axes, and of heads={heads}; ViT-S has 384 and 12."
            )
        dtype = keras.mixed_precision.global_policy().variable_dtype
        images = keras.Input(
            (image_size, image_size, channels), name="images", dtype=dtype
        )
        x = _patches(images, patch_size, width)
        # Under the mixed policies what blocks add to stays in float32, as in torch.
        x = ClassToken(name="cls_token", dtype=dtype)(x)
        x = Positions(name="pos_embed", dtype=dtype)(x)
        for number in range(depth):
            x = _block(x, heads, f"blocks_{number}", dtype)
        # Each token is normalised by itself, so the others need not be.
        x = FirstToken(name="first_token", dtype=dtype)(x)
        x = _layer_norm("norm", dtype)(x)
        super().__init__(inputs=images, outputs=x, name=name, **kwargs)
        self.block_ends = tuple(f"blocks_{number}_add2" for number in range(depth))
        self.stage_ends = ("pos_embed", *self.block_ends[:-1], "norm")
        self.image_size = image_size
        self.patch_size = patch_size
        self.width = width
        self.depth = depth
        self.heads = heads
        self.channels = channels

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "channels": self.channels,
            "name": self.name,
        }


def ViTSmall(**kwargs) -> ViT:
    """ViT-S with MoCo v3's 12 heads (timm's has 6); keyword arguments as in `ViT`."""
    return ViT(**{"width": 384, "heads": 12, "name": "vit_small", **kwargs})


def ViTBase(**kwargs) -> ViT:
    """ViT-B; keyword arguments as in `ViT`."""
    return ViT(**{"width": 768, "heads": 12, "name": "vit_base", **kwargs})


def sin_cos_positions(side: int, width: int) -> np.ndarray:
    """Codes of the places of a square grid.

    Args:
        side: of the grid, in patches.
        width: of a code, a multiple of 4.

    Returns:
        float64 (side * side, width), row after row: sines and cosines of the row's
        number, then of the column's, at width / 4 frequencies from 1 down to, but
        without, 1 / 10000.

    Source: MoCo v3's code, whose halves come in this order.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    angles = np.arange(side)[:, None] * frequencies
    codes = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(codes, side, axis=0), np.tile(codes, (side, 1))
    return np.concatenate([rows, columns], axis=1)


@_register
class ClassToken(keras.layers.Layer):
    """Puts a learned token before the others, (N, T, D) -> (N, 1 + T, D)."""

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the token."""
        self.token = self.add_weight(
            "token",
            (1, 1, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=1e-6),
        )
        super().build(input_shape)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Puts the token first."""
        first = tf.repeat(self.token, tf.shape(tokens)[0], axis=0)
        return tf.concat([first, tokens], axis=1)


@_register
class FirstToken(keras.layers.Layer):
    """Keeps the first token, (N, T, D) -> (N, D)."""

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Takes it out."""
        return tokens[:, 0]


@_register
class Positions(keras.layers.Layer):
    """Adds the positions of a square grid to all tokens but the first.

    The table is a weight that is not trained, so that a checkpoint's own is kept.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the table."""
        count, width = input_shape[1:]
        codes = sin_cos_positions(math.isqrt(count - 1), width)
        self.table = self.add_weight(
            "table",
            (1, count, width),
            initializer=keras.initializers.Constant(np.pad(codes, ((1, 0), (0, 0)))),
            trainable=False,
        )
        super().build(input_shape)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Adds the table."""
        return tokens + self.table


@_register
class Attention(keras.layers.Layer):
    """Lets tokens look at each other: queries, keys and values (N, T, 3D) -> (N, T, D).

    Args:
        heads: equal parts of D that do so independently.
        **kwargs: further arguments of `keras.layers.Layer`.
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Mixes the values."""
        count, width = tokens.shape[1], tokens.shape[2] // 3
        size = width // self.heads
        parts = tf.reshape(tokens, (-1, count, 3, self.heads, size))
        query, key, value = tf.unstack(tf.transpose(parts, (2, 0, 3, 1, 4)))
        scores = tf.matmul(query * size**-0.5, key, transpose_b=True)
        # The sum of many small exponentials needs more than 16 bits.
        shares = tf.nn.softmax(tf.cast(scores, self.variable_dtype))
        mixed = tf.matmul(tf.cast(shares, value.dtype), value)
        return tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, count, width))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "heads": self.heads}


def _patches(images, size, width):
    limit = math.sqrt(6 / (images.shape[-1] * size**2 + width))
    projection = keras.layers.Conv2D(
        width,
        size,
        strides=size,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        trainable=False,
        name="patch_embed_proj",
    )
    return keras.layers.Reshape((-1, width), name="tokens")(projection(images))


def _block(x, heads, name, dtype):
    width = x.shape[-1]
    # Queries, keys and values are initialised as the three matrices that they are.
    limit = math.sqrt(6 / (width + width))
    branch = _layer_norm(f"{name}_norm1", dtype)(x)
    branch = keras.layers.Dense(
        3 * width,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        name=f"{name}_attn_qkv",
    )(branch)
    branch = Attention(heads, name=f"{name}_attn")(branch)
    branch = keras.layers.Dense(width, name=f"{name}_attn_proj")(branch)
    x = keras.layers.Add(name=f"{name}_add1", dtype=dtype)([x, branch])
    branch = _layer_norm(f"{name}_norm2", dtype)(x)
    branch = keras.layers.Dense(4 * width, name=f"{name}_mlp_fc1")(branch)
    branch = keras.layers.Activation(_gelu, name=f"{name}_mlp_act")(branch)
    branch = keras.layers.Dense(width, name=f"{name}_mlp_fc2")(branch)
    return keras.layers.Add(name=f"{name}_add2", dtype=dtype)([x, branch])


@_register
def _gelu(x):
    # Written out: TensorFlow's own has become one of erfc, which ONNX has no word for.
    return 0.5 * x * (1.0 + tf.math.erf(x / tf.cast(math.sqrt(2), x.dtype)))


def _layer_norm(name, dtype):
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=dtype)
