"""A folder in the layout of PASCAL VOC, with a class for each pixel."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from PIL import Image

from moco_tf.data.sources.source import DataError, Source
from moco_tf.data.sources.voc import require_readable, split_ids
from moco_tf.data.threads import CORES

IGNORED = 255  # outlines in VOC, and what is beside an image


def open_voc_masks(
    data_dir: str | None, split: str
) -> tuple[Source, list[pathlib.Path]]:
    """Opens JPEGImages/ID.jpg and SegmentationClass/ID.png for the IDs of a split.

    Args:
        data_dir: the folder, such as VOCdevkit/VOC2012.
        split: name of a list in ImageSets/Segmentation, such as train.

    Returns:
        The images, which are read at once by their ids, and the masks' files.

    Raises:
        DataError: a list, an image or a mask is missing, or an image broken.
    """
    root = pathlib.Path(data_dir or "").expanduser()
    ids = split_ids(root / "ImageSets" / "Segmentation", split)
    files = [root / "JPEGImages" / f"{key}.jpg" for key in ids]
    masks = [root / "SegmentationClass" / f"{key}.png" for key in ids]
    for file in (*files, *masks):
        if not file.is_file():
            raise DataError(
                f"{file} is missing, but its name is in the lists of "
                f"{root / 'ImageSets' / 'Segmentation'}; add it, or take it off these."
            )
    paths = tf.constant([str(file) for file in files])
    require_readable(paths, ids, root, root / "ImageSets/Segmentation")

    def load(example_id):
        image = tf.io.read_file(paths[example_id])
        return {"image": image, "id": example_id, "label": tf.constant(-1, tf.int64)}

    dataset = tf.data.Dataset.range(len(ids))
    dataset = dataset.map(load, num_parallel_calls=CORES, deterministic=True)
    return Source(dataset, len(ids), load=load), masks


def read_masks(files: Sequence[pathlib.Path], side: int) -> np.ndarray:
    """Masks fitted into a square as `moco_tf.data.box_views.whole_images` does.

    Args:
        files: PNGs of one channel, or with a palette whose numbers are the classes.
        side: of the square.

    Returns:
        uint8 (files, side, side), `IGNORED` where nothing is.

    Raises:
        DataError: a file cannot be read or has colours of its own.
    """

    def read(file):
        try:
            with Image.open(file) as image:
                if image.mode not in ("P", "L"):
                    raise DataError(
                        f"{file} has pixels of mode {image.mode}, which are no numbers "
                        "of classes; give a PNG of one channel, or with a palette."
                    )
                longest = max(image.size)
                sides = [max(1, round(side * each / longest)) for each in image.size]
                mask = np.asarray(image.resize(sides, Image.NEAREST))
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error}); replace it.") from None
        whole = np.full((side, side), IGNORED, np.uint8)
        whole[: mask.shape[0], : mask.shape[1]] = mask
        return whole

    with ThreadPoolExecutor(CORES) as pool:
        return np.stack(list(pool.map(read, files)))
