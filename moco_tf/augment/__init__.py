"""Batched augmentation on the device, with torchvision's semantics."""

from moco_tf.augment.base import SeededImageLayer
from moco_tf.augment.blur import gaussian_blur
from moco_tf.augment.changes import changed, values
from moco_tf.augment.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    grayscale,
    solarize,
)
from moco_tf.augment.layers import (
    ColorJitter,
    Normalize,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomQuarterTurns,
    RandomSolarize,
    RandomVerticalFlip,
)
from moco_tf.augment.recipe import Recipe
from moco_tf.augment.recipes import (
    CIFAR_MEAN,
    CIFAR_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    cifar,
    moco_v1,
    moco_v2,
    moco_v3,
    simclr,
)

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "ColorJitter",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Normalize",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomQuarterTurns",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Recipe",
    "SeededImageLayer",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "changed",
    "cifar",
    "color_jitter",
    "gaussian_blur",
    "grayscale",
    "moco_v1",
    "moco_v2",
    "moco_v3",
    "simclr",
    "solarize",
    "values",
]
