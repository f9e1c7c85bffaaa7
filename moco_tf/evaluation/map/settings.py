"""Settings of `evaluate.py map`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import POSITIVE, between, limited
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import AnyData, Extraction


@dataclass(frozen=True)
class Map:
    """All images on a plane, like ones close together: a PNG and a page to explore.

    Attributes:
        method: tsne (scikit-learn), or umap where the package umap-learn is there.
        images: Use at most so many images, spread evenly.
        perplexity: Of tsne: about how many neighbours an image is kept close to.
        thumbnails: Draw the images themselves; false draws points.
        seed: Where the places start from.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder.
        out: Folder for the results (null: report/map beside the weights, or
            FILE_map beside a file without an encoder).
        data: data, the images, or where those of files lie now
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    method: Literal["tsne", "umap"] = "tsne"
    images: int = limited(5000, between(4, 100_000))
    perplexity: float = limited(30.0, POSITIVE)
    thumbnails: bool = True
    seed: int = limited(0, between(0, 2**32 - 1))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    out: Optional[str] = None
    data: AnyData = field(default_factory=AnyData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """There is nothing to check."""
