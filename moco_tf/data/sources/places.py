"""The images of a folder, of several, or of a manifest that names them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

from moco_tf.data.sources.listing import (
    Listing,
    find_root,
    fingerprint,
    first_folders,
    list_images,
    listed,
)
from moco_tf.data.sources.manifest import is_divided, read_manifest
from moco_tf.data.sources.source import DataError
from moco_tf.paths import each_place, is_remote, to_path


def find_images(data_dir: str | Sequence[str] | None, split: str) -> Listing:
    """Finds the images of one place or several, each a folder or a manifest.

    Args:
        data_dir: the place, or several.
        split: see `find_root` and `read_manifest`; every place must have it.

    Raises:
        DataError: a place is missing, or has no images.
    """
    places = each_place(data_dir)
    if not places:
        raise DataError("data_dir is missing for source folder; name the folder.")
    parts = [_of_one(place, split) for place in places]
    return parts[0] if len(parts) == 1 else _joined(parts)


def is_packed(place: str) -> bool:
    """Whether a place is a set of TFDS, such as `moco-tf pack` writes."""
    path = to_path(place)
    if is_remote(path) or not path.is_dir():
        return False
    return any(path.glob("*/dataset_info.json"))  # in a folder for each version


def test_split(place: str) -> str:
    """The split to test on: "test", or "train" of a place that has no splits."""
    path = to_path(place)
    if is_packed(place):
        return "test"
    if path.is_file():
        return "test" if is_divided(path) else "train"
    try:
        return "train" if find_root(place, "train") == path else "test"
    except DataError:  # no such folder, or one of other splits, which opening it tells
        return "test"


def _of_one(place, split):
    path = to_path(place)
    if path.is_file():
        return read_manifest(path, split)
    return list_images(find_root(place, split))


def _joined(parts):
    """All images, below the folder that holds all places; each once."""
    if remote := [part.title for part in parts if is_remote(part.root)]:
        raise DataError(
            f"{remote[0]} is on another file system, where only one folder can be "
            "read; name it alone."
        )
    roots = [part.root.resolve() for part in parts]
    root = os.path.commonpath(roots)
    found, about = [], {}
    for part, own_root in zip(parts, roots):
        classes = part.classes or first_folders(part.paths)
        for index, path in enumerate(part.paths):
            name = os.path.relpath(os.path.join(own_root, path), root)
            if name not in about:
                found.append((name, int(part.sizes[index]), int(part.times[index])))
            # A place that says more of it is believed.
            own = classes[index] if classes else ""
            group = part.groups[index] if part.groups else ""
            known = about.get(name, ("", ""))
            about[name] = known[0] or own, known[1] or group
    name = " + ".join(part.title for part in parts)
    listing = listed(pathlib.Path(root), found, name)
    classes, groups = zip(*(about[path] for path in listing.paths))
    # One folder of a single class says nothing.
    is_labelled = len(set(classes) - {""}) > 1
    return dataclasses.replace(
        listing,
        classes=list(classes) if is_labelled else [""] * len(classes),
        groups=list(groups) if any(groups) else None,
    )


def places_fingerprint(data_dir: str | Sequence[str]) -> str:
    """A digest of the names, sizes and times of all images, and of manifests."""
    digests = []
    for place in each_place(data_dir):
        path = to_path(place)
        if path.is_file():
            images = read_manifest(path, None).digest(with_times=True)
            text = hashlib.sha256(path.read_bytes()).hexdigest()
            digests.append(f"{images}{text}")
        elif is_packed(place):
            from moco_tf.data.sources.tfds import copy_facts  # it takes seconds

            facts = copy_facts(path.name, str(path.absolute().parent))
            digests.append(hashlib.sha256(repr(facts).encode()).hexdigest())
        else:
            digests.append(fingerprint(path))
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()
