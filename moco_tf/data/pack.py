"""Any source as a few large files, of images no larger than training needs."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from moco_tf.config.packing import Packing
from moco_tf.data.crops import resize
from moco_tf.data.decoding import (
    ENCODED_CHANNELS,
    as_reduced,
    decode,
    decode_reduced,
)
from moco_tf.data.sources import DataError, Source
from moco_tf.data.threads import CORES, untuned
from moco_tf.log import watched
from moco_tf.paths import to_path
from moco_tf.pixels import GREY_LEVELS, Pixels

VERSION = "1.0.0"
_SETTINGS = "pack.json"


def pack(
    sources: Mapping[str, Source], out: str | os.PathLike, packing: Packing
) -> pathlib.Path:
    """Writes sources as a set of TensorFlow Datasets, and goes on where it stopped.

    Its files are TFRecords, whose records carry checksums; each is written under
    another name first. `open_source("tfds", split, name=out.name, data_dir=out.parent)`
    reads the set, and hosts share its files.

    Args:
        sources: split -> images.
        out: folder of the set, whose name becomes the set's.
        packing: the settings.

    Returns:
        The folder that holds the files, OUT/1.0.0.

    Raises:
        DataError: the name cannot be a set's, the folder holds another set, or the
            images' numbers are none of JPEG or PNG.
    """
    out = to_path(out)
    if not isinstance(out, pathlib.Path):
        raise DataError(
            f"{out} is not on this machine; pack here, and copy the folder."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", out.name):
        raise DataError(
            f"{out.name!r} cannot be the name of a set; use small letters, digits and "
            "_, such as packed/photos."
        )
    place = out / VERSION
    _check_kinds(sources, packing)
    _claim(place, _settings(sources, packing))
    first = next(iter(sources.values()))
    features = {"image": _image(packing, first.pixels)}
    if first.class_names:
        features["label"] = tfds.features.ClassLabel(names=list(first.class_names))
    if first.file_names:
        features["file"] = tfds.features.Text()
    splits = []
    for split, source in sources.items():
        lengths, size = _write(source, split, place, out.name, packing)
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=lengths,
                num_bytes=size,
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=place, dataset_name=out.name, split=split,
                    filetype_suffix="tfrecord",
                ),
            )
        )  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=place,
        features=tfds.features.FeaturesDict(features),
        split_infos=splits,
        version=VERSION,
        check_data=False,
    )
    return place


def _check_kinds(sources, packing):
    """Refuses what no JPEG or PNG can hold."""
    kinds = {source.pixels for source in sources.values()}
    whole = [Pixels(kind, 0, np.iinfo(kind).max) for kind in ("uint8", "uint16")]
    if len(kinds) > 1 or not kinds <= set(whole):
        raise DataError(
            "these images cannot be packed, as their numbers are of several kinds, or "
            f"have another range than 8 or 16 bits ({', '.join(map(str, kinds))}); "
            "train on the files themselves."
        )
    if packing.channels not in ENCODED_CHANNELS:
        raise DataError(
            f"channels={packing.channels} cannot be packed as JPEG or PNG; use 1, 3 or "
            "4, or train on the files themselves."
        )


def _settings(sources, packing):
    sets = {split: [s.num_examples, s.origin] for split, s in sources.items()}
    return {**dataclasses.asdict(packing), "splits": sets}


def _claim(place, settings):
    """Notes the settings, or refuses a folder that has others."""
    note = place / _SETTINGS
    if note.is_file():
        before = json.loads(note.read_text())
        odd = sorted(key for key in settings if before.get(key) != settings[key])
        if odd:
            told = "; ".join(
                f"{k} was {before.get(k)} and is {settings[k]}" for k in odd
            )
            raise DataError(
                f"{place} holds a set that was packed otherwise ({told[:300]}); remove "
                "it, or pack under another name."
            )
        return
    if place.is_dir() and any(place.iterdir()):
        raise DataError(
            f"{place} holds files that are not of a packed set; pack under another "
            "name."
        )
    place.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings, indent=1))


def _image(packing, pixels):
    kind = "png" if _as_png(packing, pixels) else "jpeg"
    shape = (None, None, packing.channels)
    return tfds.features.Image(
        shape=shape, encoding_format=kind, dtype=np.dtype(pixels.dtype)
    )


def _as_png(packing, pixels):
    # No JPEG has 4 channels or 16 bits.
    return packing.channels == 4 or pixels != GREY_LEVELS


def _write(source, split, place, name, packing):
    """Writes the files that are not there yet; the lengths of all, and their bytes."""
    count, each = source.num_examples, packing.shard_images
    starts = range(0, count, each)
    lengths = [min(each, count - start) for start in starts]
    files = [
        place / f"{name}-{split}.tfrecord-{number:05d}-of-{len(starts):05d}"
        for number in range(len(starts))
    ]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    order = np.arange(count)
    if source.load is not None:
        order = np.random.default_rng(packing.seed).permutation(count)
    ids = [order[start : start + each] for start in starts]
    total = sum(lengths[number] for number in missing)
    elements = _elements(source, [ids[number] for number in missing], packing)
    elements = iter(watched(elements, f"packing {split}", total))
    for number in missing:
        passing = files[number].with_suffix(f".part{os.getpid()}")
        try:
            with tf.io.TFRecordWriter(str(passing)) as writer:
                for _ in range(lengths[number]):
                    writer.write(_record(next(elements), source))
            os.replace(passing, files[number])
        finally:
            passing.unlink(missing_ok=True)
    return lengths, sum(file.stat().st_size for file in files)


def _elements(source, ids: Sequence[np.ndarray], packing) -> Iterator[dict]:
    """The packed elements of these ids, in their order."""
    if not ids:
        return iter(())
    wanted = np.concatenate(ids)
    if source.load is not None:
        dataset = tf.data.Dataset.from_tensor_slices(wanted).map(source.load)
    else:  # which can only be read from its start
        dataset = source.dataset.skip(wanted[0])
        among = np.zeros(source.num_examples, bool)
        among[wanted] = True
        dataset = dataset.filter(lambda element: tf.constant(among)[element["id"]])

    def packed(element):
        return {**element, "image": _packed(element["image"], packing, source)}

    dataset = dataset.map(packed, num_parallel_calls=CORES, deterministic=True)
    return untuned(dataset.prefetch(CORES)).as_numpy_iterator()


def _packed(image, packing, source):
    """An image's bytes in a set; those of a JPEG that is small enough stay."""
    channels, side = packing.channels, packing.shorter_side
    pixels = source.pixels
    as_png = _as_png(packing, pixels)

    def encoded(whole):
        sides = tf.shape(whole)[:2]
        target = side * sides // tf.reduce_min(sides)
        whole = tf.cond(
            tf.reduce_min(sides) > side,
            lambda: resize(whole, target[0], target[1], pixels=pixels),
            lambda: whole,
        )
        if as_png:
            return tf.io.encode_png(whole)
        # Colours at full resolution: another halving of them would be one too many.
        return tf.io.encode_jpeg(
            tf.ensure_shape(whole, (None, None, channels)),
            quality=packing.quality,
            chroma_downsampling=False,
        )

    def of_jpeg():
        shape = tf.io.extract_jpeg_shape(image)
        spare = tf.reduce_min(shape[:2]) // side

        def reduced(by):
            sides = (shape[:2] + by - 1) // by
            part = tf.concat([[0, 0], sides], axis=0)
            return encoded(decode_reduced(image, channels, by, part))

        as_it_is = (tf.reduce_min(shape[:2]) <= side) & (shape[2] == channels)
        return tf.cond(
            as_it_is, lambda: image, lambda: as_reduced(spare, reduced, of_whole)
        )

    def of_whole():
        return encoded(decode(image, channels, pixels, source.raw))

    if image.dtype != tf.string or as_png:
        return of_whole()
    return tf.cond(tf.io.is_jpeg(image), of_jpeg, of_whole)


def _record(element, source):
    values = {"image": tf.train.BytesList(value=[element["image"]])}
    feature = {"image": tf.train.Feature(bytes_list=values["image"])}
    if source.class_names:
        label = tf.train.Int64List(value=[int(element["label"])])
        feature["label"] = tf.train.Feature(int64_list=label)
    if source.file_names:
        name = source.file_names[int(element["id"])]
        name = tf.train.BytesList(value=[os.fsencode(name)])
        feature["file"] = tf.train.Feature(bytes_list=name)
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString()
