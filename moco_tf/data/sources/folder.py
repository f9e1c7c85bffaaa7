"""A folder of photos, nested or flat, labelled by sub-folder or not."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import ENCODED_CHANNELS
from moco_tf.data.sources.converted import array_of, why_unreadable
from moco_tf.data.sources.formats import ARRAYS
from moco_tf.data.sources.listing import label, listed, shown_name
from moco_tf.data.sources.manifest import group_numbers
from moco_tf.data.sources.places import find_images
from moco_tf.data.sources.readable import (
    DEEP,
    FLOAT,
    MORE,
    NAMED,
    OTHER,
    RAW,
    found_readable,
    has,
    is_good,
    kind_of,
    paths_to_read,
    read,
    some_names,
)
from moco_tf.data.sources.source import DataError, Source, numbers_of
from moco_tf.data.threads import CORES
from moco_tf.paths import to_path
from moco_tf.pixels import Pixels, ValueRange

_log = logging.getLogger(__name__)


def open_folder(
    data_dir: str | Sequence[str] | None,
    split: str = "train",
    *,
    channels: int = 3,
    max_unreadable: float = 0.01,
    value_range: ValueRange = None,
    pixels: Pixels | None = None,
) -> Source:
    """Opens a folder of JPEG, PNG, BMP, GIF (first frame), WebP and AVIF images.

    And of TIFF (first page), NumPy arrays (height, width[, channels]), DICOM (first
    frame) and HEIC, for some of which the extra `images` is needed. TIFF, NumPy and
    DICOM files keep their numbers and must have the channels asked for. Where some
    files have 16 bits a channel all are read so, each file's own depth being the same
    range; where some have other numbers, such as real ones, all become float32.

    Where the folder is divided into train, val, validation or test (train and another
    one, or nothing but these), the sub-folder named like the split is read; otherwise
    the whole folder is split "train". Images are labelled by the sub-folders of the
    first level, in alphabetical order, when every image lies in one and there are at
    least two.

    Files count by their content, whatever their names; those of other image formats
    (raw, SVG) are counted in the log. What systems put beside a user's files
    (@eaDir, $RECYCLE.BIN and their like) is no part of the folder, and a folder that
    links lead to again is read once.

    Every image is decoded once, in parallel, when a folder is first opened: only so is
    the number of examples exact and every later batch independent of which files are
    broken. It costs about half the input work of one epoch; what was found is kept (see
    `found_readable`), so that later only new and changed files are decoded.
    Unreadable images are left out, counted and named in the log.

    Args:
        data_dir: the folder, a manifest (see `read_manifest`), or several of these.
            Links to folders are followed; hidden files are not read.
        split: which sub-folder.
        channels: what the images will be decoded to: 1, 3 or 4, or what all files have
            whose formats allow any.
        max_unreadable: share of unreadable images, 0 to 1, above which it is an error;
            one is always allowed.
        value_range: the numbers that are black and white; None: all that 8 or 16 bits
            can be, and of DICOM each file's own window. Must be given of other numbers.
        pixels: what numbers the images are decoded to; None: what they have.

    Returns:
        The source, which reads any file at once; ids count the readable files in
        alphabetical order of their paths.

    Raises:
        DataError: the folder or the split is missing, without images, or has too many
            unreadable ones.
    """
    return _open(
        find_images(data_dir, split), channels, max_unreadable, value_range, pixels
    )


def open_file(
    path: str | os.PathLike, *, channels: int = 3, pixels: Pixels | None = None
) -> Source:
    """Opens one image file as `open_folder` opens many.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    place = to_path(path)
    if not place.is_file():
        raise DataError(f"{path} does not exist; name an image or a folder of images.")
    state = place.stat()
    found = [(place.name, state.st_size, state.st_mtime_ns)]
    listing = listed(place.absolute().parent, found, str(path))
    try:
        return _open(listing, channels, 0.0, None, pixels)
    except DataError as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from None


