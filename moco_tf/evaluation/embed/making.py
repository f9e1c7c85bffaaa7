"""Features of a set of images, from an encoder to a file, with a part in memory."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Iterator

import numpy as np

from moco_tf.config import ConfigError, Data
from moco_tf.data.labelled import subset
from moco_tf.data.sources import DataError, Source
from moco_tf.evaluation.cache import digest_of
from moco_tf.evaluation.embed.embeddings import Rows
from moco_tf.evaluation.embed.parts import Parts
from moco_tf.evaluation.embed.reading import read_about
from moco_tf.evaluation.embed.writing import write_embeddings
from moco_tf.evaluation.given import Given
from moco_tf.evaluation.images import (
    ImageSet,
    central_crops,
    extractor_of,
    features_key,
    open_images,
    require_finite,
    resolve,
)
from moco_tf.evaluation.settings import AnyData
from moco_tf.interchange import Pretrained
from moco_tf.paths import each_place, is_remote, to_path

log = logging.getLogger("moco_tf")


def asked_images(data: AnyData, given: Given, pretrained: Pretrained) -> Data:
    """Which images are meant: the FOLDER, the settings', or those of training.

    Raises:
        ConfigError: both a FOLDER and the settings name some, or nothing does.
    """
    config = pretrained.config
    if given.folder is not None:
        if data.source is not None or data.data_dir is not None:
            raise ConfigError(
                f"{given.folder} and --data name images both; leave one of them out."
            )
        data = dataclasses.replace(data, source="folder", data_dir=str(given.folder))
    elif config is None and data.source is None:
        raise ConfigError(
            f"{pretrained.path} is a SavedModel, which knows no images; name a folder "
            "after it, or add for instance --data.source=tfds --data.name=cifar10."
        )
    base = config.data if config else Data()
    if given.folder is not None:
        base = Data()  # a folder is read whole, whatever part the run's own was
    return resolve(data, base, data.split, "train", config is not None)


def names_of(source: Source, data: Data) -> list[str]:
    """A name for each image: its file's, or that of the set with its number."""
    if source.file_names:
        return list(source.file_names)
    start = f"{data.called}/{data.split}"
    return [f"{start}/{number}" for number in range(source.num_examples)]


def embed_images(
    data: Data,
    pretrained: Pretrained,
    out: pathlib.Path,
    precision: str,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
) -> tuple[int, int]:
    """Writes the features of images to a file, and goes on where it stopped.

    Args:
        data: the images.
        pretrained: the encoder.
        out: the file.
        precision: the policy that the encoder was built under.
        batch_size: images encoded at once.
        share: which share of the images, of how many.

    Returns:
        How many images the file holds, and how many of them were encoded now.

    Raises:
        ConfigError: some features are not finite.
        DataError: the images cannot be had, or the share has none.
    """
    images = open_images(data, pretrained)
    count, (number, shares) = images.source.num_examples, share
    first, last = count * number // shares, count * (number + 1) // shares
    part = f"{last - first:,} of {count:,}" if shares > 1 else f"{count:,}"
    log.info("Images: %s of %s %s.", part, data.called, data.split)
    if first == last:
        raise DataError(
            f"shard={number + 1}/{shares} has none of the {count} images; use fewer "
            "shares."
        )
    about = _about(images, data, pretrained, precision, first, last)
    # However the encoder's path was typed.
    deciding = {name: about[name] for name in ("made_of", "place", "first", "last")}
    before = read_about(out)
    if {name: before.get(name) for name in deciding} == deciding:
        return last - first, 0
    parts = Parts(out, digest_of(deciding))
    begun = parts.rows
    if begun:
        log.info("%s of them were encoded before.", f"{begun:,}")
    _encode(images.source, first + begun, last, pretrained, batch_size, parts)
    broken = sum(int(np.sum(~np.isfinite(p.features).all(axis=1))) for p in parts)
    if broken:
        parts.remove()
        require_finite(broken, last - first, precision, data.called)
    names = names_of(images.source, data)[first:last]

    def rows() -> Iterator[Rows]:
        start = 0
        for kept in parts:
            end = start + len(kept)
            yield Rows(names[start:end], kept.labels, kept.features)
            start = end

    write_embeddings(out, rows, images.source.class_names, about)
    parts.remove()
    return last - first, last - first - begun


def _encode(source, first, last, pretrained, batch_size, parts):
    if first == last:
        return
    if (first, last) != (0, source.num_examples):
        source = subset(source, np.arange(first, last))
    batches = central_crops(source, pretrained, batch_size)
    try:
        for features in extractor_of(pretrained).batches(batches, "encoding images"):
            parts.add(features)
    finally:  # what is encoded is kept, whatever ended it
        parts.keep()


def _about(
    images: ImageSet,
    data: Data,
    pretrained: Pretrained,
    precision: str,
    first: int,
    last: int,
) -> dict:
    """The note in a file: what decides its features, and where its images are."""
    key = features_key(images.facts, pretrained, precision)
    place = dict(data.place)
    if place["data_dir"]:
        place["data_dir"] = [
            each if is_remote(to_path(each)) else str(to_path(each).resolve())
            for each in each_place(place["data_dir"])
        ]
    encoder = {name: key[name] for name in ("weights", "architecture", "precision")}
    return {
        "made_of": digest_of(key),
        "encoder_key": digest_of({**key, "data": None}),
        "encoder": {**encoder, "path": str(pretrained.path)},
        "images": images.facts,
        "place": place,
        "called": data.called,
        "channels": pretrained.channels,
        "pixels": pretrained.pixels.noted,
        "first": first,
        "last": last,
    }
