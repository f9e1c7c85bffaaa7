"""Which image files can be decoded, found once and remembered."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data.decoding import decode, require_size
from moco_tf.data.sources.listing import Listing
from moco_tf.data.threads import CORES, untuned
from moco_tf.log import quiet_libraries, watched

# What a file is found to be.
BROKEN, READABLE, DEEP = 0, 1, 2
_NAMED = 10
_BATCH = 64

_log = logging.getLogger(__name__)


def found_readable(listing: Listing, channels: int) -> np.ndarray:
    """Decodes every file once, in parallel; later only what is new or has changed.

    What was found is kept in a file for each folder, below `index_folder`, and holds
    for files of the same name, size and time.

    Args:
        listing: of a folder.
        channels: what the files are decoded to.

    Returns:
        uint8 (count,): `BROKEN`, `READABLE` or `DEEP`, which is readable with 16 bits a
        channel.
    """
    path = _index_path(listing.root, channels)
    found = _known(path, listing)
    unknown = np.flatnonzero(found < 0)
    if len(unknown):
        files = paths_to_read(listing, unknown)
        readable, deep = _checked(files, channels, listing.converts)
        found[unknown] = BROKEN
        found[unknown[readable]] = READABLE
        found[unknown[deep]] = DEEP
        _keep(path, listing, found)
    return found.astype(np.uint8)


def index_folder() -> pathlib.Path:
    """Where is kept what is known of folders: MOCO_TF_CACHE, or the user's cache."""
    if place := os.environ.get("MOCO_TF_CACHE"):
        return pathlib.Path(place) / "folders"
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(caches).expanduser() / "moco_tf" / "folders"


def _index_path(root, channels):
    key = hashlib.sha256(os.fsencode(str(root.resolve())) + b"\0%d" % channels)
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


def read(file: tf.Tensor, converts: bool) -> tf.Tensor:
    """Reads a file as encoded JPEG or PNG (scalar string)."""
    data = tf.io.read_file(file)
    if not converts:
        return data

    def as_png():
        return tf.ensure_shape(tf.numpy_function(_to_png, [data], tf.string), ())

    is_direct = tf.io.is_jpeg(data) | (tf.strings.substr(data, 0, 4) == b"\x89PNG")
    return tf.cond(is_direct, lambda: data, as_png)


def _to_png(data: bytes) -> bytes:
    # The one place with Python per image: TensorFlow reads no WebP, and its BMP and GIF
    # decoders take only some numbers of channels.
    try:
        with Image.open(io.BytesIO(data)) as image:
            has_alpha = "A" in image.getbands() or "transparency" in image.info
            converted = image.convert("RGBA" if has_alpha else "RGB")
    except Exception:  # whatever Pillow finds; TensorFlow would print a traceback
        return b""  # which does not decode
    buffer = io.BytesIO()
    converted.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


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


def _checked(files, channels, converts):
    """Indices of the files that decode, and of those of 16 bits a channel."""

    def check(index, file):
        # The decoded image must be used, or the graph leaves the decoding out.
        data = read(file, converts)
        image = decode(require_size(data), channels)
        start = tf.strings.substr(data, 0, 25)
        is_png = tf.strings.substr(start, 0, 4) == b"\x89PNG"
        is_deep = is_png & (tf.strings.substr(start, 24, 1) == b"\x10")
        return index + 0 * tf.cast(tf.size(image), tf.int64), is_deep

    dataset = tf.data.Dataset.from_tensor_slices(files).enumerate()
    dataset = dataset.map(check, num_parallel_calls=CORES)
    dataset = dataset.ignore_errors(log_warning=False).batch(_BATCH).prefetch(2)
    count = int(files.shape[0])
    batches = untuned(dataset).as_numpy_iterator()
    with quiet_libraries():
        found = list(watched(batches, "checking images", -(-count // _BATCH)))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    readable, is_deep = map(np.concatenate, zip(*found))
    return readable, readable[is_deep]


def some_names(names: Sequence[str]) -> str:
    """The first ten, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
