"""Which files of a folder are its images: by content, without a system's litter."""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import pathlib
import stat
from dataclasses import dataclass

import numpy as np

from moco_tf.data.sources.formats import (
    ARRAYS,
    CONVERTED,
    DIRECT,
    EXTRA,
    UNKNOWN,
    is_readable,
    of_extra,
)
from moco_tf.data.sources.source import DataError
from moco_tf.lanes import install
from moco_tf.paths import is_remote, to_path

# Endings are a hint: a file of another ending is an image if it begins like one (not
# like TIFF, as cameras' raw files do).
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM")
_IMAGES = DIRECT + CONVERTED + ARRAYS
# Thumbnails, bins and snapshots that systems put beside a user's files.
_LITTER = {
    "@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information",
    "__MACOSX", "lost+found",
}  # fmt: skip
_SPLITS = ("train", "val", "validation", "test")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """The images of a folder, in the alphabetical order of their paths.

    Attributes:
        root: the folder; of a manifest the one where it lies, and of several folders
            the one that holds all.
        paths: of each, from the root.
        sizes: int64 (count,), bytes.
        times: int64 (count,), when each was last written, in nanoseconds.
        converts: whether some may be neither JPEG nor PNG, by their endings.
        arrays: whether some may be of formats that have numbers and channels of their
            own, TIFF, NumPy and DICOM, by their endings.
        name: what they were asked for by, where that is not the root.
        classes: name of each image's class, "" where it has none; None where these are
            the folders.
        groups: name of each image's group, "" where it has none; None without groups.
    """

    root: pathlib.Path
    paths: list[str]
    sizes: np.ndarray
    times: np.ndarray
    converts: bool
    arrays: bool = False
    name: str = ""
    classes: list[str] | None = None
    groups: list[str] | None = None

    @property
    def title(self) -> str:
        """What a sentence calls it."""
        return self.name or str(self.root)

    def labels(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Class names, and labels, -1 without; see `label`."""
        if self.classes is None:
            return label(self.paths)
        names = sorted(set(self.classes) - {""})
        if all(name.isdecimal() for name in names):
            names.sort(key=int)
        index = {"": -1, **{name: number for number, name in enumerate(names)}}
        labels = np.array([index[name] for name in self.classes], np.int64)
        return tuple(map(shown_name, names)), labels

    def digest(self, of: np.ndarray | None = None, with_times: bool = False) -> str:
        """Of names and sizes, and perhaps times; that of a folder moved elsewhere too.

        Args:
            of: int64 indices of the images; None takes all.
            with_times: whether an edited image makes another digest.
        """
        digest = hashlib.sha256()
        for index in range(len(self.paths)) if of is None else of:
            time = self.times[index] if with_times else 0
            digest.update(os.fsencode(self.paths[index]))
            digest.update(f"\0{self.sizes[index]}:{time}\n".encode())
        return digest.hexdigest()


def fingerprint(root: pathlib.Path) -> str:
    """A digest of the names, sizes and times of a folder's images, whatever the split.

    It is that of a folder moved elsewhere, and another one once an image is edited.
    """
    return _walk(root)[0].digest(with_times=True)


def list_images(root: pathlib.Path) -> Listing:
    """Finds the images below a folder; those of formats that are not read are counted.

    Links to folders are followed, each folder is entered once.

    Raises:
        DataError: there are none.
    """
    listing, others = _walk(root)
    if others:
        counts = ", ".join(
            f"{count} {suffix}" for suffix, count in others.most_common()
        )
        absent = sum(count for ending, count in others.items() if of_extra(ending))
        advice = "Convert them to JPEG or PNG to use them."
        if absent:
            some = f"the {absent} of them that it knows"
            files = "them" if absent == sum(others.values()) else some
            advice = f"The extra {EXTRA!r} reads {files}: `{install(EXTRA)}`."
        if absent and not listing.paths:
            raise DataError(
                f"data_dir={str(root)!r} has only images of formats that are not read: "
                f"{counts}. {advice}"
            )
        _log.warning(
            "%s holds images of formats that are not read: %s; %d others are. %s",
            root,
            counts,
            len(listing.paths),
            advice,
        )
    if not listing.paths:
        known = ", ".join(suffix[1:] for suffix in _IMAGES)
        raise DataError(
            f"data_dir={str(root)!r} has no images ({known}); name a folder that has "
            "them, flat or in sub-folders."
        )
    return listing


def find_root(data_dir: str, split: str) -> pathlib.Path:
    """The folder itself, or its part where it is divided into splits.

    Raises:
        DataError: there is no such folder or part.
    """
    root = to_path(data_dir)
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
        is_split |= not any(suffix(p.name) in _IMAGES for p in entries)
    return splits if is_split else []


def suffix(path: str) -> str:
    """The ending of a file's name, in small letters."""
    return os.path.splitext(path)[1].lower()


def _walk(root):
    """The images below a folder, and a count of others by ending."""
    found: list[tuple[str, int, int]] = []
    others: collections.Counter[str] = collections.Counter()
    if is_remote(root):
        return _remote(root, found, others)
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
            if name.startswith(".") or (state := file_state(path)) is None:
                continue
            ending = suffix(name)
            if ending in _IMAGES and not is_readable(ending):
                others[ending] += 1
            elif ending in _IMAGES or _begins_like_an_image(path):
                below = name if inside == "." else os.path.join(inside, name)
                found.append((below, state.st_size, state.st_mtime_ns))
            elif ending in UNKNOWN:
                others[ending] += 1
    return listed(root, found), others


def _remote(root, found, others):
    """The same on another file system, where content is not looked at: by endings."""
    folders = [(root, "")]
    while folders:
        folder, inside = folders.pop()
        for path in folder.iterdir():
            ending = suffix(path.name)
            if path.name.startswith(".") or path.name in _LITTER:
                continue
            if ending in _IMAGES and is_readable(ending):
                state = path.stat()
                found.append((inside + path.name, state.st_size, state.st_mtime_ns))
            elif ending in _IMAGES or ending in UNKNOWN:
                others[ending] += 1
            elif path.is_dir():
                folders.append((path, f"{inside}{path.name}/"))
    return listed(root, found), others


def listed(
    root: pathlib.Path, found: list[tuple[str, int, int]], name: str = ""
) -> Listing:
    """A listing of paths from the root, their sizes and their times."""
    found.sort()
    paths, *facts = zip(*found) if found else ((), (), ())
    sizes, times = (np.array(values, np.int64) for values in facts)
    endings = {suffix(each) for each in paths}
    converts = not endings <= set(DIRECT)
    # What has none, or another, may be a DICOM file.
    arrays = bool(endings & set(ARRAYS) or endings - set(_IMAGES))
    return Listing(root, list(paths), sizes, times, converts, arrays, name)


def file_state(path: str) -> os.stat_result | None:
    """What the system knows of a file; None if it is none."""
    try:
        state = os.stat(path)
    except OSError:  # a broken link, or gone since it was listed
        return None
    return state if stat.S_ISREG(state.st_mode) else None


def _identity(folder):
    status = os.stat(folder)
    # A system without numbers for files gives 0: then its real path tells.
    return (status.st_dev, status.st_ino or os.path.realpath(folder))


def _begins_like_an_image(path):
    try:
        with open(path, "rb") as file:
            start = file.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM":
        return is_readable(".dcm")
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return is_webp or start.startswith(_BEGINNINGS)


def shown_name(path: str) -> str:
    """A file's name for people, with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def first_folders(paths: list[str]) -> list[str] | None:
    """The first folder of each path; None where one lies in none."""
    parts = [path.split(os.sep, 1) for path in paths]
    if any(len(part) == 1 for part in parts):
        return None
    return [part[0] for part in parts]


def label(paths: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and labels by the first folder of each path; (), -1 without."""
    folders = first_folders(paths) or []
    names = sorted(set(folders))
    if len(names) < 2:
        return (), np.full(len(paths), -1, np.int64)
    index = {name: number for number, name in enumerate(names)}
    labels = np.array([index[folder] for folder in folders], np.int64)
    return tuple(map(shown_name, names)), labels
