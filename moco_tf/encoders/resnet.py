"""ResNets with torchvision's exact arithmetic, as KerasCV backbones."""

from __future__ import annotations

from collections.abc import Sequence

import keras_cv
import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.batchnorm import BatchNormalization

EXPANSION = {"basic": 1, "bottleneck": 4}


@keras.saving.register_keras_serializable(package="moco_tf")
class ResNet(keras_cv.models.Backbone):
    """A ResNet: float (N, H, W, channels) -> pooled features (N, F).

    Padding, strides and batch norm are torchvision's (the stride of a bottleneck is
    in its 3x3), so torchvision's weights give torchvision's numbers. KerasCV's
    detectors take it through `pyramid_level_inputs`. Features leave in the policy's
    variable dtype: float32 under the mixed policies.

    Args:
        depths: blocks in each of the four stages.
        block: "bottleneck" (ResNet-50 and deeper) or "basic".
        width: channels of the stem and of the first stage's blocks; 64 in the
            standard nets. F is 8 x width, times 4 for bottlenecks.
        stem: "imagenet" (7x7 stride 2, 3x3 max-pool stride 2) or "cifar" (3x3).
        channels: of the images.
        zero_init_residual: start every block's last batch-norm gamma at 0.
        name: of the model.
        **kwargs: further arguments of `keras.Model`.

    Raises:
        ValueError: if an argument is none of the above.

    Source: He et al. 2016 (arXiv 1512.03385); arithmetic of torchvision's resnet.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        block: str = "bottleneck",
        width: int = 64,
        stem: str = "imagenet",
        channels: int = 3,
        zero_init_residual: bool = False,
        name: str | None = None,
        **kwargs,
    ):
        """Builds the network; see the class."""
        if block not in EXPANSION:
            raise ValueError(
                f'block="{block}" is unknown; use "basic" or "bottleneck".'
            )
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f'stem="{stem}" is unknown; use "imagenet" or "cifar".')
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(
                f"depths={tuple(depths)} does not give four stages at least one block "
                "each; ResNet-50 has (3, 4, 6, 3)."
            )
        if width < 1 or channels < 1:
            raise ValueError(
                f"width={width} and channels={channels} must be at least 1."
            )
        dtype = keras.mixed_precision.global_policy().variable_dtype
        images = keras.Input((None, None, channels), name="images", dtype=dtype)
        x, levels, blocks = _stem(images, width, stem), {}, []
        residual = _bottleneck if block == "bottleneck" else _basic
        for stage, depth in enumerate(depths):
            for index in range(depth):
                x = residual(
                    x,
                    width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    project=index == 0 and (stage > 0 or block == "bottleneck"),
                    zero_init=zero_init_residual,
                    name=f"layer{stage + 1}_{index}",
                )
                blocks.append(f"layer{stage + 1}_{index}_out")
            level = stage + (2 if stem == "imagenet" else 0)
            levels[f"P{level}"] = f"layer{stage + 1}_{depth - 1}_out"
        # Pooling in the variable dtype keeps features float32 under mixed precision.
        x = keras.layers.GlobalAveragePooling2D(name="avgpool", dtype=dtype)(x)
        super().__init__(inputs=images, outputs=x, name=name, **kwargs)
        self.pyramid_level_inputs = levels
        self.block_ends = tuple(blocks)
        self.stage_ends = ("relu" if stem == "cifar" else "maxpool", *levels.values())
        self.depths = tuple(depths)
        self.block = block
        self.width = width
        self.stem = stem
        self.channels = channels
        self.zero_init_residual = zero_init_residual

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "depths": self.depths,
            "block": self.block,
            "width": self.width,
            "stem": self.stem,
            "channels": self.channels,
            "zero_init_residual": self.zero_init_residual,
        }


@keras.saving.register_keras_serializable(package="moco_tf")
class _Convolution(keras.layers.Conv2D):
    """A `Conv2D` whose gradient does not overrun memory.

    Of a narrow input, oneDNN's strided 1x1 convolution writes its gradient's workspace
    past its end (github.com/uxlfoundation/oneDNN/issues/6035); of an input that has
    been thinned out beforehand it does not.
    """

    def convolution_op(self, inputs, kernel):
        stride = self.strides[0]
        if stride == 1 or self.kernel_size != (1, 1) or inputs.shape[-1] >= 16:
            return super().convolution_op(inputs, kernel)
        return tf.nn.conv2d(inputs[:, ::stride, ::stride], kernel, 1, "VALID")


def _convolution(x, filters, size, stride, name):
    padding = (size - 1) // 2
    if stride > 1 and padding:
        # "same" pads a strided convolution more on one side than on the other.
        x = keras.layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
    return _Convolution(
        filters,
        size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
    )(x)


def _relu(x, name):
    return keras.layers.ReLU(name=name)(x)


def _stem(x, width, stem):
    if stem == "cifar":
        x = _convolution(x, width, 3, 1, "conv1")
        return _relu(BatchNormalization(name="bn1")(x), "relu")
    x = _convolution(x, width, 7, 2, "conv1")
    x = _relu(BatchNormalization(name="bn1")(x), "relu")
    # After a ReLU, padding with 0 cannot win against what the window holds.
    x = keras.layers.ZeroPadding2D(1, name="maxpool_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name="maxpool")(x)


def _residual(x, branch, filters, stride, project, zero_init, name):
    """Adds a branch of (size, filters, stride) convolutions to its input."""
    shortcut = x
    if project:
        shortcut = _convolution(x, filters, 1, stride, f"{name}_downsample_0")
        shortcut = BatchNormalization(name=f"{name}_downsample_1")(shortcut)
    for number, (size, width, step) in enumerate(branch, start=1):
        last = number == len(branch)
        x = _convolution(x, width, size, step, f"{name}_conv{number}")
        gamma = "zeros" if last and zero_init else "ones"
        x = BatchNormalization(name=f"{name}_bn{number}", gamma_initializer=gamma)(x)
        if not last:
            x = _relu(x, f"{name}_relu{number}")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return _relu(x, f"{name}_out")


def _basic(x, width, stride, project, zero_init, name):
    branch = [(3, width, stride), (3, width, 1)]
    return _residual(x, branch, width, stride, project, zero_init, name)


def _bottleneck(x, width, stride, project, zero_init, name):
    wide = EXPANSION["bottleneck"] * width
    branch = [(1, width, 1), (3, width, stride), (1, wide, 1)]
    return _residual(x, branch, wide, stride, project, zero_init, name)


def ResNet18(**kwargs) -> ResNet:
    """ResNet-18; keyword arguments as in `ResNet`."""
    return ResNet((2, 2, 2, 2), "basic", **{"name": "resnet18", **kwargs})


def ResNet34(**kwargs) -> ResNet:
    """ResNet-34; keyword arguments as in `ResNet`."""
    return ResNet((3, 4, 6, 3), "basic", **{"name": "resnet34", **kwargs})


def ResNet50(**kwargs) -> ResNet:
    """ResNet-50; keyword arguments as in `ResNet`."""
    return ResNet((3, 4, 6, 3), "bottleneck", **{"name": "resnet50", **kwargs})


def ResNet101(**kwargs) -> ResNet:
    """ResNet-101; keyword arguments as in `ResNet`."""
    return ResNet((3, 4, 23, 3), "bottleneck", **{"name": "resnet101", **kwargs})


def ResNet152(**kwargs) -> ResNet:
    """ResNet-152; keyword arguments as in `ResNet`."""
    return ResNet((3, 8, 36, 3), "bottleneck", **{"name": "resnet152", **kwargs})
