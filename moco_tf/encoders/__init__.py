"""Backbones and projection heads."""

from tensorflow import keras

from moco_tf.encoders.batchnorm import BatchNormalization
from moco_tf.encoders.heads import clone, pooled, projection_encoder
from moco_tf.encoders.resnet import (
    ResNet,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
)
from moco_tf.encoders.vit import ViT, ViTBase, ViTSmall

__all__ = [
    "BatchNormalization",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ViT",
    "ViTBase",
    "ViTSmall",
    "clone",
    "pooled",
    "projection_encoder",
]

# HDF5 files name a model's class without its package.
keras.saving.get_custom_objects().update(ResNet=ResNet, ViT=ViT)
