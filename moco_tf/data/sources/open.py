"""Opens a data set of any kind by name."""

from __future__ import annotations

from moco_tf.data.sources.source import DataError, Source, check_channels


def open_source(
    kind: str,
    split: str,
    *,
    name: str | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    labelled: bool = False,
    channels: int = 3,
    max_unreadable: float = 0.01,
) -> Source:
    """Opens a data set by name.

    Args:
        kind: "glyphs" (embedded), "tfds" (TensorFlow Datasets), "folder" or
            "synthetic" (made photographs, for rehearsals).
        split: which part; "train" and "test" for glyphs, TFDS notation such as
            "train[:10%]" for tfds, the name of a sub-folder for folder, any for
            synthetic.
        name: TFDS name; only for tfds.
        data_dir: root of the prepared TFDS sets, or the folder of images.
        manual_dir: where TFDS finds archives that the user fetched.
        labelled: whether labels are needed, so that it is an error to have none.
        channels: what the images will be decoded to.
        max_unreadable: share of unreadable images in a folder above which it is an
            error; one is always allowed.

    Returns:
        The source.

    Raises:
        DataError: it cannot be opened; the sentence says why and what to do.
    """
    # Imported here: TensorFlow Datasets takes seconds, and not every run needs it.
    if kind == "glyphs":
        from moco_tf.data.sources.glyphs import glyphs

        source = glyphs(split)
    elif kind == "synthetic":
        from moco_tf.data.sources.synthetic import synthetic

        source = synthetic(split)
    elif kind == "tfds":
        from moco_tf.data.sources.tfds import open_tfds

        source = open_tfds(name, split, data_dir=data_dir, manual_dir=manual_dir)
    elif kind == "folder":
        from moco_tf.data.sources.folder import open_folder

        source = open_folder(
            data_dir, split, channels=channels, max_unreadable=max_unreadable
        )
    else:
        raise DataError(
            f"source={kind!r} is not known; use glyphs, tfds, folder or synthetic."
        )
    check_channels(source, channels)
    if labelled and not source.num_classes:
        raise DataError(
            f"{_describe(kind, name, data_dir)} has no labels in split {split!r}, but "
            "kNN and the linear probe need them; name a labelled set for these, or "
            "switch them off."
        )
    return source


def _describe(kind: str, name: str | None, data_dir: str | None) -> str:
    detail = {"tfds": name, "folder": data_dir}.get(kind)
    return f"The {kind} set {detail!r}" if detail else f"The {kind} set"
