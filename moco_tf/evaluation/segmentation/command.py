"""`evaluate.py segment`: how much of a picture's layout the features keep."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.augment import Normalize
from moco_tf.config import ConfigError
from moco_tf.config.limits import require
from moco_tf.data.box_views import whole_images
from moco_tf.data.sources.masks import IGNORED, open_voc_masks, read_masks
from moco_tf.evaluation.features import FeatureExtractor
from moco_tf.evaluation.results.output import (
    Outcome,
    conclude,
    percent,
    results_folder,
    text_table,
)
from moco_tf.evaluation.results.pictures import curves, grouped_bars
from moco_tf.evaluation.segmentation.probe import PixelClassifier, overlaps
from moco_tf.evaluation.segmentation.settings import Segment
from moco_tf.interchange import Pretrained

log = logging.getLogger("moco_tf")


def run(settings: Segment, pretrained: Pretrained) -> dict:
    """Fits and scores the classifiers, and writes report/segment.

    Args:
        settings: the data and the fit.
        pretrained: the encoder.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: the encoder has no feature map or features that are not finite.
        DataError: the data cannot be had or do not fit.
    """
    folder = results_folder(pretrained.path / "report" / "segment", settings.out)
    side, data = settings.image_size, settings.data
    require(
        pretrained.channels == 3,
        f"the encoder takes images of {pretrained.channels} channels, and segment has "
        "JPEGs of 3; name another encoder.",
    )
    splits = (data.train_split, data.test_split)
    sources, files = zip(*(open_voc_masks(data.data_dir, split) for split in splits))
    train_masks, test_masks = (read_masks(each, side) for each in files)
    known = np.unique(train_masks[train_masks != IGNORED])
    require(
        len(known) > 1,
        f"the masks of data.train_split={data.train_split} have {len(known)} classes "
        "of pixels; two or more can be told apart.",
    )
    classes = 1 + int(
        max(m[m != IGNORED].max(initial=0) for m in (train_masks, test_masks))
    )
    log.info(
        "Segmenting %d classes: %s training and %s test images.",
        classes,
        *(f"{source.num_examples:,}" for source in sources),
    )
    starts = ["pretrained", "from scratch"] if settings.control else ["pretrained"]
    arms = []
    for start in starts:
        encoder = _mapped(pretrained.encoder, start, settings.seed)
        train, test = (_maps(s, encoder, settings, pretrained) for s in sources)
        classifier = PixelClassifier(train, classes, settings.seed)
        loss = classifier.fit(
            train, train_masks, settings.epochs, settings.batch_size,
            settings.learning_rate,
        )  # fmt: skip
        confusion = classifier.confusion(test, test_masks, settings.batch_size)
        arms.append(_Arm(start, loss, confusion))
    figures = {"mIoU": arms[0].mean, "pixels": arms[0].accuracy}
    if settings.control:
        figures["from scratch mIoU"] = arms[1].mean
    names = [str(number) for number in range(classes)]
    by_class = {
        arm.start: [[] if np.isnan(iou) else [iou] for iou in overlaps(arm.confusion)]
        for arm in arms
    }
    epochs = range(1, settings.epochs + 1)
    outcome = Outcome(
        figures=figures,
        facts={
            "images": dict(zip(splits, (len(train_masks), len(test_masks)))),
            "arms": [
                {
                    "start": arm.start,
                    "loss": arm.loss,
                    "confusion": arm.confusion.tolist(),
                }
                for arm in arms
            ],
        },
        rows=[
            {"start": arm.start, "class": name, "iou": "" if np.isnan(iou) else iou}
            for arm in arms
            for name, iou in zip(names, overlaps(arm.confusion))
        ],
        pictures={
            "classes": grouped_bars("IoU by class, %", names, by_class),
            "curves": curves(epochs, {"Loss, nats": {a.start: a.loss for a in arms}}),
        },
        table=text_table(
            [f"segment, {classes} classes", "mIoU", "pixels"],
            [[arm.start, percent(arm.mean), percent(arm.accuracy)] for arm in arms],
        ),
    )
    return conclude("segment", outcome, folder, settings, pretrained)


@dataclass(frozen=True)
class _Arm:
    """What came of one initialisation."""

    start: str
    loss: list[float]
    confusion: np.ndarray

    @property
    def mean(self):
        return float(np.nanmean(overlaps(self.confusion)))

    @property
    def accuracy(self):
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))


def _mapped(encoder, start, seed):
    """The encoder up to its last feature map, flattened, perhaps with new weights."""
    levels = getattr(encoder, "pyramid_level_inputs", {})
    if not levels:
        raise ConfigError(
            f"the encoder '{encoder.name}' has no feature map that is known; segment "
            "takes the resnets and KerasCV's backbones."
        )
    if start != "pretrained":
        keras.utils.set_random_seed(seed)
        encoder = keras.models.clone_model(encoder)
    last = levels[max(levels, key=lambda name: int(name[1:]))]
    return keras.Model(encoder.input, encoder.get_layer(last).output)


def _maps(source, encoder, settings, pretrained):
    """Feature maps of a source, float32 (images, rows, columns, dim)."""
    batches = whole_images(
        source,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        fill=[round(255 * value) for value in pretrained.mean],
    ).map(lambda batch: {**batch, "label": -tf.ones_like(batch["id"])})
    shape = encoder.compute_output_shape((1, *[settings.image_size] * 2, 3))[1:]
    extractor = FeatureExtractor(
        lambda images, training: tf.reshape(
            encoder(images, training=training), (-1, np.prod(shape))
        ),
        Normalize(pretrained.mean, pretrained.std),
        tf.distribute.get_strategy(),
    )
    count = -(-source.num_examples // settings.batch_size)
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    maps = extractor.extract(batches, "feature maps").features
    require(
        np.isfinite(maps).all(),
        "the encoder gives feature maps that are not finite; its training diverged, or "
        "numbers overflow in mixed_float16: use --precision=mixed_bfloat16 or float32.",
    )
    return maps.reshape(-1, *shape)