def _open(listing, channels, max_unreadable, value_range, pixels):
    if channels not in ENCODED_CHANNELS and not listing.arrays:
        raise DataError(
            f"channels={channels} cannot be decoded from image files; use 1, 3 or 4."
        )
    names, labels = listing.labels()
    windowed = value_range is None if pixels is None else pixels.dtype != "float32"
    found = found_readable(listing, channels, windowed)
    readable = np.flatnonzero(is_good(found))
    _report_unreadable(listing, found, channels, max_unreadable)
    pixels = _numbers(listing, found, value_range, pixels)
    _report_first_only(listing, found)
    files, labels = paths_to_read(listing, readable), labels[readable]
    if not names and listing.classes is None and len(readable) < len(found):
        # What cannot be read and lies beside the sub-folders is no image of the set.
        names, labels = label([listing.paths[index] for index in readable])
    label_values = tf.constant(labels)
    groups = None
    if listing.groups is not None:
        groups = group_numbers([listing.groups[index] for index in readable])

    def load(example_id):
        return {
            "image": read(files[example_id], listing.converts, windowed),
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
        pixels=pixels,
        raw=bool(has(found[readable], RAW).any()),
        groups=groups,
    )


def _names(listing, indices):
    return some_names([shown_name(listing.paths[index]) for index in indices])


def _report_unreadable(listing, found, channels, max_unreadable):
    """Tells of files that cannot be read, or have other channels than asked."""
    count, root = len(found), listing.title
    bad = np.flatnonzero(~is_good(found))
    if not len(bad):
        return
    others = bad[kind_of(found[bad]) == OTHER]
    noted = [_noted(listing, found, index, channels) for index in bad[:NAMED]]
    named = some_names(noted, len(bad))
    advice = "remove or replace them, or raise max_unreadable."
    if 2 * len(others) > len(bad):
        advice = f"set channels to what the images have, {advice}"
    if len(bad) == count or len(bad) > max(1, max_unreadable * count):
        raise DataError(
            f"{len(bad)} of {count} images in {root!r} cannot be read, "
            f"more than max_unreadable={max_unreadable:g} allows: {named}; {advice}"
        )
    _log.warning(
        "%d of %d images in %s cannot be read and are left out: %s",
        len(bad),
        count,
        root,
        named,
    )


def _noted(listing, found, index, channels):
    """The name of a file that cannot be read, and why, where that can be told."""
    path = listing.paths[index]
    is_array = os.path.splitext(path)[1].lower() in ARRAYS
    why = ""
    if is_array or has(found[index], RAW):
        data = tf.io.read_file(paths_to_read(listing, [index])[0]).numpy()
        if not (why := why_unreadable(data)):
            why = (
                f"it has {array_of(data).shape[2]} channels and not channels={channels}"
            )
    elif kind_of(found[index]) == OTHER:
        why = f"such a file has no channels={channels}"
    return shown_name(path) + (f" ({why})" if why else "")


def _report_first_only(listing, found):
    if len(more := np.flatnonzero(is_good(found) & has(found, MORE))):
        _log.warning(
            "%d of %d images in %s have more pages or frames than the first, which "
            "alone is read: %s",
            len(more),
            len(found),
            listing.title,
            _names(listing, more),
        )


def _numbers(listing, found, value_range, asked):
    """What the images are decoded to; tells where some are of more bits than others."""
    kinds, root = kind_of(found), listing.title
    good = int(is_good(found).sum())
    deep, real = (np.flatnonzero(kinds == kind) for kind in (DEEP, FLOAT))
    if len(real) and (asked is None or asked.dtype != "float32"):
        what = f"{len(real)} of {len(found)} images in {root} ({_names(listing, real)})"
        if asked is not None:
            raise DataError(
                f"{what} have real numbers and not {asked.dtype} ones, on which the "
                "encoder was trained; use images of that kind."
            )
        if value_range is None:
            raise DataError(
                f"{what} have numbers that are not of 8 or 16 bits, of which nothing "
                "says which are black and white; set data.range (value_range from "
                "Python), such as [0.0, 1.0]."
            )
        return numbers_of("float32", value_range, what)
    kind = "uint16" if len(deep) else "uint8"
    pixels = asked or numbers_of(kind, value_range, f"the images in {root}")
    if len(deep) and pixels.dtype == "uint8":
        _log.warning(
            "%d of %d images in %s have 16 bits a channel, of which only the higher 8 "
            "are used, as the encoder was trained on 8: %s",
            len(deep),
            len(found),
            root,
            _names(listing, deep),
        )
    elif len(deep) == good:
        _log.info("The images in %s have 16 bits a channel, and are used so.", root)
    elif len(deep):
        _log.warning(
            "%d of %d images in %s have 16 bits a channel, so all are read in 16, each "
            "file by its own depth; with 8 bits alone a run takes half the memory for "
            "its views, and Pillow's arithmetic: %s",
            len(deep),
            len(found),
            root,
            _names(listing, deep),
        )
    return pixels
