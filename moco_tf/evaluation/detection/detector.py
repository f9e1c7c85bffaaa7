"""KerasCV's RetinaNet on an encoder: building, training, finding boxes, AP."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import keras_cv
import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf import optimizers
from moco_tf.data.sources import Source
from moco_tf.data.threads import untuned
from moco_tf.encoders import BatchNormalization, clone
from moco_tf.evaluation.detection.average_precision import Boxes, average_precision
from moco_tf.evaluation.detection.settings import Detect
from moco_tf.log import watched

log = logging.getLogger("moco_tf")

_SCORE, _OVERLAP, _MOST = 0.05, 0.5, 100  # as Detectron2's RetinaNet keeps boxes
_SCALES = [2 ** (i / 3) for i in range(3)]


def build_detector(
    encoder: keras.Model, num_classes: int, pretrained: bool = True
) -> keras_cv.models.RetinaNet:
    """Makes a RetinaNet whose backbone is a copy of an encoder.

    The last three stages become P3 to P5, and P6 and P7 are made of the last one.
    Anchors follow the stages' strides: the smallest of a level has four times its
    stride as side, 32 pixels at stride 8 (an "imagenet" stem), 8 at stride 2 (a
    "cifar" stem). All layers learn; batch norm learns too, with the statistics of each
    replica's batch, where the paper synchronises them over replicas.

    Args:
        encoder: a KerasCV backbone with `pyramid_level_inputs`, such as `ResNet`.
        num_classes: of the objects.
        pretrained: keep the encoder's weights; False starts from random ones.

    Returns:
        The detector, normalised float32 (N, S, S, C) -> raw predictions, with boxes as
        left, top, right, bottom in pixels; S is a multiple of 32.

    Raises:
        ValueError: the encoder has no feature pyramid.

    Source: Lin et al. 2017 (arXiv 1708.02002), with KerasCV's settings.
    """
    levels, names = _pyramid(encoder)
    backbone = clone(encoder) if pretrained else keras.models.clone_model(encoder)
    for layer in backbone._flatten_layers():
        if isinstance(layer, BatchNormalization):
            layer.groups = 1
    backbone.pyramid_level_inputs = {
        f"P{3 + index}": levels[name] for index, name in enumerate(names)
    }
    first = _level(names[0])
    strides = [2**level for level in range(first, first + 5)]
    policy = keras.mixed_precision.global_policy()
    # Box targets and focal loss need more digits than bfloat16 has.
    keras.mixed_precision.set_global_policy("float32")
    try:
        return keras_cv.models.RetinaNet(
            backbone,
            num_classes=num_classes,
            bounding_box_format="xyxy",
            anchor_generator=keras_cv.layers.AnchorGenerator(
                "xyxy",
                sizes=[4.0 * stride for stride in strides],
                scales=_SCALES,
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=strides,
                clip_boxes=True,
            ),
            prediction_decoder=keras_cv.layers.MultiClassNonMaxSuppression(
                "xyxy",
                from_logits=True,
                iou_threshold=_OVERLAP,
                confidence_threshold=_SCORE,
                max_detections=_MOST,
                max_detections_per_class=_MOST,
            ),
        )
    finally:
        keras.mixed_precision.set_global_policy(policy)


def largest_object(encoder: keras.Model) -> int:
    """Side in pixels of the largest square that overlaps an anchor by half.

    Greater objects match none and are not learnt: 1149 pixels with an "imagenet" stem,
    287 with a "cifar" stem.

    Raises:
        ValueError: the encoder has no feature pyramid.
    """
    _, names = _pyramid(encoder)
    return int(4 * 2 ** (_level(names[0]) + 4) * _SCALES[-1] * 2**0.5)


def _pyramid(encoder):
    """The feature maps by level, and the names of the three that are taken."""
    levels = getattr(encoder, "pyramid_level_inputs", {})
    if len(levels) < 3:
        raise ValueError(
            f"The encoder '{encoder.name}' has no pyramid of three feature maps, which "
            "a detector needs; use a ResNet."
        )
    return levels, sorted(levels, key=_level)[-3:]


def _level(name):
    return int(name[1:])


def compile_detector(model: keras_cv.models.RetinaNet, settings: Detect) -> None:
    """Gives a detector its losses and optimiser; call it in the strategy's scope."""
    schedule = optimizers.make_schedule(
        "step",
        settings.learning_rate * settings.batch_size / 16,
        # An epoch of one step: the settings count in steps.
        epochs=settings.steps,
        steps_per_epoch=1,
        milestones=settings.drops,
        warmup_epochs=settings.warmup,
    )
    # Keras adds gradients up over replicas, and each replica's loss is a mean.
    share = 1 / tf.distribute.get_strategy().num_replicas_in_sync
    model.compile(
        box_loss="smoothl1",
        classification_loss="focal",
        loss_weights={"box": share, "classification": share},
        optimizer=optimizers.SGD(
            schedule, 0.9, settings.weight_decay, global_clipnorm=10.0
        ),
    )


