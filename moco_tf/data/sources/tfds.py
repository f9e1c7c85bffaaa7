"""Any image data set of TensorFlow Datasets, read without decoding."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.data.sources.source import DataError, Source, numbers_of
from moco_tf.data.threads import CORES
from moco_tf.pixels import ValueRange

log = logging.getLogger("moco_tf")

_IMAGENET = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_INTERLEAVED_FILES = 16


def open_tfds(
    name: str | None,
    split: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    value_range: ValueRange = None,
) -> Source:
    """Opens a split of a TFDS data set, preparing the set first where it must be.

    Args:
        name: such as "cifar10", "imagenet2012" or "imagenet2012_subset/1pct".
        split: such as "train", "train[:10%]" or "train+test".
        data_dir: root of the prepared sets; None is TFDS's own, ~/tensorflow_datasets.
        manual_dir: where archives lie that must be fetched by hand; None is
            DATA_DIR/downloads/manual.
        value_range: the numbers that are black and white; see `open_source`.

    Returns:
        The source: ids count through the split in the order of its files; labels are
        the feature "label", where there is one.

    Raises:
        DataError: wrong name, data missing and not to be had, wrong split, or no
            feature "image".
    """
    if not name:
        raise DataError("name is missing for source tfds; give one such as cifar10.")
    builder = open_builder(name, data_dir)
    features = builder.info.features
    # Not every top-level feature is a dict, and TFDS's dict has no get().
    names = tuple(features) if isinstance(features, tfds.features.FeaturesDict) else ()
    image = features["image"] if "image" in names else None
    kinds = (tfds.features.Image, tfds.features.Tensor)
    if (
        not isinstance(image, kinds)
        or len(image.shape) != 3
        or np.dtype(image.np_dtype).kind not in "uif"
    ):
        raise DataError(
            f"The TFDS set {name!r} has no feature 'image' of images among "
            f"{', '.join(names) or features}; choose an image set such as cifar10."
        )
    kind = np.dtype(image.np_dtype)
    pixels = numbers_of(kind, value_range, f"The TFDS set {name!r}")
    if not builder.is_prepared():
        prepare(builder, name, manual_dir)
    split_info = find_split(builder, name, split)
    label = features["label"] if "label" in names else None
    if not isinstance(label, tfds.features.ClassLabel):
        label = None
    is_labelled = label is not None
    # TFDS keeps real numbers in a PNG of its own making.
    is_encoded = isinstance(image, tfds.features.Image) and kind.kind != "f"
    wanted = {"image": True, **({"label": True} if is_labelled else {})}
    decoders = tfds.decode.PartialDecoding(
        wanted, {"image": tfds.decode.SkipDecoding()} if is_encoded else None
    )

    def element(example_id, example):
        label = example["label"] if is_labelled else tf.constant(-1, tf.int64)
        image = example["image"]
        if not is_encoded:
            image = tf.cast(image, pixels.dtype)
        return {"image": image, "id": example_id, "label": label}

    # One file after the other: the order, and so each id, is the same everywhere.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    dataset = builder.as_dataset(
        split=split, decoders=decoders, read_config=config, shuffle_files=False
    )
    return Source(
        dataset.enumerate().map(element),
        split_info.num_examples,
        0 if label is None else label.num_classes,
        () if label is None else tuple(label.names),
        channels=None if is_encoded else int(image.shape[-1]),
        shuffled=_shuffled(builder, split_info, decoders, element),
        origin=hashlib.sha256(repr((*_facts(builder), split)).encode()).hexdigest(),
        num_bytes=int(split_info.num_bytes) or None,  # of a part it is not known
        pixels=pixels,
    )


def open_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a TFDS set, or a DataError that says where the names are."""
    try:
        return tfds.builder(name, data_dir=data_dir)
    # TFDS raises errors of many types, some of them only in some versions.
    except Exception as error:
        where = f"in {data_dir}" if data_dir else "prepared here"
        raise DataError(
            f"name={name!r} is neither known to TensorFlow Datasets nor {where} "
            f"({_first_line(error)}); the names are listed at "
            "https://www.tensorflow.org/datasets/catalog."
        ) from error


def copy_facts(name: str, data_dir: str | None) -> tuple[str, dict]:
    """What tells a prepared copy of a set from others, wherever it lies.

    Returns:
        Its name with the version, and by split the examples in each file and the bytes
        of all, JSON-serialisable.
    """
    return _facts(open_builder(name, data_dir))


def _facts(builder):
    info = builder.info
    return info.full_name, {
        split.name: [list(split.shard_lengths), split.num_bytes]
        for split in info.splits.values()
    }


