"""What watches a run while it trains, and what of that is shown."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf import callbacks
from moco_tf.config import Config
from moco_tf.evaluation.knn.gallery import Album, draw_neighbours
from moco_tf.exchange import together
from moco_tf.methods import ContrastiveModel
from moco_tf.pretrain.images import Images
from moco_tf.pretrain.monitor import Monitor, training_album
from moco_tf.pretrain.page import RunPage
from moco_tf.pretrain.past import Past
from moco_tf.report import confusion_matrix, look, view_grid
from moco_tf.report.progress import CONTRAST, SPEED


@dataclass(frozen=True)
class Watch:
    """The watchers of a run.

    Attributes:
        monitor: None where there is no labelled set.
        album: images for pictures.
        baselines: what `Monitor.baselines` gave.
        quality: None where it is not measured.
        page: what writes the run's page.
        callbacks: for `fit`, in their order.
    """

    monitor: Monitor | None
    album: Album
    baselines: dict
    quality: callbacks.FeatureQuality | None
    page: RunPage
    callbacks: list[keras.callbacks.Callback]


def watch(
    config: Config,
    strategy: tf.distribute.Strategy,
    run_dir: pathlib.Path,
    model: ContrastiveModel,
    images: Images,
    past: Past,
    page: RunPage,
    tracker: Sequence[keras.callbacks.Callback] = (),
) -> Watch:
    """Opens the labelled sets, measures what is to be beaten, makes the callbacks.

    Args:
        config: the run.
        strategy: whose hosts all open the labelled sets.
        run_dir: where they write.
        model: as restored.
        images: what it learns from.
        past: what lies behind.
        page: what shows the run in a browser.
        tracker: what logs the run elsewhere.

    Raises:
        DataError: a labelled set cannot be had or does not fit.
    """
    with together(strategy):
        every, pixels = config.monitor.every, images.source.pixels
        monitor = Monitor(config, model, pixels) if every else None
    album = monitor.album if monitor else training_album(config, images.source, model)
    baselines = {}
    if monitor:
        baselines = monitor.baselines(model, run_dir, resumed=not past.is_untrained)
    probes = monitor.probes if monitor else []
    every = config.monitor.every or max(1, config.train.epochs // 10)
    quality = None
    if (count := config.log.quality_images) is not None:
        quality = callbacks.FeatureQuality(images.pairs(count), every)
        quality.set_model(model)
    untrained = dict(baselines.get("untrained", {}))
    if past.is_untrained:
        untrained.update(quality.measure() if quality else {})
        if untrained:
            past.history.add(0, untrained)
    measured = {probe.name: probe.title for probe in probes}
    progress = callbacks.Progress(columns={**CONTRAST, **measured, **SPEED})
    progress.first_epoch, progress.first_step = past.epochs, past.step
    model.measures_gradients = config.log.every_steps is not None
    pictures = board_pictures(config, model, monitor, album, images.shown)
    watchers = [
        callbacks.FiniteLoss(),
        callbacks.TrainingHealth(config.train.batch_size, past.step),
        *probes,
        *([quality] if quality else []),
        past.history,
        *tracker,
        callbacks.TensorBoard(
            run_dir / "tensorboard",
            untrained=untrained,
            pictures=page.keeping(pictures, album),
            every=every,
            every_steps=config.log.every_steps,
            batch_size=config.train.batch_size,
            histograms=config.log.histograms,
            hyperparameters=config.hyperparameters,
            album=album,
            is_untrained=past.is_untrained,
        ),
        past.checkpoints,
        past.within,
        progress,
        page,
    ]
    if stages := config.encoder.frozen_stages:
        frozen = callbacks.FrozenStages(stages, config.encoder.frozen_epochs)
        watchers.insert(0, frozen)
    if config.train.profile is not None:
        done = past.epochs * images.steps + past.step
        board = run_dir / "tensorboard"
        watchers.append(callbacks.Profile(board, *config.train.profile, done))
    return Watch(monitor, album, baselines, quality, page, watchers)


def board_pictures(
    config: Config,
    model: ContrastiveModel,
    monitor: Monitor | None,
    album: Album,
    shown: Callable[[], dict],
) -> Mapping[str, Callable[[int], np.ndarray | None]]:
    """What `TensorBoard` draws: views, neighbours, and classes taken for each other.

    Args:
        config: the run.
        model: whose augmentation and features are shown.
        monitor: None where there is no labelled set.
        album: images among which neighbours are found.
        shown: gives a small batch of two views, not yet augmented.
    """

    def views(epochs):
        views = model.views(shown())
        order = np.argsort(views.position.numpy())
        return view_grid(views.query.numpy(), views.key.numpy()[order])

    def neighbours(epochs):
        # Without a monitor features are extracted for this picture alone.
        if monitor is None and epochs < config.train.epochs:
            return None
        images, labels = album.load()
        if len(images) < 2:
            return None
        return look.pixels(
            draw_neighbours(
                images,
                album.features(),
                labels,
                album.class_names,
                file_names=album.file_names,
            )
        )

    pictures = {"views/query and key": views, "neighbours": neighbours}
    if monitor is not None:
        knn = monitor.probes[0]

        def confusion(epochs):
            if knn.confusion is None:
                return None
            # Classes that the few images lack have their place too.
            missing = len(monitor.class_names) - len(knn.confusion)
            counts = np.pad(knn.confusion, (0, max(0, missing)))
            title = f"kNN: {100 * np.trace(counts) / max(1, counts.sum()):.1f} %"
            return look.pixels(confusion_matrix(counts, monitor.class_names, title))

        pictures["confusion"] = confusion
    return pictures
