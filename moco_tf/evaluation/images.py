"""The images that an encoder is shown, and how: the same ones in every protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import tensorflow as tf

from moco_tf.augment import Normalize
from moco_tf.config import ConfigError, Data
from moco_tf.data.labelled import evenly_spread, subset
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import Source, open_source
from moco_tf.data.sources.places import places_fingerprint
from moco_tf.evaluation.features import FeatureExtractor
from moco_tf.interchange import Pretrained
from moco_tf.paths import each_place


@dataclass(frozen=True)
class ImageSet:
    """Images that an encoder can take.

    Attributes:
        source: the images.
        facts: what they are, JSON-serialisable; equal facts mean equal images.
    """

    source: Source
    facts: dict


class Asked(Protocol):
    """What settings of any protocol say of the place of images; null is the run's."""

    @property
    def source(self) -> Literal["glyphs", "tfds", "folder", "synthetic"] | None:
        """As in `Data`."""

    @property
    def name(self) -> str | None:
        """As in `Data`."""

    @property
    def data_dir(self) -> str | tuple[str, ...] | None:
        """As in `Data`."""

    @property
    def manual_dir(self) -> str | None:
        """As in `Data`."""

    @property
    def max_unreadable(self) -> float:
        """As in `Data`."""


def resolve(
    asked: Asked, base: Data, split: str | None, default: str, has_run: bool
) -> Data:
    """What to open: the user's words, else the run's own.

    Args:
        asked: the user's words.
        base: the run's own images.
        split: the user's, or None.
        default: the split of images that are not the run's.
        has_run: whether `base` is a run's.

    Raises:
        ConfigError: a set without its name, or a folder without its path.
    """
    same = has_run and asked.source in (None, base.source)
    # A name, folder or split of another kind of set would mean something else there.
    inherited = base if same else Data()
    same = same and asked.name in (None, base.name)
    source = asked.source or base.source
    data = replace(
        base,
        source=source,
        name=asked.name or inherited.name,
        data_dir=asked.data_dir or inherited.data_dir,
        manual_dir=asked.manual_dir or inherited.manual_dir,
        split=split or (inherited.split if same else default),
        max_unreadable=asked.max_unreadable,
    )
    for kind, key, example in (
        ("tfds", "name", "cifar10"),
        ("folder", "data_dir", "PATH"),
    ):
        if source == kind and not getattr(data, key):
            raise ConfigError(
                f"data.source={kind} needs data.{key}; add --data.{key}={example}."
            )
    return data


def open_images(
    data: Data, pretrained: Pretrained, most: int | None = None, labelled: bool = False
) -> ImageSet:
    """Opens images as an encoder takes them, or so many of them, evenly spread.

    Raises:
        DataError: they cannot be opened, or need labels and have none.
    """
    source = open_source(
        **data.place,
        channels=pretrained.channels,
        labelled=labelled,
        pixels=pretrained.pixels,
    )
    if most is not None and most < source.num_examples:
        source = subset(source, evenly_spread(source.num_examples, most))
    facts = {"source": data.source, "split": data.split, "images": source.num_examples}
    if data.source == "tfds":
        # Imported here: TensorFlow Datasets takes seconds.
        from moco_tf.data.sources.tfds import copy_facts

        place = next(iter(each_place(data.data_dir)), None)
        facts["name"], facts["files"] = copy_facts(data.name or "", place)
    if data.source == "folder":
        facts["files"] = places_fingerprint(each_place(data.data_dir))
    return ImageSet(source, facts)


def central_crops(
    source: Source, pretrained: Pretrained, batch_size: int
) -> tf.data.Dataset:
    """Batches of the crops that an encoder is judged on, their number known."""
    batches = labelled_batches(
        source,
        batch_size=batch_size,
        image_size=pretrained.image_size,
        resize=pretrained.resize,
        channels=pretrained.channels,
    )
    count = -(-source.num_examples // batch_size)
    return batches.apply(tf.data.experimental.assert_cardinality(count))


def extractor_of(pretrained: Pretrained) -> FeatureExtractor:
    """The encoder with its preprocessing, on all replicas in scope."""
    return FeatureExtractor(
        pretrained.encoder,
        Normalize(pretrained.mean, pretrained.std, pretrained.pixels.value_range),
        tf.distribute.get_strategy(),
    )


def features_key(facts: dict, pretrained: Pretrained, precision: str) -> dict:
    """All that decides features, JSON-serialisable.

    Args:
        facts: of the images.
        pretrained: the encoder.
        precision: the policy that the encoder was built under.
    """
    return {
        "weights": pretrained.digest,
        "architecture": pretrained.architecture,
        "precision": precision,
        "data": facts,
        "image_size": pretrained.image_size,
        "resize": pretrained.resize,
        "mean": list(pretrained.mean),
        "std": list(pretrained.std),
        **pretrained.pixels.noted,
    }


def require_finite(broken: int, count: int, precision: str, title: str) -> None:
    """Raises ConfigError where some images' features are not finite.

    Args:
        broken: how many.
        count: of how many images.
        precision: the policy that the encoder was built under.
        title: what the images are, for the sentence.
    """
    if not broken:
        return
    cause = (
        "its training diverged; train it again with a lower learning rate."
        if precision != "mixed_float16"
        else "numbers above 65,504 probably overflow in mixed_float16; use "
        "--precision=mixed_bfloat16 or float32."
    )
    raise ConfigError(
        f"the encoder gives features that are not finite for {broken} of the "
        f"{count} {title} images: {cause}"
    )
