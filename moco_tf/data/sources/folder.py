"""A folder of photos, nested or flat, labelled by sub-folder or not."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data.crops import decode
from moco_tf.data.sources.source import DataError, Source
from moco_tf.data.threads import CORES, untuned
from moco_tf.log import quiet_libraries, watched

# Endings are a hint: a file of another ending is an image if it begins like one.
_DIRECT = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
_CONVERTED = (".bmp", ".gif", ".webp")
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM")
# Images that are not read, of which a line tells.
_OTHER_IMAGES = (
    ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".dcm", ".dng",
    ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".svg", ".npy",
)  # fmt: skip
# Thumbnails, bins and snapshots that systems put beside a user's files.
_LITTER = {
    "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
    "__MACOSX", "lost+found",
}  # fmt: skip
_SPLITS = ("train", "val", "validation", "test")
_NAMED = 10
_BATCH = 64

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

    Every image is decoded once on opening, in parallel: only so is the number of
    examples exact and every later batch independent of which files are broken. It costs
    about half the input work of one epoch. Unreadable images are left out, counted and
    named in the log.

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
    root = _find_root(data_dir, split)
    paths = _list_images(root)
    if not paths:
        known = ", ".join(suffix[1:] for suffix in _DIRECT + _CONVERTED)
        raise DataError(
            f"data_dir={str(root)!r} has no images ({known}); name a folder that has "
            "them, flat or in sub-folders."
        )
    if channels not in (1, 3, 4):
        raise DataError(
            f"channels={channels} cannot be decoded from image files; use 1, 3 or 4."
        )
    names, labels = _label(paths)
    # Names are bytes to the system, and not always UTF-8.
    files = tf.constant([os.fsencode(root / path) for path in paths])
    converts = any(_suffix(path) not in _DIRECT for path in paths)
    readable, deep = _checked(files, channels, converts)
    _report(root, paths, readable, max_unreadable)
    if len(deep):
        _log.warning(
            "%d of %d images in %s have 16 bits a channel, of which only the higher 8 "
            "are used, so dark ones lose their detail; scale them to 8 bits: %s",
            len(deep),
            len(paths),
            root,
            some_names([shown_name(paths[index]) for index in deep]),
        )
    files, labels = tf.gather(files, readable), labels[readable]
    label_values = tf.constant(labels)

    def load(example_id):
        return {
            "image": _read(files[example_id], converts),
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
        file_names=[shown_name(paths[index]) for index in readable],
        origin=_digest(root, [paths[index] for index in readable]),
    )


def fingerprint(data_dir: str) -> str:
    """A digest of the names, sizes and times of a folder's images, whatever the split.

    It is that of a folder moved elsewhere, and another one once an image is edited.
    """
    root = pathlib.Path(data_dir).expanduser()
    return _digest(root, _walk(root)[0], with_times=True)


def _digest(root, paths, with_times=False):
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path))
        with contextlib.suppress(OSError):  # gone since it was listed
            state = os.stat(root / path)
            times = state.st_mtime_ns if with_times else 0
            digest.update(f"\0{state.st_size}:{times}\n".encode())
    return digest.hexdigest()


def _find_root(data_dir, split):
    if not data_dir:
        raise DataError("data_dir is missing for source folder; name the folder.")
    root = pathlib.Path(data_dir).expanduser()
    if not root.is_dir():
        raise DataError(
            f"data_dir={data_dir!r} is not a folder; check the path, which is taken "
            f"from {os.getcwd()} unless it starts with a slash."
        )
    splits = _split_folders(root)
    if split in splits:
        return root / split
    if splits:
        raise DataError(
            f"split={split!r} is not a sub-folder of data_dir={data_dir!r}; it has "
            f"{', '.join(splits)}."
        )
    if split != "train":
        raise DataError(
            f"split={split!r} is not a sub-folder of data_dir={data_dir!r}; make such "
            "a sub-folder, or use split=train for the whole folder."
        )
    return root


def _split_folders(root: pathlib.Path) -> list[str]:
    entries = [
        path
        for path in root.iterdir()
        if not path.name.startswith(".") and path.name not in _LITTER
    ]
    names = [path.name for path in entries if path.is_dir()]
    splits = [name for name in _SPLITS if name in names]
    # A lone "train" among others may be a class: photographs of trains.
    is_split = "train" in splits and len(splits) > 1
    if len(splits) == len(names):
        is_split |= not any(_suffix(p.name) in _DIRECT + _CONVERTED for p in entries)
    return splits if is_split else []


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _list_images(root: pathlib.Path) -> list[str]:
    paths, others = _walk(root)
    if others:
        counts = ", ".join(
            f"{count} {suffix}" for suffix, count in others.most_common()
        )
        _log.warning(
            "%s holds images of formats that are not read: %s; %d others are. Convert "
            "them to JPEG or PNG to use them.",
            root,
            counts,
            len(paths),
        )
    return paths


def _walk(root):
    """Sorted paths of the images below a folder; a count of others by ending."""
    paths: list[str] = []
    others: collections.Counter[str] = collections.Counter()
    seen = {_identity(root)}
    for folder, folders, files in os.walk(root, followlinks=True):
        inside = os.path.relpath(folder, root)
        entered = []
        for name in sorted(folders):
            if name.startswith(".") or name in _LITTER:
                continue
            identity = _identity(os.path.join(folder, name))
            if identity not in seen:  # links may lead back
                seen.add(identity)
                entered.append(name)
        folders[:] = entered
        for name in files:
            path = os.path.join(folder, name)
            if name.startswith(".") or not os.path.isfile(path):
                continue
            suffix = _suffix(name)
            if suffix in _DIRECT + _CONVERTED or _begins_like_an_image(path):
                paths.append(os.path.normpath(os.path.join(inside, name)))
            elif suffix in _OTHER_IMAGES:
                others[suffix] += 1
    return sorted(paths), others


def _identity(folder):
    status = os.stat(folder)
    # A system without numbers for files gives 0: then its real path tells.
    return (status.st_dev, status.st_ino or os.path.realpath(folder))


def _begins_like_an_image(path):
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError:
        return False
    is_webp = start[:4] == b"RIFF" and start[8:] == b"WEBP"
    return is_webp or start.startswith(_BEGINNINGS)


def shown_name(path: str) -> str:
    """A file's name for people, with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _label(paths: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    parts = [pathlib.PurePath(path).parts for path in paths]
    names = sorted({part[0] for part in parts if len(part) > 1})
    if len(names) < 2 or any(len(part) == 1 for part in parts):
        return (), np.full(len(paths), -1, np.int64)
    index = {name: number for number, name in enumerate(names)}
    labels = np.array([index[part[0]] for part in parts], np.int64)
    return tuple(map(shown_name, names)), labels


def _read(file: tf.Tensor, converts: bool) -> tf.Tensor:
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
        data = _read(file, converts)
        image = decode(data, channels)
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


def _report(root, paths, readable, max_unreadable):
    bad = np.setdiff1d(np.arange(len(paths)), readable)
    if not len(bad):
        return
    named = some_names([shown_name(paths[index]) for index in bad])
    if not len(readable) or len(bad) > max(1, max_unreadable * len(paths)):
        raise DataError(
            f"{len(bad)} of {len(paths)} images in {str(root)!r} cannot be read, "
            f"more than max_unreadable={max_unreadable:g} allows: {named}; remove or "
            "replace them, or raise max_unreadable."
        )
    _log.warning(
        "%d of %d images in %s cannot be read and are left out: %s",
        len(bad),
        len(paths),
        root,
        named,
    )