def true_boxes(source: Source) -> list[Boxes]:
    """All boxes of a source, without decoding its images."""

    def annotation(element):
        return {key: element[key] for key in ("id", "boxes", "label", "difficult")}

    return [
        Boxes(item["id"], item["boxes"], item["label"], item["difficult"])
        for item in untuned(source.dataset.map(annotation)).as_numpy_iterator()
    ]


class Detector:
    """A detector in inference mode, compiled once.

    Args:
        model: what `build_detector` made; its variables may be mirrored.
        normalise: uint8 (N, S, S, C) -> float32, as in training.
    """

    def __init__(self, model: keras_cv.models.RetinaNet, normalise):
        """See the class docstring."""
        self.model, self.normalise = model, normalise
        self._function = tf.function(self._forward, reduce_retracing=True)

    def find(
        self, batches: tf.data.Dataset, progress: str | None = None
    ) -> Iterator[Boxes]:
        """Boxes in each image of `whole_images`, in pixels of the image itself.

        Args:
            batches: of `whole_images`.
            progress: title of a progress bar on stderr; None shows none.

        Yields:
            One `Boxes` for each image, in order, with scores from 0.05 up.
        """
        for batch in watched(batches, progress):
            found = {key: value.numpy() for key, value in self._function(batch).items()}
            for row, number in enumerate(batch["id"].numpy()):
                kept = slice(found["num_detections"][row])
                yield Boxes(
                    int(number),
                    found["boxes"][row, kept],
                    found["classes"][row, kept].astype(np.int64),
                    scores=found["confidence"][row, kept],
                )

    def _forward(self, batch):
        images = self.normalise(batch["image"])
        predictions = self.model(images, training=False)
        found = self.model.decode_predictions(predictions, images)
        factor = tf.tile(batch["scale"], [1, 2])[:, None]
        limit = tf.tile(tf.reverse(batch["size"], [1]), [1, 2])[:, None]
        boxes = tf.clip_by_value(
            found["boxes"] / factor, 0.0, tf.cast(limit, tf.float32)
        )
        return {**found, "boxes": boxes}


class AveragePrecision(keras.callbacks.Callback):
    """Measures AP at the end of every epoch and keeps the figures.

    Args:
        detector: the model in inference mode.
        batches: of `whole_images`.
        truth: their boxes.
        class_names: a name per class.
        progress: show a progress bar.

    Attributes:
        measured: one dict of `average_precision` for each epoch, with its "step".
    """

    def __init__(self, detector, batches, truth, class_names, progress=False):
        """See the class docstring."""
        super().__init__()
        self.detector, self.batches, self.truth = detector, batches, truth
        self.class_names, self.progress = class_names, progress
        self.measured = []

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Adds "AP" and "AP50" on all images to the logs, unless training diverged."""
        if not np.isfinite(logs["loss"]):
            return
        title = "finding boxes" if self.progress else None
        found = list(self.detector.find(self.batches, title))
        figures = average_precision(self.truth, found, self.class_names)
        step = int(self.model.optimizer.iterations.numpy())
        self.measured.append({"step": step, **figures})
        logs.update({name: figures[name] for name in ("AP", "AP50")})
