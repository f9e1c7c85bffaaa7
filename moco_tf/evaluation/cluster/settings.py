"""Settings of `evaluate.py cluster`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import at_least, between, limited, require
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import AnyData, Extraction


@dataclass(frozen=True)
class Cluster:
    """Groups of like images, by k-means, and pictures that stand for each.

    Attributes:
        clusters: How many groups (null: whichever of `tried` has the best silhouette).
        tried: Numbers of groups to choose from.
        shown: Pictures of each group on the sheet, those nearest to its centre.
        seed: Where the centres start from.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder.
        out: Folder for the results (null: report/cluster beside the weights, or
            FILE_cluster beside a file without an encoder).
        data: data, the images, or where those of files lie now
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    clusters: Optional[int] = limited(None, at_least(2))
    tried: tuple[int, ...] = limited((5, 10, 20, 40), at_least(2), each=True)
    shown: int = limited(8, between(1, 20))
    seed: int = limited(0, between(0, 2**32 - 1))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    out: Optional[str] = None
    data: AnyData = field(default_factory=AnyData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(
            self.tried or self.clusters is not None,
            "tried=[] names no number of groups; use for instance [5, 10, 20].",
        )
