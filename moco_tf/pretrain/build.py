"""The model and the optimiser that a configuration describes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import keras_cv
from tensorflow import keras

from moco_tf import augment, encoders, methods, optimizers
from moco_tf.config import Config, ConfigError
from moco_tf.config.tree import ENCODERS
from moco_tf.methods import ContrastiveModel
from moco_tf.pixels import GREY_LEVELS, Pixels

log = logging.getLogger("moco_tf")

_MODELS: dict[str, Callable[..., ContrastiveModel]] = {
    "moco": methods.MoCo,
    "moco_v3": methods.MoCoV3,
    "simclr": methods.SimCLR,
    "end_to_end": methods.EndToEnd,
    "memory_bank": methods.MemoryBank,
}


def build_model(
    config: Config,
    steps: int,
    local_replicas: int,
    num_examples: int,
    pixels: Pixels = GREY_LEVELS,
) -> ContrastiveModel:
    """Makes and compiles the model of a configuration; call it in a strategy's scope.

    Args:
        config: the run.
        steps: optimiser steps in an epoch.
        local_replicas: devices of each host that share the batch.
        num_examples: images of the training set, each of which the memory bank holds.
        pixels: the numbers of these images.

    Raises:
        ConfigError: if the encoder's name is unknown.
    """
    recipe = _augmentation(config, pixels)
    # Fields have the names of the models' arguments.
    arguments = {
        field.name: getattr(config.method, field.name)
        for field in dataclasses.fields(config.method)
        if field.name not in ("name", "shuffle_keys")
    }
    if "bn_groups" in arguments:
        arguments["bn_groups"] = config.bn_groups(local_replicas)
    if config.data.positives == "group":
        arguments["mask_same_image"] = True
    of_run: dict[str, dict[str, Any]] = {
        "moco": {"accumulate": config.train.accumulate},
        "moco_v3": {"total_steps": steps * config.train.epochs},
        "memory_bank": {"num_examples": num_examples, "seed": config.seed},
    }
    model = _MODELS[config.method.name](
        build_encoder(config),
        augment=recipe if config.augment.jit_compile else recipe.uncompiled(),
        **arguments,
        **of_run.get(config.method.name, {}),
    )
    if config.train.recompute:
        model.recompute_activations()
    model.compile(_optimizer(config, steps), jit_compile=config.train.jit_compile)
    return model


def _augmentation(config, pixels=GREY_LEVELS):
    """The recipe of a configuration with its values, and a line on what differs."""
    asked = config.augment
    recipe = getattr(augment, asked.recipe)(
        channels=config.data.channels,
        mean=asked.mean,
        std=asked.std,
        value_range=pixels.value_range,
    )
    own = augment.changed(recipe, **asked.changes)
    pairs = [(recipe, own)] + [(recipe.key, own.key)] * (recipe.key is not None)
    before, after = ([augment.values(one) for one in ones] for ones in zip(*pairs))
    differing = [
        f"{name}={_shown(after[0][name])} ({_shown(*(one[name] for one in before))})"
        for name in asked.changes
        if any(one[name] != other[name] for one, other in zip(before, after))
    ]
    if (keys := config.data.key_crop_scale) not in (None, config.data.crop_scale):
        share = _shown(config.data.crop_scale)
        differing.append(f"crops of key views {_shown(keys)} of the area ({share})")
    if differing:
        log.info(
            "Augmentation: %s, but %s; in brackets what it would be. TensorBoard shows "
            "such views.",
            asked.recipe,
            ", ".join(differing),
        )
    return own


def _shown(*found):
    """Numbers or pairs of them, each once: "0.5", "0.1 to 2", "1 and 0.1"."""
    pairs = [value if isinstance(value, tuple) else (value,) for value in found]
    texts = [" to ".join(f"{number:g}" for number in pair) for pair in pairs]
    return " and ".join(dict.fromkeys(texts))


def build_encoder(config: Config) -> keras.Model:
    """Makes the backbone of a configuration.

    Raises:
        ConfigError: if KerasCV has no class of that name, or cannot make it.
    """
    name = config.encoder.name
    channels = config.data.channels
    if name.startswith("resnet"):
        return getattr(encoders, name.replace("resnet", "ResNet"))(
            width=config.encoder.width,
            stem=config.encoder.stem,
            channels=channels,
            zero_init_residual=config.encoder.zero_init_residual,
        )
    if name in ("vit_small", "vit_base"):
        make = encoders.ViTSmall if name == "vit_small" else encoders.ViTBase
        return make(
            image_size=config.data.image_size,
            patch_size=config.encoder.patch_size,
            channels=channels,
        )
    backbone = getattr(keras_cv.models, name, None)
    if not (isinstance(backbone, type) and issubclass(backbone, keras.Model)):
        raise ConfigError(
            f"encoder.name={name!r} is no class of KerasCV; use {', '.join(ENCODERS)}, "
            "or one such as EfficientNetV2B0Backbone."
        )
    try:
        # The recipe normalises, so KerasCV's own rescaling stays out.
        return backbone(include_rescaling=False, input_shape=(None, None, channels))
    except Exception as error:  # KerasCV fetches the settings of its named backbones
        reason = str(error).strip().splitlines()[0][:200]
        raise ConfigError(
            f"encoder.name={name!r} could not be made by KerasCV ({reason}); check the "
            "network, from which it fetches the settings, or use a resnet."
        ) from error


def _optimizer(config, steps):
    asked = config.optimizer
    schedule = optimizers.make_schedule(
        asked.schedule,
        config.effective_learning_rate,
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        milestones=config.milestones,
        decay_factor=asked.decay_factor,
        per_epoch=asked.per_epoch,
        warmup_epochs=asked.warmup_epochs,
    )
    # Keras would compile each variable's update apart on a GPU, asked or not.
    xla = {"jit_compile": config.train.jit_compile}
    if asked.name == "adamw":
        # torch's epsilon; Keras has 1e-7.
        return keras.optimizers.AdamW(schedule, asked.weight_decay, epsilon=1e-8, **xla)
    kind = optimizers.LARS if asked.name == "lars" else optimizers.SGD
    return kind(schedule, asked.momentum, asked.weight_decay, **xla)
