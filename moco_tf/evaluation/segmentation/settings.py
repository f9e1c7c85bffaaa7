"""Settings of `evaluate.py segment`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import POSITIVE, at_least, between, limited, require
from moco_tf.config.tree import Distribution


@dataclass(frozen=True)
class MaskData:
    """The images with a class for each pixel.

    Attributes:
        data_dir: A folder in VOC's layout, such as VOCdevkit/VOC2012: JPEGImages,
            SegmentationClass (PNGs whose numbers are the classes, 255 is left out) and
            ImageSets/Segmentation.
        train_split: List in ImageSets/Segmentation to learn from.
        test_split: List to report on.
    """

    data_dir: Optional[str] = None
    train_split: str = "train"
    test_split: str = "val"

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(
            self.data_dir,
            "segment needs images with masks; add for instance "
            "--data.data_dir=VOCdevkit/VOC2012.",
        )


@dataclass(frozen=True)
class Segment:
    """Linear classifier of every pixel on the frozen encoder's last feature map.

    One 1x1 convolution on standardised features, its logits enlarged bilinearly to the
    pixels. Features of all training images are held in memory: 1,464 images of VOC2012
    at 448 pixels take 2.3 GB with a ResNet-50.

    Attributes:
        image_size: Side of the square that images are fitted into.
        epochs: Passes over the training images.
        batch_size: Images in a step, and encoded at once.
        learning_rate: Adam's first rate; it falls to 0 along a cosine.
        control: Also fit the classifier to the encoder with random weights.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder alone.
        seed: Where all randomness starts from.
        out: Folder for the results (null: report/segment beside the weights).
        data: data, the images with a class for each pixel
        distribution: distribution, which devices share the batch
    """

    image_size: int = limited(448, between(32, 2048))
    epochs: int = limited(40, at_least(1))
    batch_size: int = limited(16, at_least(1))
    learning_rate: float = limited(0.001, POSITIVE)
    control: bool = True
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    seed: int = limited(0, between(0, 2**32 - 1))
    out: Optional[str] = None
    data: MaskData = field(default_factory=MaskData)
    distribution: Distribution = field(default_factory=Distribution)

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        self.data.check()
