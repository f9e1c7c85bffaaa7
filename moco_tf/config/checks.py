"""Contradictions between fields, and what the fields' own limits cannot express."""

from __future__ import annotations

import difflib
import importlib.util
import pathlib

from moco_tf.config.limits import ConfigError, check_limits, require
from moco_tf.config.methods import Grouped, MoCoSettings
from moco_tf.config.tree import ENCODERS, Config, Data, Encoder
from moco_tf.mistakes import require_plain
from moco_tf.paths import each_place, to_path

# What the jitter of colours has, and the recipes that have no blur.
STRENGTHS = ("brightness", "contrast", "saturation", "hue")
WITHOUT_BLUR = ("moco_v1", "cifar")
# How many stages a ResNet and a ViT have, of which some may be frozen.
STAGES = {"resnet": 5, "vit": 13}


def validate(config: Config, replicas: int | None = None, hosts: int = 1) -> None:
    """Check a configuration, with the number of replicas once it is known.

    Args:
        config: what to check.
        replicas: devices that will share the batch; None checks only what the
            configuration itself fixes.
        hosts: that these devices are spread over evenly.

    Raises:
        ConfigError: one sentence with the key, its value, the limit and a remedy.
    """
    check_limits(config)
    require(
        config.name.strip(". ") and not set(config.name) & set("/\\"),
        f"name={config.name!r} must be a plain directory name such as 'demo'; "
        "put the folder that holds the runs in runs_dir.",
    )
    require_plain(config.run_dir, "the run directory", ConfigError)
    _check_data(config)
    _check_augment(config)
    _check_method(config)
    _check_parts(config)
    _check_start(config)
    _check_devices(config)
    _check_optimizer(config)
    _check_monitor(config)
    _check_replicas(config, replicas or config.requested_replicas, hosts)


def check_places(config: Config) -> None:
    """Checks that what a run needs beside itself is there, before anything starts.

    Raises:
        ConfigError: one sentence that names the key.
    """
    check_tracker(config)
    asked = [("data", config.data)]
    if config.monitor.every:
        asked.append(("monitor", config.monitor_train))
    for section, data in asked:
        keys = {"folder": ("data_dir",), "tfds": ("data_dir", "manual_dir")}
        for key in keys.get(data.source, ()):
            for place in each_place(getattr(data, key)):
                path = to_path(place)
                is_manifest = data.source == "folder" and path.is_file()
                require(
                    is_manifest or path.is_dir(),
                    f"{section}.{key}={place!r} is not a folder; check the path, which "
                    f"is taken from {pathlib.Path.cwd()} unless it starts with a "
                    "slash.",
                )
    weights = config.encoder.weights
    if weights not in (None, "imagenet") and not to_path(weights).exists():
        # A run that goes on has them behind it.
        require(
            any((config.run_dir / "checkpoints").glob("epoch-*")),
            f"encoder.weights={weights} is neither a folder nor a file; name a "
            "run directory, a SavedModel or a checkpoint, or imagenet. The path is "
            f"taken from {pathlib.Path.cwd()} unless it starts with a slash.",
        )
    if config.train.start_from is not None:
        require_plain(config.train.start_from, "train.start_from", ConfigError)
        folder = to_path(config.train.start_from)
        require(
            (folder / "checkpoints").is_dir(),
            f"train.start_from={config.train.start_from} holds no checkpoints; name a "
            "run directory that has trained for an epoch at least, such as runs/demo.",
        )


def check_tracker(config: Config) -> None:
    """Refuses a run that is to be logged where the library for that is missing.

    Raises:
        ConfigError: with the command that installs it.
    """
    name = config.log.tracker
    require(
        name is None or importlib.util.find_spec(name) is not None,
        f"log.tracker={name} needs the package {name}; install it with `pip install "
        f"{name}` (the extra moco_tf[{name}]), or leave log.tracker out.",
    )


def _check_data(config: Config) -> None:
    data = config.data
    _check_source("data", data)
    if data.positives == "group":
        require(
            isinstance(config.method, MoCoSettings),
            f"data.positives=group does not go with method.name={config.method.name}, "
            "whose negatives of the same group cannot be left out; use "
            "method.name=moco, or data.positives=image.",
        )
        require(
            data.source == "folder",
            f"data.positives=group does not go with data.source={data.source}, which "
            "has no groups; use data.source=folder with a manifest as data.data_dir.",
        )
        require(
            not data.cache,
            "data.positives=group does not go with data.cache=true, as partners are "
            "read in any order; leave one of them out.",
        )
    for key in ("mean", "std"):
        values = getattr(config.augment, key)
        require(
            values is None or len(values) == data.channels,
            f"augment.{key} has {len(values or ())} values but data.channels="
            f"{data.channels}; give one value per channel.",
        )
    require(
        all(value > 0 for value in config.augment.std or ()),
        f"augment.std={list(config.augment.std or ())} must be positive; "
        "use values above 0.",
    )


