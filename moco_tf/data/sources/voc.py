"""A folder in the layout of PASCAL VOC, with the boxes of its objects."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.readable import readable_files, some_names
from moco_tf.data.sources.source import DataError, Source
from moco_tf.data.threads import CORES

_TRAINING = ("trainval", "train")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def open_voc_folder(data_dir: str | None, split: str | None = None) -> Source:
    """Opens JPEGImages/ID.jpg and Annotations/ID.xml for the IDs of a split.

    Every image is decoded once on opening, in parallel, to know that it can be.

    Args:
        data_dir: the folder, such as VOCdevkit/VOC2007.
        split: name of a list in ImageSets/Main; None is trainval, or train where that
            is absent.

    Returns:
        The source, which reads any example at once. Its classes are the names in all
        annotations of the folder, in alphabetical order, whatever the split.

    Raises:
        DataError: a list, an annotation or an image is missing or broken.
    """
    root = pathlib.Path(data_dir or "").expanduser()
    ids = split_ids(root / "ImageSets" / "Main", *([split] if split else _TRAINING))
    folder = root / "Annotations"
    annotations = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    parsed = {key: _objects(path) for key, path in annotations.items()}
    names = sorted({item[0] for objects in parsed.values() for item in objects})
    number = {name: index for index, name in enumerate(names)}
    files = []
    for key in ids:
        file = root / "JPEGImages" / f"{key}.jpg"
        if key not in parsed:
            raise DataError(
                f"image {key!r} is listed in {root / 'ImageSets/Main'} but "
                f"{folder / key}.xml is missing; add it, or take it off the list."
            )
        if not file.is_file():
            raise DataError(
                f"{annotations[key]} has no image {file}; add it, or take {key!r} off "
                f"the lists in {root / 'ImageSets/Main'}."
            )
        files.append(str(file))
    objects = [item for key in ids for item in parsed[key]]
    if not objects:
        raise DataError(
            f"None of the {len(ids)} images of split {split or 'train'!r} in {root} "
            "has a box; name another split."
        )
    labels = tf.constant([number[name] for name, _, _ in objects], tf.int64)
    boxes = tf.constant([box for _, box, _ in objects], tf.float32)
    difficult = tf.constant([flag for _, _, flag in objects])
    ends = tf.constant(np.cumsum([0] + [len(parsed[key]) for key in ids]), tf.int64)
    paths = tf.constant(files)
    require_readable(paths, ids, root, root / "ImageSets/Main")

    def load(example_id):
        own = slice(ends[example_id], ends[example_id + 1])
        return {
            "image": tf.io.read_file(paths[example_id]),
            "id": example_id,
            "boxes": boxes[own],
            "label": labels[own],
            "difficult": difficult[own],
        }

    dataset = tf.data.Dataset.range(len(ids))
    dataset = dataset.map(load, num_parallel_calls=CORES, deterministic=True)
    return Source(dataset, len(ids), len(names), tuple(names), load=load)


def split_ids(lists: pathlib.Path, *splits: str) -> list[str]:
    """Names of the images on a list of a folder in VOC's layout.

    Args:
        lists: the folder of lists, such as VOC2007/ImageSets/Main.
        *splits: names of lists, of which the first that is there is taken.

    Raises:
        DataError: none is there, or it is empty.
    """
    if not lists.is_dir():
        root, place = lists.parents[1], lists.relative_to(lists.parents[1])
        raise DataError(
            f"data_dir={str(root)!r} has no {place}; give a folder in VOC's "
            "layout, such as VOCdevkit/VOC2007."
        )
    found = [lists / f"{name}.txt" for name in splits]
    found = [path for path in found if path.is_file()]
    if not found:
        # Lists such as aeroplane_train.txt are of one class and another task.
        names = [path.stem for path in sorted(lists.glob("*.txt"))]
        known = ", ".join(name for name in names if "_" not in name) or "none"
        raise DataError(
            f"split={splits[-1]!r} is not in {lists}, which has {known}; name one of "
            "these."
        )
    ids = found[0].read_text().split()
    if not ids:
        raise DataError(f"{found[0]} lists no images; name another split.")
    return ids


def require_readable(
    paths: tf.Tensor, ids: Sequence[str], root: pathlib.Path, lists: pathlib.Path
) -> None:
    """Decodes every image once, in parallel, to know that it can be.

    Args:
        paths: of the images, strings (count,).
        ids: their names on the lists.
        root: the folder in VOC's layout.
        lists: the folder of lists, for the sentence.

    Raises:
        DataError: some cannot be read.
    """
    broken = np.setdiff1d(np.arange(len(ids)), readable_files(paths, 3))
    if len(broken):
        raise DataError(
            f"{len(broken)} of {len(ids)} images in {root / 'JPEGImages'} cannot be "
            f"read: {some_names([f'{ids[index]}.jpg' for index in broken])}; replace "
            f"them, or take them off the lists in {lists}."
        )


def _objects(path):
    """(name, [left, top, right, bottom], difficult) of each object in a VOC file."""
    objects = []
    try:
        for item in ElementTree.parse(path).getroot().iter("object"):
            corners = [float(item.find("bndbox").find(side).text) for side in _SIDES]
            # VOC counts pixels from 1 and includes the last one.
            box = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
            difficult = item.findtext("difficult", "0").strip() == "1"
            objects.append((item.find("name").text.strip(), box, difficult))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a VOC annotation ({error}); each object needs a name and a "
            f"bndbox with {', '.join(_SIDES)}."
        ) from None
    for name, box, _ in objects:
        if not (box[0] < box[2] and box[1] < box[3]):
            raise DataError(
                f"{path} has a {name} whose bndbox is empty; mend or remove that "
                "object."
            )
    return objects
