"""Settings of `evaluate.py retrieve`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import at_least, between, limited, require
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import Extraction, LabelledData


@dataclass(frozen=True)
class Retrieve:
    """How well images of a query's class are found: recall@k, R-precision, MAP@R, mAP.

    Attributes:
        k: Numbers of nearest images; a query counts as found where one of them at least
            has its class.
        gallery: Where the test images are looked for: test, among one another (the
            protocol of metric learning, whose test classes may be new ones), or train,
            among the training images.
        by: What images must share: label, their class; or group, their group in a
            manifest (a patient's, a scene's).
        shown: Queries in the picture.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder; features
            are float32.
        out: Folder for the results (null: report/retrieve beside the weights).
        data: data, the labelled images
        features: features, how the encoder is run
        distribution: distribution, which devices share the batch
    """

    k: tuple[int, ...] = limited((1, 5, 10), at_least(1), each=True)
    gallery: Literal["test", "train"] = "test"
    by: Literal["label", "group"] = "label"
    shown: int = limited(8, between(1, 50))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    out: Optional[str] = None
    data: LabelledData = field(default_factory=LabelledData)
    features: Extraction = field(default_factory=Extraction)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(self.k, "k=[] names no number of images; use for instance [1, 5].")
        require(
            self.by == "label" or self.gallery == "test",
            f"gallery={self.gallery} does not go with by=group, as groups are those of "
            "one set; use --gallery=test.",
        )
        for name in ("train_split", "max_train"):
            value = getattr(self.data, name)
            require(
                value is None or self.gallery == "train",
                f"data.{name}={value} has no effect with gallery=test, where only the "
                "test images are looked at; leave it out, or use --gallery=train.",
            )