def _check_augment(config: Config) -> None:
    augment, channels = config.augment, config.data.channels
    for name in (*STRENGTHS, "jitter", "grayscale", "solarize"):
        value = getattr(augment, name)
        require(
            channels == 3 or not value,
            f"augment.{name}={value} has no effect on images of data.channels="
            f"{channels}, as operations on colours are defined for 3 (RGB) only; leave "
            "it out.",
        )
    strengths = [getattr(augment, name) for name in STRENGTHS]
    require(
        augment.jitter != 0 or not any(strengths),
        "augment.jitter=0 leaves the jitter out, so that its strengths (augment."
        f"{', '.join(STRENGTHS)}) have no effect; set one or the other.",
    )
    require(
        not augment.jitter or any(value != 0 for value in strengths),
        f"augment.jitter={augment.jitter} has no effect, as its strengths (augment."
        f"{', '.join(STRENGTHS)}) are all 0; leave one out, or augment.jitter.",
    )
    blur = augment.blur
    if blur is None:
        blur = augment.recipe not in WITHOUT_BLUR
    require(
        augment.blur_sigma is None or blur,
        f"augment.blur_sigma={list(augment.blur_sigma or ())} has no effect without a "
        "blur; add for instance augment.blur=0.5, the share of views that are blurred.",
    )


def _check_source(section: str, data: Data) -> None:
    require(
        data.source != "tfds" or data.name,
        f"{section}.name={data.name} but {section}.source=tfds needs a dataset; "
        f"set for instance {section}.name=cifar10.",
    )
    require(
        data.source == "folder" or not isinstance(data.data_dir, tuple),
        f"{section}.data_dir names several folders, which {section}.source="
        f"{data.source} cannot read; name one.",
    )
    require(
        data.source != "folder" or data.data_dir,
        f"{section}.data_dir={data.data_dir} but {section}.source=folder needs a "
        f"folder of images; add --{section}.data_dir=PATH.",
    )


def _check_encoder(encoder: Encoder) -> None:
    name = encoder.name
    # Which classes KerasCV has is only known to KerasCV, whose import takes seconds.
    near = difflib.get_close_matches(name.lower(), ENCODERS, n=1)
    require(
        name in ENCODERS or name.endswith("Backbone"),
        f"encoder.name={name!r} is unknown; "
        + (f"did you mean {near[0]}? Or use " if near else "use ")
        + f"{', '.join(ENCODERS)}, or a KerasCV class such as "
        "EfficientNetV2B0Backbone.",
    )


def _check_method(config: Config) -> None:
    method, batch = config.method, config.train.batch_size
    _check_encoder(config.encoder)
    if isinstance(method, MoCoSettings):
        keys = 2 * batch if method.symmetric else batch
        require(
            method.queue_size >= keys,
            f"method.queue_size={method.queue_size} cannot hold the {keys} keys of one "
            f"global batch of train.batch_size={batch}; use {keys} or more.",
        )
    size, patch = config.data.image_size, config.encoder.patch_size
    require(
        not config.encoder.name.startswith("vit_") or size % patch == 0,
        f"data.image_size={size} does not divide into patches of encoder.patch_size="
        f"{patch}; use {_multiples_near(size, patch)}.",
    )


def _check_parts(config: Config) -> None:
    parts = config.train.accumulate
    require(
        parts == 1 or isinstance(config.method, MoCoSettings),
        f"train.accumulate={parts} does not go with method.name={config.method.name}; "
        "leave it out, or use method.name=moco, whose negatives are in the queue "
        "whichever part of a batch is encoded.",
    )
    require(
        not config.train.recompute or config.encoder.name in ENCODERS,
        f"train.recompute=true does not go with encoder.name={config.encoder.name}, "
        f"whose blocks are not known; leave it out, or use {', '.join(ENCODERS)}.",
    )


