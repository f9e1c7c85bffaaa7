"""What a data set of images is, wherever they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import numpy as np
import tensorflow as tf

from moco_tf.data.decoding import ENCODED_CHANNELS
from moco_tf.mistakes import Mistake
from moco_tf.pixels import GREY_LEVELS, Pixels, ValueRange


class DataError(Mistake):
    """A mistake in the data or in how it was asked for, told in one sentence."""


@dataclass(frozen=True)
class Source:
    """A data set of images before decoding.

    An element is a dict of scalars and one image::

        {"image": encoded JPEG or PNG (string), or (height, width, channels) of uint8,
                  uint16 or float32,
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
        pixels: What numbers the images are decoded to.
        raw: Whether some encoded images are neither JPEG nor PNG, but what
            `moco_tf.data.decoding.as_raw` made, of as many channels as asked.
        groups: int64 (num_examples,) in the order of the ids, the group of each image,
            such as a patient's; None without.
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
    pixels: Pixels = GREY_LEVELS
    raw: bool = False
    groups: np.ndarray | None = None


def numbers_of(dtype: np.dtype | str, value_range: ValueRange, what: str) -> Pixels:
    """What images of such numbers are decoded to.

    Args:
        dtype: of the numbers; others than uint8 and uint16 become float32.
        value_range: the numbers that are black and white; None of uint8 and uint16 is
            all that they can be.
        what: what has them, with which a sentence begins.

    Raises:
        DataError: the range must be given and is not, or is none of such numbers.
    """
    kind = np.dtype(dtype)
    is_whole = kind.name in ("uint8", "uint16")
    if value_range is not None:
        low, high = map(float, value_range)
        if is_whole and not (0 <= low < high <= np.iinfo(kind).max and high > 1):
            raise DataError(
                f"range=[{low:g}, {high:g}] does not fit {what}, of {kind} numbers, 0 "
                f"to {np.iinfo(kind).max}; give the numbers that are black and white "
                "in the files themselves, or leave it out."
            )
        return Pixels(kind.name if is_whole else "float32", low, high)
    if not is_whole:
        raise DataError(
            f"{what} is of dtype {kind}, of which nothing says which numbers are black "
            "and white; set range (value_range from Python), such as [0.0, 1.0]."
        )
    return Pixels(kind.name, 0.0, float(np.iinfo(kind).max))


def decoded_as(source: Source, pixels: Pixels | None, what: str) -> Source:
    """The source decoded to other numbers than its own.

    Args:
        source: the images.
        pixels: as an encoder takes them; None leaves the source's own.
        what: what the images are, with which a sentence begins.

    Raises:
        DataError: the source's numbers have no depth to go by.
    """
    if pixels is None or pixels == source.pixels:
        return source
    if "float32" == source.pixels.dtype != pixels.dtype:
        raise DataError(
            f"{what} holds real numbers and not the {pixels.dtype} ones that the "
            "encoder was trained on; use images of that kind."
        )
    return dataclasses.replace(source, pixels=pixels)


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    value_range: ValueRange = None,
    groups: np.ndarray | None = None,
) -> Source:
    """Makes a source of images in memory, of any number of channels.

    Args:
        images: uint8, uint16, or any other type of number (which becomes float32),
            (count, height, width, channels), count at least 1.
        labels: int (count,), from 0; None when unlabelled.
        class_names: a name per class; by default the numbers themselves.
        value_range: the numbers that are black and white; None of uint8 and uint16 is
            all that they can be, and has to be given of others.
        groups: int (count,), such as the number of each image's patient; None without.

    Returns:
        A source that reads any example at once.

    Raises:
        DataError: the arrays' shapes or dtypes are others.
    """
    images = np.asarray(images)
    if images.dtype.kind not in "uif" or images.ndim != 4 or not len(images):
        raise DataError(
            f"from_arrays got images of dtype {images.dtype} and shape {images.shape}; "
            "give uint8 (count, height, width, channels) with at least one image."
        )
    pixels = numbers_of(images.dtype, value_range, "from_arrays's array of images")
    images = images.astype(pixels.dtype, copy=False)
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
        pixels=pixels,
        groups=None if groups is None else _checked_groups(groups, count),
    )


def _checked_groups(groups, count):
    groups = np.asarray(groups)
    if groups.shape != (count,) or groups.dtype.kind not in "iu":
        raise DataError(
            f"from_arrays got groups of dtype {groups.dtype} and shape {groups.shape} "
            f"for {count} images; give one integer per image."
        )
    return groups.astype(np.int64)


def check_channels(source: Source, channels: int) -> None:
    """Raises DataError unless it is a source whose images can have so many channels."""
    if not isinstance(source, Source):
        raise DataError(
            f"a source of images is needed, not {type(source).__name__}; make one of a "
            'folder by moco_tf.data.open_source("folder", "train", data_dir=PATH), or '
            "of images in memory by moco_tf.data.from_arrays(images)."
        )
    is_file = source.channels is None and not source.raw
    if is_file and channels not in ENCODED_CHANNELS:
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
