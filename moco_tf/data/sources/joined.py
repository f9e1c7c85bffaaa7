"""Several places as one set: folders, manifests, and sets that are packed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from moco_tf.data.sources.folder import open_folder
from moco_tf.data.sources.places import is_packed
from moco_tf.data.sources.source import DataError, Source, decoded_as
from moco_tf.data.threads import CORES
from moco_tf.paths import each_place, to_path
from moco_tf.pixels import Pixels


def open_places(
    data_dir: str | Sequence[str] | None,
    split: str,
    pixels: Pixels | None = None,
    **options: Any,
) -> Source:
    """Opens one place or several as one set.

    Args:
        data_dir: each is a folder, a manifest, or the folder of a TFDS set such as
            `moco-tf pack` writes; the images of such sets come last.
        split: which part; every place must have it.
        pixels: see `open_source`.
        options: the others of `open_folder`.

    Returns:
        The source. With a packed set among several places it is read from front to
        back, or shuffled coarsely, and its images have no names.

    Raises:
        DataError: a place cannot be opened, or they do not go together.
    """
    places = each_place(data_dir)
    packed = [place for place in places if is_packed(place)]
    if not packed:
        return open_folder(data_dir, split, pixels=pixels, **options)
    from moco_tf.data.sources.tfds import open_tfds  # imported here: it takes seconds

    plain = [place for place in places if place not in packed]
    sources = {}
    if plain:
        title = " + ".join(plain)
        sources[title] = open_folder(plain, split, pixels=pixels, **options)
    value_range = options["value_range"] if pixels is None else pixels.value_range
    for place in packed:
        path = to_path(place).absolute()
        source = open_tfds(
            path.name, split, data_dir=str(path.parent), value_range=value_range
        )
        sources[place] = decoded_as(source, pixels, place)
    return joined(sources) if len(sources) > 1 else source


def joined(sources: dict[str, Source]) -> Source:
    """One source of several, one after the other; classes of one name are one class.

    Args:
        sources: what each is called in a sentence -> the source.

    Raises:
        DataError: some are encoded and others are not, or of other channels or numbers.
    """
    each = list(sources.values())
    kinds = {name: (one.channels, one.pixels) for name, one in sources.items()}
    pixels = _common([one.pixels for one in each])
    if pixels is None or len({one.channels for one in each}) > 1:
        told = "; ".join(
            f"{name}: {'encoded' if channels is None else f'{channels} channels'}, "
            f"{numbers}"
            for name, (channels, numbers) in kinds.items()
        )
        raise DataError(
            f"these places hold images of several kinds, which do not go together "
            f"({told}); use places of one kind."
        )
    names = _class_names(each)
    counts = [one.num_examples for one in each]
    firsts = np.cumsum([0, *counts[:-1]])
    owners = tf.constant(np.repeat(np.arange(len(each)), counts), tf.int64)
    finish = [_in_all(one, int(first), names) for one, first in zip(each, firsts)]
    dataset = finish[0](each[0].dataset)
    for one, to_all in zip(each[1:], finish[1:]):
        dataset = dataset.concatenate(to_all(one.dataset))

    def shuffled(seed, first, last):
        noise = tf.random.stateless_uniform((sum(counts),), tf.stack([seed, 2]))
        order = tf.gather(owners, tf.argsort(noise))  # whose image has each place
        parts = []
        for number, (one, to_all) in enumerate(zip(each, finish)):
            is_own = order == number
            begin = tf.math.count_nonzero(is_own[:first])
            end = tf.math.count_nonzero(is_own[:last])
            parts.append(to_all(_shuffled(one, seed + number, begin, end)))
        choices = tf.data.Dataset.from_tensor_slices(order[first:last])
        return tf.data.Dataset.choose_from_datasets(
            parts, choices, stop_on_empty_dataset=False
        )

    origins = [one.origin for one in each]
    sizes = [one.num_bytes for one in each]
    return Source(
        dataset,
        sum(counts),
        len(names),
        names,
        channels=each[0].channels,
        shuffled=shuffled,
        origin=hashlib.sha256(" ".join(origins).encode()).hexdigest()
        if all(origins)
        else "",
        num_bytes=None if None in sizes else sum(size or 0 for size in sizes),
        pixels=pixels,
        raw=any(one.raw for one in each),
    )


def _common(pixels: Sequence[Pixels]) -> Pixels | None:
    """What numbers all are decoded to; None where they do not go together."""
    kinds = sorted(set(pixels), key=lambda kind: kind.dtype)
    if len(kinds) == 1:
        return kinds[0]
    whole = [Pixels(kind, 0, np.iinfo(kind).max) for kind in ("uint8", "uint16")]
    # As in a folder: in the deepest, each file by its own depth.
    return whole[1] if set(kinds) == set(whole) else None


def _class_names(sources):
    names = [one.class_names for one in sources if one.class_names]
    if all(own == names[0] for own in names):
        return names[0] if names else ()
    every = sorted({name for own in names for name in own})
    if all(name.isdecimal() for name in every):
        every.sort(key=int)
    return tuple(every)


def _in_all(source, first, names):
    """A function from elements of one source to those of all."""
    places = [names.index(name) for name in source.class_names]
    labels = tf.constant([*places, -1], tf.int64)  # -1 is the last one

    def of_all(element):
        label = tf.cast(element["label"], tf.int64) % len(labels)
        return {
            **element,
            "id": element["id"] + first,
            "label": tf.gather(labels, label),
        }

    return lambda dataset: dataset.map(
        of_all, num_parallel_calls=CORES, deterministic=True
    )


def _shuffled(source, seed, first, last):
    """Those elements that have these places in an order of the seed, if it can."""
    if source.shuffled is not None:
        return source.shuffled(seed, first, last)
    if source.load is None:
        return source.dataset.skip(first).take(last - first)
    noise = tf.random.stateless_uniform((source.num_examples,), tf.stack([seed, 1]))
    ids = tf.cast(tf.argsort(noise)[first:last], tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices(ids)
    return dataset.map(source.load, num_parallel_calls=CORES, deterministic=True)
