"""`evaluate.py detect`: RetinaNet on the encoder, beside one from random weights."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace

import tensorflow as tf
from tensorflow import keras

from moco_tf.augment import Normalize
from moco_tf.config import ConfigError
from moco_tf.config.limits import require
from moco_tf.data.box_views import training_boxes, whole_images
from moco_tf.data.boxes import joined, open_boxes
from moco_tf.data.sources import DataError, check_same_classes
from moco_tf.data.threads import CORES
from moco_tf.evaluation.detection.average_precision import require_pycocotools
from moco_tf.evaluation.detection.detector import (
    AveragePrecision,
    Detector,
    build_detector,
    compile_detector,
    largest_object,
    true_boxes,
)
from moco_tf.evaluation.detection.settings import Detect
from moco_tf.evaluation.results.output import (
    Outcome,
    conclude,
    percent,
    results_folder,
    text_table,
)
from moco_tf.evaluation.results.pictures import curves, grouped_bars
from moco_tf.interchange import Pretrained
from moco_tf.pixels import GREY_LEVELS
from moco_tf.report.progress import Progress

log = logging.getLogger("moco_tf")

_FIGURES = ("AP", "AP50", "AP75")
_CAVEAT = (
    "This is RetinaNet with FPN, not the paper's Faster R-CNN R50-C4 of Detectron2: "
    "compare these figures with each other only."
)


def run(settings: Detect, pretrained: Pretrained) -> dict:
    """Trains and scores the detectors, and writes report/detect.

    Args:
        settings: the recipe and the data.
        pretrained: the encoder, which is copied.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: training diverged, the encoder has no feature pyramid,
            pycocotools is missing, or the batch does not fit the replicas.
        DataError: the data cannot be had or do not fit.
    """
    folder = results_folder(pretrained.path / "report" / "detect", settings.out)
    settings = replace(
        settings, milestones=settings.drops, warmup_steps=settings.warmup
    )
    require(
        pretrained.pixels == GREY_LEVELS,
        f"{pretrained.path} takes images of {pretrained.pixels.words}, and detection "
        "8-bit photographs only; take an encoder that was trained on such.",
    )
    try:
        require_pycocotools()
    except ImportError as error:
        raise ConfigError(str(error)) from error
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    require(
        settings.batch_size % replicas == 0 and settings.batch_size >= 2 * replicas,
        f"batch_size={settings.batch_size} does not give {replicas} replicas equally "
        f"many images, at least 2; use a multiple of {replicas}.",
    )
    try:
        largest = largest_object(pretrained.encoder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if settings.image_size > largest:
        log.warning(
            "At image_size=%d objects of more than %d pixels match no anchor of this "
            "encoder and are not learnt; use image_size=%d.",
            settings.image_size,
            largest,
            largest // 32 * 32,
        )
    train, test = _open(settings.data)
    truth = true_boxes(test)
    if all(b.difficult is not None and b.difficult.all() for b in truth):
        raise DataError(
            f"data.test_split={settings.data.test_split!r} has no boxes to find; name "
            "a split with annotations (those of VOC2012's test are not public)."
        )
    log.info(
        "Detecting %d classes: %s training and %s test images.",
        train.num_classes,
        f"{train.num_examples:,}",
        f"{test.num_examples:,}",
    )
    starts = ["pretrained", "from scratch"] if settings.control else ["pretrained"]
    arms = [_train(start, settings, pretrained, train, test, truth) for start in starts]
    figures = {name: arms[0].last[name] for name in _FIGURES}
    if settings.control:
        figures["from scratch AP"] = arms[1].last["AP"]
    cells = [[arm.start, *(percent(arm.last[n]) for n in _FIGURES)] for arm in arms]
    outcome = Outcome(
        figures=figures,
        facts={
            "class_names": list(train.class_names),
            "images": {"train": train.num_examples, "test": test.num_examples},
            "arms": [vars(arm) for arm in arms],
        },
        rows=[
            {"start": arm.start, "step": one["step"], **{n: one[n] for n in _FIGURES}}
            for arm in arms
            for one in arm.measured
        ],
        pictures=_pictures(arms, train.class_names),
        table=text_table([f"detect, {settings.steps:,} steps", *_FIGURES], cells),
        warning=_CAVEAT,
    )
    return conclude("detect", outcome, folder, settings, pretrained)


@dataclass(frozen=True)
class _Arm:
    """What came of one initialisation: a loss and AP for each evaluation."""

    start: str
    loss: list[float]
    measured: list[dict]

    @property
    def last(self):
        return self.measured[-1]


def _open(data):
    """Training and test sources."""
    places = {"data_dir": data.data_dir, "manual_dir": data.manual_dir}
    train = open_boxes(data.source, data.train_split, name=data.name, **places)
    test = open_boxes(data.source, data.test_split, name=data.name, **places)
    check_same_classes(train, test, "The training set", "the test set")
    if data.also_train is None:
        return train, test
    if data.source == "folder":
        places["data_dir"] = data.also_train
    other = open_boxes(data.source, data.train_split, name=data.also_train, **places)
    return joined(train, other), test


def _train(start, settings, pretrained, train, test, truth):
    log.info("%s:", start.capitalize())
    keras.utils.set_random_seed(settings.seed)
    try:
        model = build_detector(
            pretrained.encoder, train.num_classes, pretrained=start == "pretrained"
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    compile_detector(model, settings)
    normalise = Normalize(pretrained.mean, pretrained.std)
    # Grey in the encoder's eyes: 0 after normalisation.
    fill = [round(255 * value) for value in pretrained.mean]
    batches = training_boxes(
        train,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        fill=fill,
        scale_jitter=settings.scale_jitter,
        seed=settings.seed,
    )

    def example(batch):
        boxes = {"boxes": batch["boxes"], "classes": batch["classes"]}
        return normalise(batch["image"], training=False), boxes

    whole = whole_images(
        test,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        fill=fill,
    )
    detector = Detector(model, lambda images: normalise(images, training=False))
    precision = AveragePrecision(detector, whole, truth, train.class_names, True)
    progress = Progress(columns={"loss": "loss", "AP": "AP", "AP50": "AP50"})
    history = model.fit(
        batches.map(example, num_parallel_calls=CORES),
        epochs=settings.evaluations,
        steps_per_epoch=settings.steps // settings.evaluations,
        callbacks=[keras.callbacks.TerminateOnNaN(), precision, progress],
        verbose=0,
    ).history
    if not math.isfinite(history["loss"][-1]):
        raise ConfigError(
            f"the loss is not finite: learning_rate={settings.learning_rate:g} is too "
            f"high for this data; try --learning_rate={settings.learning_rate / 10:g}."
        )
    return _Arm(start, list(map(float, history["loss"])), precision.measured)


def _pictures(arms, class_names):
    steps = [one["step"] for one in arms[0].measured]
    panels = {
        f"{name}, %": {
            arm.start: [100 * one[name] for one in arm.measured] for arm in arms
        }
        for name in ("AP", "AP50")
    }
    panels["Mean loss since the last point"] = {arm.start: arm.loss for arm in arms}
    of_class = {
        arm.start: [
            [] if (ap := arm.last["AP50_of_class"][name]) is None else [ap]
            for name in class_names
        ]
        for arm in arms
    }
    return {
        "curves": curves(steps, panels, x_label="step"),
        "classes": grouped_bars("AP50 by class, %", class_names, of_class),
    }
