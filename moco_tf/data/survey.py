"""What a folder of pictures holds, before anything is learnt from it."""

from __future__ import annotations

import collections
import concurrent.futures
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moco_tf.data.copies import exact_copies
from moco_tf.data.sources.converted import array_of
from moco_tf.data.sources.formats import ARRAYS
from moco_tf.data.sources.listing import (
    Listing,
    find_root,
    label,
    list_images,
    shown_name,
    suffix,
)
from moco_tf.data.sources.readable import FLOAT, found_readable, is_good, kind_of
from moco_tf.data.threads import CORES
from moco_tf.log import watched
from moco_tf.pixels import for_the_eye

# Files whose headers are read; of more, so many that are spread over the folder.
_HEADERS = 20_000
_ARRAYS = 32  # files whose numbers are looked at
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        listing: the files that look like images, in the alphabetical order of paths.
        readable: int64 indices of those that can be decoded.
        unreadable: names of the others.
        formats: name of a format, as Pillow has it -> files, of those looked at.
        sizes: int64 (looked at, 2), width and height.
        grey: share of those looked at that have one channel.
        channels: of the images, 3 of photographs.
        span: least and greatest number in some of the files that are not of 8 or 16
            bits; None where there are none.
        copies: groups of two and more files of the same content, by their names.
        classes: name of a sub-folder -> readable images, where they can be labels.
        test_split: the part of the folder that is labelled alike, such as "test".
    """

    listing: Listing
    readable: np.ndarray
    unreadable: list[str]
    formats: dict[str, int]
    sizes: np.ndarray
    grey: float
    channels: int
    span: tuple[float, float] | None
    copies: list[list[str]]
    classes: dict[str, int]
    test_split: str | None

    @property
    def num_bytes(self) -> int:
        """Of all readable files."""
        return int(self.listing.sizes[self.readable].sum())

    @property
    def shorter_side(self) -> int:
        """Pixels that half of the images have at least, along their shorter side."""
        return int(np.median(self.sizes.min(axis=1)))

    @property
    def superfluous(self) -> int:
        """Files that are copies of another one."""
        return sum(len(group) - 1 for group in self.copies)


def survey(data_dir: str) -> Survey:
    """Looks through a folder, as source "folder" reads it for training.

    Every file is decoded once, to know which can be read; what was found is kept, and
    a run that opens the folder afterwards needs not do so again. Sizes and formats are
    read off headers, of 20,000 files at most. Only files of the same length are
    compared by content.

    Args:
        data_dir: the folder, or one that is divided into train and others.

    Raises:
        DataError: it is missing, or has no images.
    """
    listing = list_images(find_root(data_dir, "train"))
    channels = _channels(listing)
    found = found_readable(listing, channels)
    readable = np.flatnonzero(is_good(found))
    some = readable[:: max(1, -(-len(readable) // _HEADERS))]
    heads = _heads(listing, some)
    names, labels = label([listing.paths[index] for index in readable])
    counts: list[int] = np.bincount(labels).tolist() if names else []
    return Survey(
        listing=listing,
        readable=readable,
        unreadable=[
            shown_name(listing.paths[n]) for n in np.flatnonzero(~is_good(found))
        ],
        formats=dict(collections.Counter(head[0] for head in heads).most_common()),
        sizes=np.array([head[1] for head in heads], np.int64).reshape(-1, 2),
        grey=float(np.mean([head[2] for head in heads])) if heads else 0.0,
        channels=channels,
        span=_span(listing, np.flatnonzero(kind_of(found) == FLOAT)),
        copies=_copies(listing, readable),
        classes=dict(zip(names, counts)),
        test_split=_test_split(data_dir, names),
    )


def _in_parallel(work, paths: Sequence[str], title: str) -> list:
    with concurrent.futures.ThreadPoolExecutor(max(4, 2 * CORES)) as pool:
        return list(watched(pool.map(work, paths), title, len(paths)))


def _path(listing, index):
    return os.path.join(listing.root, listing.paths[index])


def _spread(items, count):
    return items[:: max(1, -(-len(items) // count))]


def _channels(listing):
    """What most files have that keep their own channels; 3 where these are few."""
    arrays = [n for n, path in enumerate(listing.paths) if suffix(path) in ARRAYS]
    if 2 * len(arrays) < len(listing.paths):
        return 3
    paths = [_path(listing, index) for index in _spread(arrays, _ARRAYS)]
    counts = collections.Counter(
        array.shape[2] for array in map(_array, paths) if array is not None
    )
    return counts.most_common(1)[0][0] if counts else 3


def _span(listing, indices):
    paths = [_path(listing, index) for index in _spread(indices, _ARRAYS)]
    arrays = [array for array in map(_array, paths) if array is not None]
    if not arrays:
        return None
    return (
        float(min(np.nanmin(array) for array in arrays)),
        float(max(np.nanmax(array) for array in arrays)),
    )


def _array(path):
    """The numbers of a TIFF, NumPy or DICOM file; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return array_of(file.read())
    except Exception:  # of many types, in many libraries
        return None


def _heads(listing, indices):
    """(format, (width, height), whether grey) of the files."""
    paths = [_path(listing, index) for index in indices]
    found = _in_parallel(_head, paths, "reading headers")
    return [head for head in found if head is not None]


def _head(path):
    try:
        with Image.open(path) as image:
            return image.format, image.size, image.mode in _GREY
    except Exception:  # others read it, Pillow need not
        array = _array(path)
    if array is None:
        return None
    height, width, channels = array.shape
    return suffix(path)[1:].upper(), (width, height), channels == 1


def _copies(listing, indices):
    """Groups of files of the same bytes, by name, the largest first."""
    files = [(pathlib.Path(_path(listing, n)), int(listing.sizes[n])) for n in indices]
    groups = collections.defaultdict(list)
    for index, number in zip(indices, exact_copies(files)):
        groups[number].append(shown_name(listing.paths[index]))
    found = [group for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))


def _test_split(data_dir, names):
    """Another part of the folder with the same labels; None without one."""
    if not names:
        return None
    for split in ("test", "val", "validation"):
        try:
            others, _ = label(list_images(find_root(data_dir, split)).paths)
        except ValueError:
            continue
        if others == names:
            return split
    return None


def thumbnails(found: Survey, count: int, side: int) -> tuple[list, list[str]]:
    """Small pictures of some readable images, spread over the folder.

    Args:
        found: of the folder.
        count: of the pictures, at most.
        side: of the square that each fits into.

    Returns:
        uint8 (height, width, 3) arrays, and the files' names.
    """
    number = len(found.readable)
    spread = np.linspace(0, max(0, number - 1), min(count, number)).round().astype(int)
    pictures, names = [], []
    for index in found.readable[spread]:
        try:
            with Image.open(_path(found.listing, index)) as image:
                image.draft("RGB", (2 * side, 2 * side))
                small = image.convert("RGB")
                small.thumbnail((side, side))
        except Exception:  # others read it, Pillow need not
            array = _array(_path(found.listing, index))
            if array is None:
                continue
            small = Image.fromarray(_shown(array))
            small.thumbnail((side, side))
        pictures.append(np.asarray(small))
        names.append(shown_name(found.listing.paths[index]))
    return pictures, names


def _shown(array):
    """Numbers of any kind as a picture, from their least to their greatest."""
    array = array if array.shape[2] == 3 else array[..., :1].repeat(3, axis=2)
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    return for_the_eye(array, (low, max(high, low + 1e-12)))
