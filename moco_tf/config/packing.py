"""Settings of `moco-tf pack`."""

from __future__ import annotations

from dataclasses import dataclass

from moco_tf.config.limits import at_least, between, limited


@dataclass(frozen=True)
class Packing:
    """How images are packed.

    Attributes:
        shorter_side: of the packed images; smaller ones stay as they are.
        quality: of JPEG.
        channels: 1, 3, or 4, which are packed as PNG, as 16 bits are.
        shard_images: images in a file.
        seed: of their order, where the source can read any of them at once.
    """

    shorter_side: int = limited(256, between(16, 8192))
    quality: int = limited(90, between(1, 100))
    channels: int = 3
    shard_images: int = limited(1000, at_least(1))
    seed: int = limited(0, between(0, 2**63 - 1))
