"""What a run says of itself before it starts."""

from __future__ import annotations

import logging
import math

import numpy as np
import tensorflow as tf

from moco_tf.config import Config
from moco_tf.config.methods import Grouped, MemoryBankSettings, MoCoSettings
from moco_tf.contrast import bank_bytes
from moco_tf.data.sources import Source
from moco_tf.distribution import describe
from moco_tf.encoders.stages import stage_layers
from moco_tf.exchange import local_replicas
from moco_tf.methods import ContrastiveModel
from moco_tf.pixels import GREY_LEVELS

log = logging.getLogger("moco_tf")


def announce_bank(config: Config, source: Source) -> None:
    """Says how much memory a memory bank takes, where the method has one."""
    if isinstance(config.method, MemoryBankSettings):
        size = bank_bytes(source.num_examples, config.method.dim) / 2**20
        log.info("The memory bank takes %.1f MiB on each replica.", size)


def announce(
    config: Config,
    source: Source,
    steps: int,
    strategy: tf.distribute.Strategy,
    model: ContrastiveModel,
) -> None:
    """Says what runs where, at which rate, and how batch norm keeps from leaking.

    Args:
        config: the run.
        source: the images to learn from.
        steps: of an epoch.
        strategy: the devices.
        model: the method.
    """
    batch, method = config.train.batch_size, config.method
    log.info(
        "%s: %s on %s images, %s of %s of %d images.",
        config.name,
        method.name,
        f"{source.num_examples:,}",
        _counted(config.train.epochs, "epoch"),
        _counted(steps, "step"),
        batch,
    )
    if source.pixels != GREY_LEVELS:
        log.info(
            "Images of %s numbers in %d channels, %s as 0..1.",
            source.pixels.dtype,
            config.data.channels,
            source.pixels.words,
        )
    if config.data.positives == "group" and source.groups is not None:
        _, sizes = np.unique(source.groups, return_counts=True)
        alone = int(np.sum(sizes == 1))
        log.info(
            "Positives of the same group: %s, of %d images at most%s.",
            _counted(len(sizes), "group"),
            sizes.max(),
            f"; {_counted(alone, 'image')} without another" if alone else "",
        )
    log.info(
        "%s, %s; learning rate %.4g (%.4g at batch 256%s).",
        describe(strategy),
        config.train.precision,
        config.effective_learning_rate,
        config.optimizer.learning_rate,
        {"linear": "", "sqrt": ", by its root"}[config.optimizer.scaling],
    )
    groups = getattr(model, "bn_groups", None)
    if groups is None:
        log.info("Batch norm over the global batch.")
    elif groups > 1 or local_replicas(strategy) > 1:
        extent = f"in {groups} groups per replica" if groups > 1 else "per replica"
        if not hasattr(model, "key_encoder"):
            log.info("Batch norm %s.", extent)
        elif not isinstance(method, Grouped) or method.shuffle_keys:
            log.info("Batch norm %s; keys shuffled over these (ShuffleBN).", extent)
        else:
            log.info(
                "Batch norm %s; keys not shuffled, as method.shuffle_keys=false asks.",
                extent,
            )
    if stages := config.encoder.frozen_stages:
        names = stage_layers(model.encoder, stages)
        layers = [model.encoder.get_layer(name) for name in names]
        count = sum(w.shape.num_elements() for layer in layers for w in layer.weights)
        epochs = config.encoder.frozen_epochs
        log.info(
            "The first %s of the encoder (%s numbers) stay frozen for %s.",
            _counted(stages, "stage"),
            f"{count:,}",
            _counted(epochs, "epoch") if epochs else "the whole run",
        )
    if (
        isinstance(method, MoCoSettings)
        and method.queue_size > source.num_examples
        and not method.mask_same_image
        and config.data.positives == "image"
    ):
        log.warning(
            "The queue (method.queue_size=%d) is larger than the data set (%d images), "
            "so it holds older keys of the query's own image, false negatives; make it "
            "smaller, or set method.mask_same_image=true.",
            method.queue_size,
            source.num_examples,
        )


def announce_columns(config: Config, model: ContrastiveModel) -> None:
    """Says what the columns of the progress table mean.

    Args:
        config: the run.
        model: the method.
    """
    negatives = model.negatives(config.train.batch_size)
    guess = f"ln(1+{negatives:,}) = {math.log1p(negatives):.2f}"
    lines = [f"loss         InfoNCE, nats; a blind guess costs {guess}"]
    if isinstance(config.method, MoCoSettings):
        lines.append(
            "             (it may rise at first, while real keys fill the queue)"
        )
    lines.append(
        "own key      how often a query's own key is nearer than all negatives"
    )
    if config.monitor.every:
        names = "kNN, linear" if config.monitor.linear else "kNN        "
        lines.append(f"{names}  accuracy of frozen features on labelled test images")
    log.info("\n%s\n", "\n".join(lines))


def _counted(number, thing):
    return f"{number:,} {thing}{'s' * (number != 1)}"
