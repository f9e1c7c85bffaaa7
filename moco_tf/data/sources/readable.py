"""Which image files can be decoded, found once and remembered."""

from __future__ import annotations

import hashlib
import logging
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import (
    ENCODED_CHANNELS,
    decode,
    is_deep_png,
    is_raw,
    raw_facts,
    require_size,
)
from moco_tf.data.sources.converted import convert
from moco_tf.data.sources.formats import ARRAYS
from moco_tf.data.sources.listing import Listing, suffix
from moco_tf.data.threads import CORES, untuned
from moco_tf.log import quiet_libraries, watched

# What a file is found to be: of 8 or 16 bits a channel, of other numbers, or of another
# number of channels than asked. To these is added whether it is one of the formats that
# have numbers of their own, and whether it has more pages or frames than the first.
BROKEN, READABLE, DEEP, FLOAT, OTHER = range(5)
RAW, MORE = 8, 16
_KINDS = 7
# Files that a sentence names.
NAMED = 10
_BATCH = 64

_log = logging.getLogger(__name__)


def found_readable(
    listing: Listing, channels: int, windowed: bool = True
) -> np.ndarray:
    """Decodes every file once, in parallel; later only what is new or has changed.

    What was found is kept in a file for each folder, below `index_folder`, and holds
    for files of the same name, size and time.

    Args:
        listing: of a folder.
        channels: what the files are decoded to.
        windowed: see `convert`.

    Returns:
        uint8 (count,), for `kind_of` and `has`.
    """
    path = _index_path(listing, channels, windowed or not listing.arrays)
    found = _known(path, listing)
    if listing.arrays:
        # A package that reads them may have been installed since.
        is_array = np.array([suffix(each) in ARRAYS for each in listing.paths])
        found[is_array & (found == BROKEN)] = -1
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        files = paths_to_read(listing, unknown)
        read, kinds = _checked(files, channels, listing.converts, windowed)
        found[unknown] = BROKEN
        found[unknown[read]] = kinds
        _keep(path, listing, found)
    return found.astype(np.uint8)


def kind_of(found: np.ndarray) -> np.ndarray:
    """`BROKEN`, `READABLE`, `DEEP`, `FLOAT` or `OTHER` of each file."""
    return found & _KINDS


def is_good(found: np.ndarray) -> np.ndarray:
    """Whether each file can be read, with the channels asked for; bool."""
    return ~np.isin(kind_of(found), (BROKEN, OTHER))


def has(found: np.ndarray, what: int) -> np.ndarray:
    """Whether each file is `RAW`, or has `MORE` than its first image; bool."""
    return (found & what) > 0


def index_folder() -> pathlib.Path:
    """Where is kept what is known of folders: MOCO_TF_CACHE, or the user's cache."""
    if place := os.environ.get("MOCO_TF_CACHE"):
        return pathlib.Path(place) / "folders"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(caches).expanduser() / "moco_tf" / "folders"


def _index_path(listing, channels, windowed):
    key = os.fsencode(listing.name or str(listing.root.resolve())) + b"\0%d" % channels
    key = hashlib.sha256(key if windowed else key + b"\0in its own numbers")
    return index_folder() / f"{key.hexdigest()[:20]}.npz"


def _known(path, listing):
    """int8 (count,): what the index has of each file; -1 of one that is new to it."""
    found = np.full(len(listing.paths), -1, np.int8)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as index:
            names = index["names"].tobytes().split(b"\0")
            states = np.stack([index["sizes"], index["times"]])
            before = index["found"].astype(np.int8)
    # Absent or broken: made again.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return found
    now = [os.fsencode(path) for path in listing.paths]
    place = {name: index for index, name in enumerate(names)}
    at = np.array([place.get(name, -1) for name in now])
    same = (at >= 0) & (states[:, at] == [listing.sizes, listing.times]).all(axis=0)
    found[same] = before[at[same]]
    return found


def _keep(path, listing, found):
    names = b"\0".join(os.fsencode(name) for name in listing.paths)
    staging = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(staging, "wb") as file:
            np.savez(
                file,
                names=np.frombuffer(names, np.uint8),
                sizes=listing.sizes,
                times=listing.times,
                found=found,
            )
        os.replace(staging, path)
    except OSError as error:  # then the files are decoded again next time
        _log.debug("%s cannot be written: %s", path, error)


def paths_to_read(listing: Listing, of: np.ndarray) -> tf.Tensor:
    """Paths of some of the files, string (count,)."""
    # Names are bytes to the system, and not always UTF-8.
    root = os.path.join(os.fsencode(str(listing.root)), b"")
    return tf.constant([root + os.fsencode(listing.paths[index]) for index in of])


def read(file: tf.Tensor, converts: bool, windowed: bool = True) -> tf.Tensor:
    """Reads a file as `decode` takes it (scalar string).

    Args:
        file: path, scalar string.
        converts: whether it may be neither JPEG nor PNG.
        windowed: see `convert`.
    """
    data = tf.io.read_file(file)
    if not converts:
        return data

    def converted():
        # The one place with Python per image.
        made = tf.numpy_function(
            lambda given: convert(given, windowed), [data], tf.string
        )
        return tf.ensure_shape(made, ())

    is_direct = tf.io.is_jpeg(data) | (tf.strings.substr(data, 0, 4) == b"\x89PNG")
    return tf.cond(is_direct, lambda: data, converted)


def readable_files(
    files: tf.Tensor, channels: int, converts: bool = False
) -> np.ndarray:
    """Decodes every file, in parallel, to find those that can be decoded.

    Args:
        files: string (count,), paths of images.
        channels: what they are decoded to.
        converts: whether some are neither JPEG nor PNG.

    Returns:
        int64 indices of the files that decode, in order.
    """
    return _checked(files, channels, converts)[0]


def _checked(files, channels, converts, windowed=True):
    """Indices of the files that were read, and what each of them is."""

    def of_raw(data):
        size, has_more, sides = raw_facts(data)
        kind = tf.gather([0, READABLE, DEEP, 0, FLOAT], size)
        kind = tf.where(sides[2] == channels, kind, OTHER)
        return kind + RAW + MORE * has_more

    def of_file(data):
        if channels not in ENCODED_CHANNELS:
            return tf.constant(OTHER)
        # The decoded image must be used, or the graph leaves the decoding out.
        image = decode(require_size(data), channels)
        kind = tf.where(is_deep_png(data), DEEP, READABLE)
        return kind + 0 * tf.size(image)

    def check(index, file):
        data = read(file, converts, windowed)
        if not converts:
            return index, of_file(data)
        is_there = tf.debugging.Assert(tf.strings.length(data) > 0, ["unreadable"])
        with tf.control_dependencies([is_there] if is_there is not None else []):
            data = tf.identity(data)
        return index, tf.cond(is_raw(data), lambda: of_raw(data), lambda: of_file(data))

    dataset = tf.data.Dataset.from_tensor_slices(files).enumerate()
    dataset = dataset.map(check, num_parallel_calls=CORES)
    dataset = dataset.ignore_errors(log_warning=False).batch(_BATCH).prefetch(2)
    count = int(files.shape[0])
    batches = untuned(dataset).as_numpy_iterator()
    with quiet_libraries():
        found = list(watched(batches, "checking images", -(-count // _BATCH)))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    indices, kinds = map(np.concatenate, zip(*found))
    return indices, kinds


def some_names(names: Sequence[str], count: int | None = None) -> str:
    """The first ten, and how many more there are of them, or of so many."""
    more = (count or len(names)) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
