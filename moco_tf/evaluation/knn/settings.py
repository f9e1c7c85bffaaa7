"""Settings of `evaluate.py knn`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import POSITIVE, at_least, limited, require
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import Extraction, LabelledData


@dataclass(frozen=True)
class KNN:
    """Weighted vote of the nearest training images, by cosine similarity.

    Attributes:
        k: Numbers of neighbours that vote; all are measured in one pass.
        temperature: A neighbour of cosine s votes with weight exp(s / temperature);
            equal votes are always measured as well.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder; features
            and what is learnt from them are float32.
        out: Folder for the results (null: report/knn beside the weights).
        data: data, the labelled images
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    k: tuple[int, ...] = limited((10, 20, 100, 200), at_least(1), each=True)
    temperature: tuple[float, ...] = limited((0.07, 0.1), POSITIVE, each=True)
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    out: Optional[str] = None
    data: LabelledData = field(default_factory=LabelledData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(self.k, "k=[] names no number of neighbours; use for instance [200].")