def _check_start(config: Config) -> None:
    encoder, start = config.encoder, config.train.start_from
    require(
        encoder.weights is None or start is None,
        f"encoder.weights={encoder.weights} and train.start_from={start} both give the "
        "first weights; leave one of the two out.",
    )
    require(
        encoder.weights != "imagenet" or encoder.name not in ENCODERS,
        f"encoder.weights=imagenet does not go with encoder.name={encoder.name}, which "
        "Keras publishes no weights for (its own resnets have other strides and "
        "biases); name a checkpoint of torchvision or timm, such as "
        "encoder.weights=resnet50.pth, or use a KerasCV class such as "
        "EfficientNetV2B0Backbone.",
    )
    most = STAGES.get(encoder.name.partition("_")[0].rstrip("0123456789"), 0)
    require(
        most or not encoder.frozen_stages,
        f"encoder.frozen_stages={encoder.frozen_stages} does not go with encoder.name="
        f"{encoder.name}, whose stages are not known; leave it out, or use "
        f"{', '.join(ENCODERS)}.",
    )
    require(
        encoder.frozen_stages <= most,
        f"encoder.frozen_stages={encoder.frozen_stages} is more than the {most} stages "
        f"of encoder.name={encoder.name}; use {most} or fewer.",
    )
    require(
        encoder.frozen_epochs is None or encoder.frozen_stages,
        f"encoder.frozen_epochs={encoder.frozen_epochs} has no effect with "
        "encoder.frozen_stages=0; say how many stages are frozen, or leave it out.",
    )


def _check_optimizer(config: Config) -> None:
    optimizer, epochs = config.optimizer, config.train.epochs
    milestones = list(optimizer.milestones)
    require(
        0 <= optimizer.warmup_epochs < epochs,
        f"optimizer.warmup_epochs={optimizer.warmup_epochs} must be at least 0 and "
        f"less than train.epochs={epochs}; warm up for fewer epochs or train longer.",
    )
    require(
        not milestones or optimizer.schedule == "step",
        f"optimizer.milestones={milestones} has no effect with optimizer.schedule="
        "cosine; set milestones=[] or schedule=step.",
    )
    require(
        milestones == sorted(set(milestones))
        and all(0 < epoch < epochs for epoch in milestones),
        f"optimizer.milestones={milestones} must rise and lie between 0 and "
        f"train.epochs={epochs}; use fewer or earlier epochs.",
    )


def _check_devices(config: Config) -> None:
    gpus, replicas = config.distribution.gpus, config.distribution.replicas
    if not gpus:
        return
    require(
        len(set(gpus)) == len(gpus) and min(gpus) >= 0,
        f"distribution.gpus={list(gpus)} must be different indices from 0; "
        "use for instance [0, 1].",
    )
    require(
        replicas in (None, len(gpus)),
        f"distribution.replicas={replicas} contradicts the {len(gpus)} devices of "
        f"distribution.gpus={list(gpus)}; leave one of the two out.",
    )


def _check_monitor(config: Config) -> None:
    monitor = config.monitor
    if not monitor.every:
        return
    _check_source("monitor", config.monitor_train)
    require(
        monitor.max_train is None or monitor.knn_k <= monitor.max_train,
        f"monitor.knn_k={monitor.knn_k} is more than monitor.max_train="
        f"{monitor.max_train} reference images; use {monitor.max_train} or fewer "
        "neighbours.",
    )


def _check_replicas(config: Config, replicas: int | None, hosts: int) -> None:
    if replicas is None:
        return
    batch, groups = config.train.batch_size, config.bn_groups(replicas // hosts)
    where = "replica" if replicas == 1 else "replicas"
    require(
        batch % replicas == 0,
        f"train.batch_size={batch} does not divide among {replicas} {where}; "
        f"use {_multiples_near(batch, replicas)}.",
    )
    require(
        batch % (replicas * groups) == 0,
        f"train.batch_size={batch} does not divide among {replicas} {where} of "
        f"{groups} batch-norm groups; use {_multiples_near(batch, replicas * groups)}, "
        "or set method.bn_groups.",
    )
    require(
        groups == 1 or batch >= 2 * replicas * groups,
        f"train.batch_size={batch} leaves one image to each of {groups} batch-norm "
        f"groups on {replicas} {where}, which would be normalised by itself; use "
        f"{2 * replicas * groups} or more, or a smaller method.bn_groups.",
    )
    parts = config.train.accumulate
    require(
        groups % parts == 0,
        f"train.accumulate={parts} does not divide the {groups} batch-norm groups of a "
        "replica, which are normalised apart in whichever part they are; set "
        f"method.bn_groups={parts * max(1, groups // parts)}, or accumulate fewer.",
    )
    require(
        replicas == 1
        or not config.train.jit_compile
        or isinstance(config.method, Grouped),
        f"train.jit_compile=true does not work for method.name={config.method.name}, "
        f"whose batch norm is over all {replicas} replicas; leave it out, or use "
        "distribution.replicas=1.",
    )


def _multiples_near(value: int, step: int) -> str:
    below = value // step * step
    return f"{below} or {below + step}" if below else f"{step}"
