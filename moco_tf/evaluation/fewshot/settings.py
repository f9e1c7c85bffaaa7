"""Settings of `evaluate.py fewshot`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import POSITIVE, at_least, between, limited, require
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import Extraction, LabelledData


@dataclass(frozen=True)
class FewShot:
    """Linear classifier of a few labelled images a class, drawn many times.

    Attributes:
        shots: Numbers of training images of each class.
        draws: Times that the images are drawn; the figure is the mean over these.
        inverse_penalty: C of the logistic regression, on unit features.
        seed: Decides which images are drawn.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder; features
            and what is learnt from them are not.
        out: Folder for the results (null: report/fewshot beside the weights).
        data: data, the labelled images
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    shots: tuple[int, ...] = limited((1, 2, 5, 10), at_least(1), each=True)
    draws: int = limited(20, at_least(1))
    inverse_penalty: float = limited(1.0, POSITIVE)
    seed: int = limited(0, between(0, 2**32 - 1))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    out: Optional[str] = None
    data: LabelledData = field(default_factory=LabelledData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(
            self.shots, "shots=[] names no number of images; use for instance [1, 5]."
        )
