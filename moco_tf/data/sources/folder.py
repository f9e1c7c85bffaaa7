"""A folder of photos, nested or flat, labelled by sub-folder or not."""

from __future__ import annotations

import logging
import os

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.listing import find_root, label, list_images, shown_name
from moco_tf.data.sources.readable import (
    BROKEN,
    DEEP,
    found_readable,
    paths_to_read,
    read,
    readable_files,
    some_names,
)
from moco_tf.data.sources.source import DataError, Source
from moco_tf.data.threads import CORES
from moco_tf.paths import to_path

_log = logging.getLogger(__name__)


def open_folder(
    data_dir: str | None,
    split: str = "train",
    *,
    channels: int = 3,
    max_unreadable: float = 0.01,
) -> Source:
    """Opens a folder of JPEG, PNG, BMP, GIF (first frame) and WebP images.

    Where the folder is divided into train, val, validation or test (train and another
    one, or nothing but these), the sub-folder named like the split is read; otherwise
    the whole folder is split "train". Images are labelled by the sub-folders of the
    first level, in alphabetical order, when every image lies in one and there are at
    least two.

    Files count by their content, whatever their names; those of other image formats
    (TIFF, HEIC, raw) are counted in the log. What systems put beside a user's files
    (@eaDir, $RECYCLE.BIN and their like) is no part of the folder, and a folder that
    links lead to again is read once.

    Every image is decoded once, in parallel, when a folder is first opened: only so is
    the number of examples exact and every later batch independent of which files are
    broken. It costs about half the input work of one epoch; what was found is kept (see
    `found_readable`), so that later only new and changed files are decoded.
    Unreadable images are left out, counted and named in the log.

    Args:
        data_dir: the folder. Links to folders are followed; hidden files are not read.
        split: which sub-folder.
        channels: what the images will be decoded to: 1, 3 or 4.
        max_unreadable: share of unreadable images, 0 to 1, above which it is an error;
            one is always allowed.

    Returns:
        The source, which reads any file at once; ids count the readable files in
        alphabetical order of their paths.

    Raises:
        DataError: the folder or the split is missing, without images, or has too many
            unreadable ones.
    """
    root = find_root(data_dir, split)
    listing = list_images(root)
    if channels not in (1, 3, 4):
        raise DataError(
            f"channels={channels} cannot be decoded from image files; use 1, 3 or 4."
        )
    names, labels = label(listing.paths)
    found = found_readable(listing, channels)
    readable = np.flatnonzero(found != BROKEN)
    _report(listing, found, max_unreadable)
    files, labels = paths_to_read(listing, readable), labels[readable]
    label_values = tf.constant(labels)

    def load(example_id):
        return {
            "image": read(files[example_id], listing.converts),
            "id": example_id,
            "label": label_values[example_id],
        }

    dataset = tf.data.Dataset.range(len(readable))
    dataset = dataset.map(load, num_parallel_calls=CORES, deterministic=True)
    return Source(
        dataset,
        len(readable),
        len(names),
        names,
        load=load,
        labels=labels,
        file_names=[shown_name(listing.paths[index]) for index in readable],
        origin=listing.digest(readable),
        num_bytes=int(listing.sizes[readable].sum()),
    )


def open_file(path: str | os.PathLike, *, channels: int = 3) -> Source:
    """Opens one image file as `open_folder` opens many.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    place = to_path(path)
    if not place.is_file():
        raise DataError(f"{path} does not exist; name an image or a folder of images.")
    files = tf.constant([os.fsencode(str(place))])
    if not len(readable_files(files, channels, converts=True)):
        raise DataError(
            f"{path} cannot be read as an image; use JPEG, PNG, BMP, GIF or WebP."
        )

    def load(example_id):
        return {
            "image": read(files[example_id], True),
            "id": example_id,
            "label": tf.constant(-1, tf.int64),
        }

    dataset = tf.data.Dataset.range(1).map(load)
    return Source(dataset, 1, load=load, file_names=[shown_name(place.name)])


def _report(listing, found, max_unreadable):
    """Tells of files that cannot be read, and of those that lose half their bits."""
    count, root = len(found), listing.root

    def named(indices):
        return some_names([shown_name(listing.paths[index]) for index in indices])

    bad, deep = np.flatnonzero(found == BROKEN), np.flatnonzero(found == DEEP)
    if len(bad) == count or len(bad) > max(1, max_unreadable * count):
        raise DataError(
            f"{len(bad)} of {count} images in {str(root)!r} cannot be read, "
            f"more than max_unreadable={max_unreadable:g} allows: {named(bad)}; remove "
            "or replace them, or raise max_unreadable."
        )
    if len(bad):
        _log.warning(
            "%d of %d images in %s cannot be read and are left out: %s",
            len(bad),
            count,
            root,
            named(bad),
        )
    if len(deep):
        _log.warning(
            "%d of %d images in %s have 16 bits a channel, of which only the higher 8 "
            "are used, so dark ones lose their detail; scale them to 8 bits: %s",
            len(deep),
            count,
            root,
            named(deep),
        )
