"""What a data set of images is, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import numpy as np
import tensorflow as tf

from moco_tf.mistakes import Mistake


class DataError(Mistake):
    """A mistake in the data or in how it was asked for, told in one sentence."""


@dataclass(frozen=True)
class Source:
    """A data set of images before decoding.

    An element is a dict of scalars and one image::

        {"image": encoded JPEG or PNG (string), or uint8 (height, width, channels),
         "id": int64, the example's index in the split, the same in every order,
         "label": int64, -1 when unlabelled}

    Attributes:
        dataset: The elements once, in the same order every time.
        num_examples: How many there are, exactly.
        num_classes: Number of classes, 0 when unlabelled.
        class_names: A name per class, empty when unlabelled.
        channels: Channels of the images where they are arrays; None where they are
            encoded, which decode to 1, 3 or 4 as asked.
        load: int64 id -> element, where the source can read any example at once (a
            folder, an array). The pipeline then shuffles perfectly and resumes freely.
        labels: int64 (num_examples,) in the order of the ids, where they are known
            without reading the examples.
        file_names: Where each example comes from, in the order of the ids; empty where
            that has no name.
        shuffled: int64 scalar seed, first, last -> those elements that have the places
            first <= place < last in an order of that seed, where the source can shuffle
            coarsely (the files of a TFDS set) and reads no file without need; a
            shuffle buffer does the rest.
        origin: A digest of what the elements are read from (names and sizes of files,
            version and files of a TFDS set): where it is the same, ids are of the same
            images, on another host or day. Empty where images are made or in memory.
        num_bytes: Of all images, encoded, where that is known without reading them.
    """

    dataset: tf.data.Dataset
    num_examples: int
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    channels: int | None = None
    load: Callable[[tf.Tensor], dict[str, tf.Tensor]] | None = None
    shuffled: Callable[[tf.Tensor, int, int], tf.data.Dataset] | None = None
    labels: np.ndarray | None = None
    file_names: Sequence[str] = ()
    origin: str = ""
    num_bytes: int | None = None


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Source:
    """Makes a source of images in memory, of any number of channels.

    Args:
        images: uint8 (count, height, width, channels), count at least 1.
        labels: int (count,), from 0; None when unlabelled.
        class_names: a name per class; by default the numbers themselves.

    Returns:
        A source that reads any example at once.

    Raises:
        DataError: the arrays' shapes or dtypes are others.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise DataError(
            f"from_arrays got images of dtype {images.dtype} and shape {images.shape}; "
            "give uint8 (count, height, width, channels) with at least one image."
        )
    count = len(images)
    names: tuple[str, ...] = ()
    if labels is None:
        label_values, num_classes = np.full(count, -1, np.int64), 0
    else:
        label_values = np.asarray(labels)
        if label_values.shape != (count,) or label_values.dtype.kind not in "iu":
            raise DataError(
                f"from_arrays got labels of dtype {label_values.dtype} and shape "
                f"{label_values.shape} for {count} images; give one integer per image."
            )
        label_values = label_values.astype(np.int64)
        num_classes = max(int(label_values.max()) + 1, len(class_names))
        names = tuple(class_names) or tuple(str(i) for i in range(num_classes))
    if label_values.min() < 0 and labels is not None:
        raise DataError(
            f"from_arrays got the label {label_values.min()}; labels count from 0 "
            "(leave labels out for unlabelled images)."
        )
    with tf.device("CPU"):  # by itself TensorFlow would put them on the first GPU
        image_tensor, label_tensor = tf.constant(images), tf.constant(label_values)

    def load(example_id):
        return {
            "image": image_tensor[example_id],
            "id": example_id,
            "label": label_tensor[example_id],
        }

    dataset = tf.data.Dataset.range(count).map(load)
    channels = int(images.shape[-1])
    return Source(
        dataset,
        count,
        num_classes,
        names,
        channels=channels,
        load=load,
        labels=label_values,
    )


def check_channels(source: Source, channels: int) -> None:
    """Raises DataError unless it is a source whose images can have so many channels."""
    if not isinstance(source, Source):
        raise DataError(
            f"a source of images is needed, not {type(source).__name__}; make one of a "
            'folder by moco_tf.data.open_source("folder", "train", data_dir=PATH), or '
            "of images in memory by moco_tf.data.from_arrays(images)."
        )
    if source.channels is None and channels not in (1, 3, 4):
        raise DataError(
            f"channels={channels} cannot be decoded from JPEG or PNG; use 1, 3 or 4, "
            "or a source of arrays."
        )
    if source.channels is not None and source.channels != channels:
        raise DataError(
            f"channels={channels} differs from the {source.channels} channels of the "
            f"source's arrays; set channels={source.channels}."
        )


def check_same_classes(first: Source, second: Source, one: str, other: str) -> None:
    """Raises DataError unless two sources have the same classes in the same order.

    Args:
        first: labelled images.
        second: labelled images.
        one: what the sentence calls the first, which it begins with.
        other: what it calls the second.
    """
    if first.class_names == second.class_names:
        return
    odd = sorted(set(first.class_names) ^ set(second.class_names))
    found = f"{', '.join(odd[:5])} in only one of them" if odd else "in another order"
    raise DataError(
        f"{one} has {first.num_classes} classes and {other} {second.num_classes} "
        f"({found}); use sets with the same classes."
    )
