"""A folder of photos, nested or flat, labelled by sub-folder or not."""

from __future__ import annotations

import io
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data.crops import decode
from moco_tf.data.sources import DataError, Source
from moco_tf.data.threads import CORES, untuned
from moco_tf.log import quiet_libraries, watched

_DIRECT = (".jpg", ".jpeg", ".png")
_CONVERTED = (".bmp", ".gif", ".webp")
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
    files = tf.constant([str(root / path) for path in paths])
    converts = any(_suffix(path) in _CONVERTED for path in paths)
    readable = readable_files(files, channels, converts)
    _report(root, paths, readable, max_unreadable)
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
        file_names=[paths[index] for index in readable],
    )


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
    entries = [path for path in root.iterdir() if not path.name.startswith(".")]
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
    paths = []
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(folder, root)
        for file in files:
            if _suffix(file) in _DIRECT + _CONVERTED and not file.startswith("."):
                paths.append(os.path.normpath(os.path.join(inside, file)))
    return sorted(paths)


def _label(paths: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    parts = [pathlib.PurePath(path).parts for path in paths]
    names = sorted({part[0] for part in parts if len(part) > 1})
    if len(names) < 2 or any(len(part) == 1 for part in parts):
        return (), np.full(len(paths), -1, np.int64)
    index = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([index[part[0]] for part in parts], np.int64)


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

    def check(index, file):
        # The decoded image must be used, or the graph leaves the decoding out.
        image = decode(_read(file, converts), channels)
        return index + 0 * tf.cast(tf.size(image), tf.int64)

    dataset = tf.data.Dataset.from_tensor_slices(files).enumerate()
    dataset = dataset.map(check, num_parallel_calls=CORES)
    dataset = dataset.ignore_errors(log_warning=False).batch(_BATCH).prefetch(2)
    count = int(files.shape[0])
    batches = untuned(dataset).as_numpy_iterator()
    with quiet_libraries():
        readable = list(watched(batches, "checking images", -(-count // _BATCH)))
    return np.concatenate(readable) if readable else np.zeros(0, np.int64)


def some_names(names: Sequence[str]) -> str:
    """The first ten, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _report(root, paths, readable, max_unreadable):
    bad = np.setdiff1d(np.arange(len(paths)), readable)
    if not len(bad):
        return
    named = some_names([paths[index] for index in bad])
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
