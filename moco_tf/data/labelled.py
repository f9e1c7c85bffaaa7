"""Labelled images to train on: random crops with flips, and parts of a source."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from moco_tf.data.crops import DRAWS, random_crops
from moco_tf.data.order import VIEWS, EpochOrder, finished, stream_key
from moco_tf.data.sources import DataError, Source, check_channels
from moco_tf.data.threads import CORES, untuned
from moco_tf.log import watched

_BATCH = 4096


def labelled_crops(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    channels: int = 3,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    seed: int = 0,
    epochs: int | None = None,
    shuffle_buffer: int = 50_000,
) -> tf.data.Dataset:
    """Batches of one random crop of each image, flipped half the time.

    The augmentation of supervised training and of the linear protocol. Each epoch has
    every image once, in a new order; its last batch holds what is left over. Every
    random number is a function of (seed, epoch, example id), however many threads work.

    Args:
        source: the images, labelled.
        batch_size: images in a global batch.
        image_size: side of the crops.
        channels: of the crops.
        crop_scale: least and greatest share of the image's area in a crop.
        crop_ratio: least and greatest width/height of a crop.
        seed: any integer of 63 bits.
        epochs: the stream ends after so many; None: never.
        shuffle_buffer: elements held to shuffle from, where the source cannot read
            any example at once (where it can, the whole epoch is shuffled).

    Returns:
        A dataset of dicts: "image" (n, image_size, image_size, channels) of the type of
        the source's pixels, uint8 for photographs, "label" int64 (n,), "id" int64
        (n,); ceil(examples / batch_size) batches an epoch.

    Raises:
        DataError: the source's channels are others.

    Source: He et al. 2020 (arXiv 1911.05722), section 4.1; the reference's linear
    classification program.
    """
    check_channels(source, channels)
    # Steps of one image: so that the last partial batch is kept.
    order = EpochOrder(source, 1, (1, 0), seed, shuffle_buffer, cache=False)

    def crop(element, view_key):
        if source.load is not None and not order.streams:
            element = source.load(element["id"])
        numbers = tf.random.stateless_uniform(
            (1, DRAWS + 1), tf.stack([view_key, element["id"]])
        )
        (view,) = random_crops(
            element["image"], numbers[:, :DRAWS], channels, crop_scale, crop_ratio,
            image_size, pixels=source.pixels, raw=source.raw,
        )  # fmt: skip
        flipped = tf.where(numbers[0, DRAWS] < 0.5, tf.reverse(view, [1]), view)
        return {**element, "image": flipped}

    def epoch_batches(epoch):
        view_key = stream_key(seed, VIEWS, epoch)
        elements = order.elements(epoch, tf.constant(0, tf.int64)).map(
            lambda element: crop(element, view_key),
            num_parallel_calls=CORES,
            deterministic=True,
        )
        return elements.batch(batch_size)

    last = epochs if epochs is not None else tf.int64.max
    return finished(tf.data.Dataset.range(last).flat_map(epoch_batches))


def labels_of(source: Source) -> np.ndarray:
    """Labels of a whole source, without decoding its images.

    Returns:
        int64 (examples,), in the order of the ids; -1 where unlabelled.
    """
    if source.labels is not None:
        return source.labels
    dataset = source.dataset.map(lambda element: (element["id"], element["label"]))
    labels = np.full(source.num_examples, -1, np.int64)
    batches = untuned(dataset.batch(_BATCH)).as_numpy_iterator()
    count = -(-len(labels) // _BATCH)
    for ids, values in watched(batches, "reading labels", count):
        labels[ids] = values
    return labels


def require_labels(source: Source, which: str) -> Source:
    """The source with its labels at hand, for which a stream is read through once.

    Args:
        source: the images.
        which: "training" or "test", for the error.

    Raises:
        DataError: some images have no label.
    """
    labels = labels_of(source)
    check_labels(labels, which)
    return dataclasses.replace(source, labels=labels)


def check_labels(labels: np.ndarray, which: str) -> None:
    """Raises DataError where some labels are -1; `which` images, for the sentence."""
    unlabelled = int(np.sum(labels < 0))
    if unlabelled:
        raise DataError(
            f"{unlabelled} of the {len(labels)} {which} images have no label; name a "
            "split whose images are all labelled."
        )


def subset(source: Source, ids: np.ndarray) -> Source:
    """A source of some of another's examples, in their order there.

    Args:
        source: the images.
        ids: int (count,), which examples; at least one, none twice.

    Returns:
        The source of these, whose own ids count from 0; classes are kept.
    """
    ids = np.sort(np.asarray(ids, np.int64))
    chosen = np.zeros(source.num_examples, bool)
    chosen[ids] = True
    old_ids, is_chosen = tf.constant(ids), tf.constant(chosen)
    new_ids = tf.constant(np.cumsum(chosen) - 1)

    def only_chosen(dataset):
        dataset = dataset.filter(lambda element: is_chosen[element["id"]])
        return dataset.map(
            lambda element: {**element, "id": new_ids[element["id"]]},
            num_parallel_calls=CORES,
            deterministic=True,
        )

    def load(new_id):
        return {**source.load(old_ids[new_id]), "id": new_id}

    if source.load is not None:
        # Reads nothing of what was not chosen.
        dataset = tf.data.Dataset.range(len(ids)).map(
            load, num_parallel_calls=CORES, deterministic=True
        )
    else:
        dataset = only_chosen(source.dataset)
    everything, whole = source.shuffled, source.num_examples

    def shuffled(seed, first, last):
        return only_chosen(everything(seed, 0, whole)).skip(first).take(last - first)

    return dataclasses.replace(
        source,
        dataset=dataset,
        num_examples=len(ids),
        load=source.load and load,
        shuffled=everything and shuffled,
        labels=None if source.labels is None else source.labels[ids],
        file_names=source.file_names and [source.file_names[i] for i in ids],
        groups=None if source.groups is None else source.groups[ids],
        origin="",
    )


def read_once(source: Source) -> Source:
    """A source that has read another's examples, once, and holds them undecoded.

    Args:
        source: the images; few enough.

    Returns:
        The source, which reads any example at once; arrays in memory as they are.
    """
    if source.load is not None and source.channels is not None:
        return source
    kept = source.dataset.element_spec["image"]

    def undecoded(element):
        return tf.io.serialize_tensor(element["image"]), element["label"]

    # As strings: images that are arrays may differ in size.
    dataset = source.dataset.map(undecoded, num_parallel_calls=CORES)
    images, labels = zip(*untuned(dataset.batch(1024)))
    images, labels = tf.concat(images, axis=0), tf.concat(labels, axis=0)

    def load(example_id):
        image = tf.io.parse_tensor(images[example_id], kept.dtype)
        return {
            "image": tf.ensure_shape(image, kept.shape),
            "id": example_id,
            "label": labels[example_id],
        }

    return dataclasses.replace(
        source,
        dataset=tf.data.Dataset.range(source.num_examples).map(load),
        load=load,
        shuffled=None,
        labels=labels.numpy(),
    )


def evenly_spread(count: int, most: int | None) -> np.ndarray:
    """Ids of at most so many examples, spread over a source.

    Not the first ones: a folder comes sorted by class.

    Args:
        count: examples of the source.
        most: how many to take at most; None: all.

    Returns:
        int64 (min(count, most),), rising.
    """
    taken = count if most is None else min(count, most)
    # The last id of each of `taken` equal stretches.
    return (np.arange(1, taken + 1) * count - 1) // taken


def even_batches(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Fills each batch up to a multiple of the replicas, so that none goes empty.

    TensorFlow's convolutions may fail on an empty share of a last batch.

    Args:
        dataset: batches, dicts of tensors of one first dimension.
        replicas: devices that share a batch.

    Returns:
        The dataset with repeated rows at a batch's end and "weight", float32 (n,), 0
        for these and 1 for the others.
    """

    def fill(batch):
        rows = tf.shape(batch["id"])[0]
        index = tf.range(rows + -rows % replicas)
        filled = {
            key: tf.gather(value, tf.minimum(index, rows - 1))
            for key, value in batch.items()
        }
        return {**filled, "weight": tf.cast(index < rows, tf.float32)}

    return dataset.map(fill, num_parallel_calls=CORES, deterministic=True)


def replica_batches(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Cuts `even_batches` into one for each replica, in their order.

    TensorFlow does so itself, but not where each host has batches of its own.

    Args:
        dataset: batches, dicts of tensors whose first dimension replicas divide.
        replicas: of this host.
    """

    def cut(batch):
        parts = {
            key: tf.stack(tf.split(value, replicas)) for key, value in batch.items()
        }
        return tf.data.Dataset.from_tensor_slices(parts)

    return dataset.flat_map(cut)
