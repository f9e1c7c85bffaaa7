"""Settings that several protocols share; the docstrings are `evaluate.py --help`."""

# ruff: noqa: UP045  (jsonargparse evaluates the hints; Python 3.9 cannot do X | None)
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from moco_tf.config.limits import at_least, between, limited, require
from moco_tf.config.tree import Places


@dataclass(frozen=True)
class LabelledData:
    """The labelled images.

    Attributes:
        source: glyphs, tfds, folder or synthetic (null: the run's own labelled
            images).
        name: TFDS name such as cifar10 or imagenet2012 (null: the run's).
        data_dir: Root of the prepared TFDS sets, or for source folder the folder of
            images itself, a text or CSV file that names them, what moco-tf pack wrote,
            or several of these (null: the run's).
        manual_dir: Where TFDS finds archives that you must fetch yourself (null: the
            run's).
        train_split: Labelled split to learn from (null: the run's, or train).
        test_split: Labelled split to report on (null: the run's, or test).
        also_test: Further sets to report on, of the same classes: tfds:NAME, a folder
            or what else data_dir takes, or several, such as [tfds:cifar10_1,PHOTOS]; of
            each its split test, or all of a folder without splits, unless @SPLIT
            follows it.
        max_train: Use at most so many training images, spread evenly (null: all).
        max_test: Use at most so many test images, spread evenly (null: all).
        max_unreadable: Share of unreadable images above which to stop.
    """

    source: Optional[Literal["glyphs", "tfds", "folder", "synthetic"]] = None
    name: Optional[str] = None
    data_dir: Places = None
    manual_dir: Optional[str] = None
    train_split: Optional[str] = None
    test_split: Optional[str] = None
    also_test: Places = None
    max_train: Optional[int] = limited(None, at_least(1))
    max_test: Optional[int] = limited(None, at_least(1))
    max_unreadable: float = limited(0.01, between(0, 1))


@dataclass(frozen=True)
class AnyData:
    """The images, labelled or not.

    Attributes:
        source: glyphs, tfds, folder or synthetic (null: the FOLDER that was named, or
            the images that the run was trained on).
        name: TFDS name such as cifar10 or imagenet2012 (null: the run's).
        data_dir: Root of the prepared TFDS sets, or for source folder the folder of
            images itself, a text or CSV file that names them, what moco-tf pack wrote,
            or several of these (null: the run's).
        manual_dir: Where TFDS finds archives that you must fetch yourself (null: the
            run's).
        split: Which part of them (null: the run's, or train).
        max_unreadable: Share of unreadable images above which to stop.
    """

    source: Optional[Literal["glyphs", "tfds", "folder", "synthetic"]] = None
    name: Optional[str] = None
    data_dir: Places = None
    manual_dir: Optional[str] = None
    split: Optional[str] = None
    max_unreadable: float = limited(0.01, between(0, 1))


@dataclass(frozen=True)
class Extraction:
    """How the encoder is run.

    Attributes:
        batch_size: Images encoded at once, over all replicas.
        cache: Keep features on disk in report/features and use them again while
            encoder, data and preprocessing stay the same.
    """

    batch_size: int = limited(256, at_least(1))
    cache: bool = True


def rate_drops(
    milestones: tuple[int, ...] | None, total: int, shares: tuple[float, float]
) -> tuple[int, ...]:
    """The milestones, or these shares of all epochs or steps."""
    if milestones is not None:
        return milestones
    return tuple(sorted({round(share * total) for share in shares} - {0, total}))


def check_milestones(milestones: tuple[int, ...], key: str, total: int) -> None:
    """Raises ConfigError unless they rise and lie below `total`, which `key` sets."""
    require(
        list(milestones) == sorted(set(milestones))
        and all(0 < milestone < total for milestone in milestones),
        f"milestones={list(milestones)} must rise and lie between 0 and {key}={total}; "
        "leave them out, or use [] for a constant rate.",
    )
