"""Images with labelled boxes, from TFDS or from a folder in VOC's layout."""

from __future__ import annotations

import tensorflow as tf

from moco_tf.data.decoding import decode
from moco_tf.data.sources import DataError, Source, check_same_classes
from moco_tf.data.sources.voc import open_voc_folder


def open_boxes(
    kind: str,
    split: str | None = None,
    *,
    name: str | None = None,
    data_dir: str | None = None,
    manual_dir: str | None = None,
) -> Source:
    """Opens a set of images with labelled boxes.

    Elements have, beside "image" and "id", "boxes" float32 (M, 4) as left, top, right,
    bottom in pixels of the image, right and bottom exclusive; "label" int64 (M,); and
    "difficult" bool (M,), boxes that VOC leaves out of its scores. M may be 0.

    Args:
        kind: "tfds" or "folder".
        split: None is all that is meant for training.
        name: TFDS name; only for tfds.
        data_dir: root of the prepared TFDS sets, or a folder such as VOCdevkit/VOC2007.
        manual_dir: where TFDS finds archives that the user fetched.

    Returns:
        The source.

    Raises:
        DataError: it cannot be opened or has no boxes; the sentence says why.
    """
    if kind == "folder":
        return open_voc_folder(data_dir, split)
    if kind == "tfds":
        return _open_tfds(name, split or "train+validation", data_dir, manual_dir)
    raise DataError(f"source={kind!r} has no boxes; use tfds or folder.")


def _open_tfds(name, split, data_dir, manual_dir):
    # Imported here: TensorFlow Datasets takes seconds, and not every run needs it.
    import tensorflow_datasets as tfds

    from moco_tf.data.sources.tfds import find_split, open_builder, prepare

    builder = open_builder(name, data_dir)
    features = builder.info.features
    objects = features["objects"].feature if "objects" in features else {}
    if not {"bbox", "label"} <= set(objects):
        raise DataError(
            f"The TFDS set {name!r} has no feature 'objects' with 'bbox' and 'label' "
            f"among {', '.join(features)}; choose a detection set such as voc/2007."
        )
    if not builder.is_prepared():
        prepare(builder, name, manual_dir)
    count = find_split(builder, name, split).num_examples
    flag = next((key for key in ("is_difficult", "is_crowd") if key in objects), None)
    wanted = {"bbox", "label"} | ({flag} if flag else set())
    decoders = tfds.decode.PartialDecoding(
        {"image": True, "objects": wanted}, {"image": tfds.decode.SkipDecoding()}
    )
    # TFDS keeps VOC's own corners, which count pixels from 1.
    first = 1.0 if builder.name == "voc" else 0.0

    def element(example_id, example):
        items = example["objects"]
        height, width = tf.unstack(tf.cast(_sides(example["image"]), tf.float32))
        top, left, bottom, right = tf.unstack(items["bbox"], axis=1)
        boxes = [left * width - first, top * height - first]
        boxes = tf.stack([*boxes, right * width, bottom * height], axis=1)
        none = tf.zeros_like(items["label"], tf.bool)
        return {
            "image": example["image"],
            "id": example_id,
            "boxes": boxes,
            "label": items["label"],
            "difficult": items[flag] if flag else none,
        }

    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(
        split=split, decoders=decoders, read_config=config, shuffle_files=False
    )
    label = objects["label"]
    return Source(
        dataset.enumerate().map(element), count, label.num_classes, tuple(label.names)
    )


def _sides(image):
    """Height and width, int32 (2,), of an encoded image."""
    return tf.cond(
        tf.io.is_jpeg(image),
        lambda: tf.io.extract_jpeg_shape(image)[:2],
        lambda: tf.shape(decode(image, 3))[:2],
    )


def joined(first: Source, second: Source) -> Source:
    """Both sources' examples, the second's after the first's.

    Raises:
        DataError: their classes differ.
    """
    check_same_classes(first, second, "The first training set", "the second one")
    offset = first.num_examples

    def renumbered(element):
        return {**element, "id": element["id"] + offset}

    dataset = first.dataset.concatenate(second.dataset.map(renumbered))
    count = offset + second.num_examples
    return Source(dataset, count, first.num_classes, first.class_names)
