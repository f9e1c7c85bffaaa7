"""Settings of `evaluate.py finetune`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import (
    CROP_SHARES,
    INNER_SHARE,
    NOT_NEGATIVE,
    POSITIVE,
    Limit,
    at_least,
    limited,
    require,
)
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import LabelledData, check_milestones, rate_drops

_SHARE = Limit(
    lambda share: 0 < share <= 1,
    "above 0, up to 1",
    remedy="a share above 0 and up to 1, such as 0.1",
)


@dataclass(frozen=True)
class Finetune:
    """Train all layers on labels, all or few, beside the same net from scratch.

    Attributes:
        fraction: Share of the training images to learn from: below 1 a subset with
            equally many images of each class, drawn by seed. The published 1 % and
            10 % of ImageNet are sets of their own: --data.source=tfds
            --data.name=imagenet2012_subset/1pct (or 10pct).
        learning_rates: Rates for a batch of 256, scaled linearly with batch_size. Of
            several the best is chosen on the held-out part of the training images;
            the published grid is [0.1,0.01,0.001].
        head_multipliers: The head learns so many times as fast as the encoder. Each is
            tried with each rate; the published grid is [1,10,100].
        held_out: Share of each class's training images that chooses among several
            candidates; the winner is trained again on all.
        epochs: Passes over the training images.
        batch_size: Global batch, over all replicas; a last partial batch is dropped.
        milestones: Epochs at which the rate drops (null: at 60 % and 80 % of them; []:
            never).
        decay_factor: What each milestone multiplies the rate by.
        weight_decay: L2 term added to the gradient of every parameter.
        crop_scale: Least and greatest share of the image's area in a random crop.
        control: Also train the same net from random weights: same images, same
            candidates, same number of epochs.
        precision: float32, mixed_bfloat16, or mixed_float16 (with loss scaling).
        seed: Where all randomness starts from.
        out: Folder for the results (null: report/finetune, or such as
            report/finetune_1pct for a fraction or a TFDS set's configuration, beside
            the weights).
        save: Folder for the trained encoders, finetuned and control, as SavedModels
            that the other protocols take (null: they are not kept).
        data: data, the labelled images
        distribution: distribution, which devices share the batch
    """

    fraction: float = limited(1.0, _SHARE)
    learning_rates: tuple[float, ...] = limited((0.01,), POSITIVE, each=True)
    head_multipliers: tuple[float, ...] = limited((10.0,), POSITIVE, each=True)
    held_out: float = limited(0.2, INNER_SHARE)
    epochs: int = limited(20, at_least(1))
    batch_size: int = limited(256, at_least(2))
    milestones: Optional[tuple[int, ...]] = None
    decay_factor: float = limited(0.2, POSITIVE)
    weight_decay: float = limited(5e-4, NOT_NEGATIVE)
    crop_scale: tuple[float, float] = limited((0.08, 1.0), CROP_SHARES)
    control: bool = True
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    seed: int = limited(0, at_least(0))
    out: Optional[str] = None
    save: Optional[str] = None
    data: LabelledData = field(default_factory=LabelledData)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        for key in ("learning_rates", "head_multipliers"):
            require(getattr(self, key), f"{key}=[] is empty; give at least one value.")
        check_milestones(self.drops, "epochs", self.epochs)

    @property
    def drops(self) -> tuple[int, ...]:
        """Epochs at which the rate drops."""
        return rate_drops(self.milestones, self.epochs, (0.6, 0.8))