def prepare(
    builder: tfds.core.DatasetBuilder, name: str, manual_dir: str | None
) -> None:
    """Prepares a set where it is not yet, or raises DataError with what is missing."""
    root = pathlib.Path(builder.data_dir)
    manual_dir = manual_dir and os.path.expanduser(manual_dir)
    if builder.name in ("imagenet2012", "imagenet2012_subset"):
        place = pathlib.Path(manual_dir) if manual_dir else _manual_default(builder)
        missing = [file for file in _IMAGENET if not (place / file).is_file()]
        if missing:
            raise DataError(
                f"ImageNet is not prepared in {root} and cannot be downloaded freely: "
                f"get {' and '.join(_IMAGENET)} from https://image-net.org and put "
                f"them into {place} ({' and '.join(missing)} missing there), or set "
                "manual_dir to where they are."
            )
    config = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
        with _told_once(name):
            builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise DataError(
            f"The TFDS set {name!r} is not in {root} and could not be downloaded and "
            f"prepared there ({_first_line(error)}); prepare it where there is a "
            "network, or set data_dir to where it is."
        ) from error


@contextlib.contextmanager
def _told_once(name: str) -> Iterator[None]:
    """Says once, in words, that a download keeps failing; it is tried for minutes."""
    retries = logging.getLogger("urllib3.connectionpool")
    said = False

    def tell(record: logging.LogRecord) -> bool:
        nonlocal said
        if record.levelno < logging.WARNING:
            return True
        if not said:
            said = True
            log.warning(
                "TensorFlow Datasets cannot reach the server of %r and goes on trying "
                "for some minutes; without a network, stop with Ctrl-C and name a "
                "prepared copy with data_dir.",
                name,
            )
        return False

    retries.addFilter(tell)
    try:
        yield
    finally:
        retries.removeFilter(tell)


def _manual_default(builder):
    # TFDS resolves it from the root of all sets.
    return pathlib.Path(builder._data_dir_root) / "downloads" / "manual"


def find_split(builder: tfds.core.DatasetBuilder, name: str, split: str):
    """The facts of a split, or a DataError that lists those that there are."""
    try:
        info = builder.info.splits[split]
        count = info.num_examples
    except Exception as error:
        raise DataError(
            f"split={split!r} is not in the TFDS set {name!r} ({_first_line(error)}); "
            f"it has {', '.join(builder.info.splits)}, and parts such as train[:10%]."
        ) from error
    if not count:
        raise DataError(
            f"split={split!r} of the TFDS set {name!r} has no examples; take more of "
            f"{', '.join(builder.info.splits)}."
        )
    return info


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text[:200].rstrip(".:")


def _shuffled(builder, split_info, decoders, element):
    """How to read the files in random order, or None where that is no use."""
    files = split_info.file_instructions
    if len(files) < 2 or builder.info.file_format.value != "tfrecord":
        return None
    names = tf.constant([str(file.filename) for file in files])
    skips = tf.constant([file.skip for file in files], tf.int64)
    takes = [
        file.examples_in_shard - file.skip if file.take == -1 else file.take
        for file in files
    ]
    takes = tf.constant(takes, tf.int64)
    first_ids = tf.cumsum(takes, exclusive=True)
    features = decoders.extract_features(builder.info.features)

    def read(index, first, last):
        records = tf.data.TFRecordDataset(names[index])
        records = records.skip(skips[index] + first).take(last - first)
        return records.enumerate(first_ids[index] + first)

    def parse(example_id, record):
        example = features.deserialize_example(record, decoders=decoders.decoders)
        return element(example_id, example)

    def shuffled(seed, first, last):
        noise = tf.random.stateless_uniform((len(files),), tf.stack([seed, 1]))
        order = tf.argsort(noise)
        # Of each file, in this order: which of its examples have those places.
        counts = tf.gather(takes, order)
        places = tf.cumsum(counts, exclusive=True)
        begins = tf.clip_by_value(first - places, 0, counts)
        ends = tf.clip_by_value(last - places, 0, counts)
        parts = tf.boolean_mask(tf.stack([begins, ends], axis=1), ends > begins)
        order = tf.boolean_mask(order, ends > begins)
        dataset = tf.data.Dataset.from_tensor_slices((order, parts[:, 0], parts[:, 1]))
        dataset = dataset.interleave(
            read,
            cycle_length=_INTERLEAVED_FILES,
            block_length=16,
            num_parallel_calls=min(CORES, _INTERLEAVED_FILES),
            deterministic=True,
        )
        return dataset.map(parse, num_parallel_calls=CORES)

    return shuffled
