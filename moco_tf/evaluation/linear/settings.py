"""Settings of `evaluate.py linear`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import (
    CROP_SHARES,
    INNER_SHARE,
    POSITIVE,
    at_least,
    limited,
    require,
)
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import Extraction, LabelledData


@dataclass(frozen=True)
class Sweep:
    """The candidates of protocol cached.

    Attributes:
        learning_rates: Rates of SGD for a batch of 256, scaled linearly.
        weight_decays: Factors of |weights|^2 / 2 in the loss, each tried with each
            rate.
        lbfgs: Also fit scikit-learn's logistic regression by L-BFGS with the same
            penalties; slow beyond some 100,000 images.
        held_out: Share of the training images that chooses among the candidates; the
            winners are trained again on all of them.
    """

    learning_rates: tuple[float, ...] = limited(
        (0.01, 0.03, 0.1, 0.3, 1.0), POSITIVE, each=True
    )
    weight_decays: tuple[float, ...] = limited(
        (1e-5, 1e-4, 1e-3, 1e-2), POSITIVE, each=True
    )
    lbfgs: bool = True
    held_out: float = limited(0.1, INNER_SHARE)


@dataclass(frozen=True)
class Linear:
    """A linear classifier on the frozen encoder.

    Attributes:
        protocol: official (MoCo v1 and v2: SGD on random crops, rate 30, x0.1 at 60 %
            and 80 % of the epochs), mocov3 (cosine, no decay, batch 1024), or cached
            (a sweep on features of the central crops: minutes instead of days).
        epochs: Passes over the training images (null: official 100, mocov3 90, cached
            100).
        batch_size: Global batch (null: official 256, others 1024).
        learning_rate: Rate for a batch of 256, scaled linearly with batch_size (null:
            official 30; mocov3 0.1, or 3 for a ViT). Not for cached.
        crop_scale: Least and greatest share of the image's area in a random crop.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder; features
            and what is learnt from them are float32.
        seed: Where all randomness starts from.
        out: Folder for the results (null: report/linear_PROTOCOL beside the weights).
        sweep: sweep, the candidates of protocol cached
        data: data, the labelled images
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    protocol: Literal["official", "cached", "mocov3"] = "official"
    epochs: Optional[int] = limited(None, at_least(1))
    batch_size: Optional[int] = limited(None, at_least(1))
    learning_rate: Optional[float] = limited(None, POSITIVE)
    crop_scale: tuple[float, float] = limited((0.08, 1.0), CROP_SHARES)
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    seed: int = limited(0, at_least(0))
    out: Optional[str] = None
    sweep: Sweep = field(default_factory=Sweep)
    data: LabelledData = field(default_factory=LabelledData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(
            self.sweep.learning_rates and self.sweep.weight_decays,
            "sweep.learning_rates or sweep.weight_decays is empty; give at least one "
            "candidate of each.",
        )
        require(
            self.protocol != "cached" or self.learning_rate is None,
            f"learning_rate={self.learning_rate} has no effect with protocol=cached; "
            "set sweep.learning_rates.",
        )
