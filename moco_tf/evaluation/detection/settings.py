"""Settings of `evaluate.py detect`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import (
    NOT_NEGATIVE,
    POSITIVE,
    at_least,
    limited,
    require,
    rising,
)
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import check_milestones, rate_drops


@dataclass(frozen=True)
class BoxData:
    """The images with labelled boxes.

    Attributes:
        source: tfds (a detection set of TensorFlow Datasets) or folder (VOC's layout:
            JPEGImages, Annotations and ImageSets/Main).
        name: TFDS name such as voc/2007; only for source tfds.
        data_dir: Root of the prepared TFDS sets (null: ~/tensorflow_datasets), or the
            folder such as VOCdevkit/VOC2007 for source folder.
        manual_dir: Where TFDS finds archives that you must fetch yourself.
        train_split: Split to learn from (null: train+validation of a TFDS set;
            ImageSets/Main/trainval.txt of a folder, or train.txt where that is absent).
        test_split: Split to report on.
        also_train: Second set, whose train_split is learnt from as well: a TFDS name
            such as voc/2012 or a folder, as source says. The paper trains on both
            years and tests on 2007.
    """

    source: Literal["tfds", "folder"] = "tfds"
    name: Optional[str] = "voc/2007"
    data_dir: Optional[str] = None
    manual_dir: Optional[str] = None
    train_split: Optional[str] = None
    test_split: str = "test"
    also_train: Optional[str] = None

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(
            self.source != "tfds" or self.name,
            f"data.name={self.name} but data.source=tfds needs a set; set for instance "
            "data.name=voc/2007.",
        )
        require(
            self.source != "folder" or self.data_dir,
            f"data.data_dir={self.data_dir} but data.source=folder needs a folder in "
            "VOC's layout; add for instance --data.data_dir=VOCdevkit/VOC2007.",
        )


@dataclass(frozen=True)
class Detect:
    """Train KerasCV's RetinaNet (FPN) on the encoder, end to end, and measure AP.

    This is not the paper's detector, whose figures come from Faster R-CNN R50-C4 in
    Detectron2: export the encoder with `moco-tf export RUN --to
    detectron2 OUT.pkl` and see docs/transfer.md for the settings. Compare figures of
    this command with each other only: pretrained against control.

    Attributes:
        image_size: Side of the square that images are fitted into, a multiple of 32.
            Objects much below 25 pixels there match no anchor and are not learnt.
        steps: Optimiser steps.
        batch_size: Global batch, over all replicas; at least 2 for each.
        learning_rate: Rate for a batch of 16, scaled linearly with batch_size.
        warmup_steps: Steps of linear rise from 0 (null: 100, or a tenth of them).
        milestones: Steps at which the rate drops to a tenth (null: at 3/4 and 11/12 of
            them, the published 18000 and 22000 of 24000; []: never).
        weight_decay: L2 term added to the gradient of every parameter.
        scale_jitter: Least and greatest factor on the size of an image in training.
        evaluations: How often AP is measured, evenly spread, the last time at the end;
            divides steps.
        control: Also train the same detector from random weights: same images, same
            steps.
        precision: float32 or mixed_bfloat16; the latter in the encoder only, pyramid
            and heads stay float32.
        seed: Where all randomness starts from.
        out: Folder for the results (null: report/detect beside the weights).
        data: data, the images with labelled boxes
        distribution: distribution, which devices share the batch
    """

    image_size: int = 512
    steps: int = limited(24000, at_least(1))
    batch_size: int = limited(16, at_least(2))
    learning_rate: float = limited(0.01, POSITIVE)
    warmup_steps: Optional[int] = None
    milestones: Optional[tuple[int, ...]] = None
    weight_decay: float = limited(1e-4, NOT_NEGATIVE)
    scale_jitter: tuple[float, float] = limited(
        (0.8, 1.25), rising("factors", "[0.8, 1.25]")
    )
    evaluations: int = limited(4, at_least(1))
    control: bool = True
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    seed: int = limited(0, at_least(0))
    out: Optional[str] = None
    data: BoxData = field(default_factory=BoxData)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        self.data.check()
        require(
            self.image_size >= 32 and self.image_size % 32 == 0,
            f"image_size={self.image_size} must be a multiple of 32, which the feature "
            f"pyramid halves to; use {max(32, round(self.image_size / 32) * 32)}.",
        )
        check_milestones(self.drops, "steps", self.steps)
        require(
            self.steps % self.evaluations == 0,
            f"evaluations={self.evaluations} does not divide steps={self.steps}; use "
            "evaluations=1, or another number of steps.",
        )
        require(
            0 <= self.warmup < min((self.steps, *self.drops)),
            f"warmup_steps={self.warmup_steps} must be at least 0 and end before the "
            "rate drops and the run ends; use fewer.",
        )

    @property
    def drops(self) -> tuple[int, ...]:
        """Steps at which the rate drops."""
        return rate_drops(self.milestones, self.steps, (3 / 4, 11 / 12))

    @property
    def warmup(self) -> int:
        """Steps of linear rise from 0."""
        if self.warmup_steps is None:
            return min(100, self.steps // 10)
        return self.warmup_steps
