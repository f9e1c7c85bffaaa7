"""Opens a data set of any kind by name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from moco_tf.data.sources.source import (
    DataError,
    Source,
    check_channels,
    decoded_as,
    numbers_of,
)
from moco_tf.paths import each_place
from moco_tf.pixels import Pixels, ValueRange


def open_source(
    kind: str,
    split: str,
    *,
    name: str | None = None,
    data_dir: str | Sequence[str] | None = None,
    manual_dir: str | None = None,
    labelled: bool = False,
    channels: int = 3,
    max_unreadable: float = 0.01,
    value_range: ValueRange = None,
    pixels: Pixels | None = None,
) -> Source:
    """Opens a data set by name.

    Args:
        kind: "glyphs" (embedded), "tfds" (TensorFlow Datasets), "folder" or
            "synthetic" (made photographs, for rehearsals).
        split: which part; "train" and "test" for glyphs, TFDS notation such as
            "train[:10%]" for tfds, the name of a sub-folder for folder, any for
            synthetic.
        name: TFDS name; only for tfds.
        data_dir: root of the prepared TFDS sets, or of folder the folder of images, a
            manifest that names them, a packed set, or several of these.
        manual_dir: where TFDS finds archives that the user fetched.
        labelled: whether labels are needed, so that it is an error to have none.
        channels: what the images will be decoded to.
        max_unreadable: share of unreadable images in a folder above which it is an
            error; one is always allowed.
        value_range: the numbers that are black and white; None: all that 8 or 16 bits
            can be. Of numbers of other types it must be given.
        pixels: what numbers the images are decoded to, such as those that an encoder
            was trained on; None: what the images have themselves.

    Returns:
        The source.

    Raises:
        DataError: it cannot be opened; the sentence says why and what to do.
    """
    # Imported here: TensorFlow Datasets takes seconds, and not every run needs it.
    if kind == "glyphs":
        from moco_tf.data.sources.glyphs import glyphs

        source = _ranged(glyphs(split), value_range)
    elif kind == "synthetic":
        from moco_tf.data.sources.synthetic import synthetic

        source = _ranged(synthetic(split), value_range)
    elif kind == "tfds":
        from moco_tf.data.sources.tfds import open_tfds

        if data_dir is not None and not isinstance(data_dir, (str, os.PathLike)):
            raise DataError(
                f"data_dir={data_dir} are several folders; name the one that holds the "
                "prepared TFDS sets, or use source=folder, which takes the folders of "
                "several sets."
            )
        source = open_tfds(
            name,
            split,
            data_dir=data_dir,
            manual_dir=manual_dir,
            value_range=value_range if pixels is None else pixels.value_range,
        )
    elif kind == "folder":
        from moco_tf.data.sources.joined import open_places

        source = open_places(
            data_dir,
            split,
            channels=channels,
            max_unreadable=max_unreadable,
            value_range=value_range,
            pixels=pixels,
        )
    else:
        raise DataError(
            f"source={kind!r} is not known; use glyphs, tfds, folder or synthetic."
        )
    source = decoded_as(source, pixels, _describe(kind, name, data_dir))
    check_channels(source, channels)
    if labelled and not source.num_classes:
        raise DataError(
            f"{_describe(kind, name, data_dir)} has no labels in split {split!r}, but "
            "kNN and the linear probe need them; name a labelled set for these, or "
            "switch them off."
        )
    return source


def _ranged(source, value_range):
    """A source of grey levels, of which others than 0 and 255 are black and white."""
    if value_range is None:
        return source
    return dataclasses.replace(
        source, pixels=numbers_of("uint8", value_range, "these images")
    )


def _describe(kind, name, data_dir):
    detail = {"tfds": name, "folder": " + ".join(each_place(data_dir))}.get(kind)
    return f"The {kind} set {detail!r}" if detail else f"The {kind} set"
