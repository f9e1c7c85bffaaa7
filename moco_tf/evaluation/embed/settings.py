"""Settings of `evaluate.py embed`; the docstrings are its `--help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import Literal, Optional

from moco_tf.config.limits import at_least, limited, require
from moco_tf.config.tree import Distribution
from moco_tf.evaluation.settings import AnyData
from moco_tf.paths import to_path

SUFFIXES = (".npz", ".csv", ".parquet", ".tfrecord")


@dataclass(frozen=True)
class Embed:
    """Features of images, with their names, in a file; no labels are needed.

    The same command goes on where it was stopped.

    Attributes:
        out: File to write, .npz, .csv, .parquet or .tfrecord (null:
            report/embed/IMAGES.npz beside the weights).
        shard: Which share of the images to embed, such as 1/4 for the first of four
            workers, whose files the other commands take together (null: all).
        batch_size: Images encoded at once, over all replicas.
        precision: float32, mixed_bfloat16 or mixed_float16, in the encoder; features
            are float32.
        data: data, the images
        distribution: distribution, which devices share the batch
    """

    out: Optional[str] = None
    shard: Optional[str] = None
    batch_size: int = limited(256, at_least(1))
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    data: AnyData = field(default_factory=AnyData)
    distribution: Distribution = field(default_factory=Distribution)

    @property
    def share(self) -> tuple[int, int]:
        """Which share, counted from 0, of how many."""
        if self.shard is None:
            return 0, 1
        number, _, count = self.shard.partition("/")
        return int(number) - 1, int(count)

    @property
    def file(self) -> pathlib.Path | None:
        """The file of the user's own, or None."""
        return to_path(self.out) if self.out else None

    def check(self) -> None:
        """Raises ConfigError, in one sentence, where the fields do not go together."""
        require(
            self.file is None or self.file.suffix.lower() in SUFFIXES,
            f"out={self.out} ends in none of {', '.join(SUFFIXES)}; use one, as in "
            "--out=photos.npz.",
        )
        if self.shard is not None:
            number, _, count = self.shard.partition("/")
            require(
                number.isdecimal() and count.isdecimal()
                and 1 <= int(number) <= int(count),
                f"shard={self.shard} is not such as 1/4; name the share's number, from "
                "1, and how many there are.",
            )  # fmt: skip
