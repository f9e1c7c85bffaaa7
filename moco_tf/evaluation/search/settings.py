"""Settings of `evaluate.py search`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import at_least, between, limited
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import AnyData, Extraction


@dataclass(frozen=True)
class Search:
    """The nearest pictures of a query image, or of all in a folder.

    Attributes:
        query: Image, or folder of images, to find the like of (null: some images of
            the set itself, spread over it).
        k: Nearest pictures of each query.
        index: exact, or faiss, which compares with a part of the images only and may
            miss a few neighbours (for a million images; needs the extra faiss).
        shown: Queries in the picture and in the terminal; results.csv has all.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder.
        out: Folder for the results (null: report/search beside the weights, or
            FILE_search beside a file that is searched without an encoder).
        data: data, the images, or where those of files lie now
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    query: Optional[str] = None
    k: int = limited(8, at_least(1))
    index: Literal["exact", "faiss"] = "exact"
    shown: int = limited(8, between(1, 50))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    out: Optional[str] = None
    data: AnyData = field(default_factory=AnyData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """There is nothing to check."""
