"""Labelled crops, parts of a source, and batches for several devices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from pretrained_runs import write_images

from moco_tf.data import DataError, Source, from_arrays, labelled_batches, open_source
from moco_tf.data.balanced import balanced_subset, held_out
from moco_tf.data.labelled import (
    even_batches,
    evenly_spread,
    labelled_crops,
    labels_of,
    read_once,
    subset,
)


def images(count, side=12):
    """Images in which every pixel says which image and which column it is of."""
    pixels = np.zeros((count, side, side, 3), np.uint8)
    pixels[..., 0] = np.arange(count)[:, None, None]
    pixels[..., 1] = 20 * np.arange(side)
    return pixels


def in_memory(count=10):
    return from_arrays(images(count), np.arange(count) % 3)


def streamed(count=10):
    """The same set as a source that cannot read any example at once."""
    source = in_memory(count)
    return Source(source.dataset, count, 3, source.class_names, channels=3)


def file_wise(count=10):
    """A streamed source that shuffles coarsely, as files do."""
    source = in_memory(count)

    def shuffled(seed, first, last):
        order = tf.argsort(tf.random.stateless_uniform((count,), tf.stack([seed, 0])))
        order = tf.cast(order, tf.int64)[first:last]
        return tf.data.Dataset.from_tensor_slices(order).map(source.load)

    return Source(
        source.dataset, count, 3, source.class_names, channels=3, shuffled=shuffled
    )


KINDS = pytest.mark.parametrize("kind", [in_memory, streamed, file_wise])


def crops(source, epochs=2, **options):
    options = {"batch_size": 4, "image_size": 8, "epochs": epochs, **options}
    return list(labelled_crops(source, **options).as_numpy_iterator())


def joined(batches, key):
    return np.concatenate([batch[key] for batch in batches])


@KINDS
def test_every_epoch_has_every_image_once_in_a_new_order_with_its_label(kind):
    batches = crops(kind())
    assert [len(batch["id"]) for batch in batches] == [4, 4, 2, 4, 4, 2]
    ids = joined(batches, "id")
    first, second = ids[:10], ids[10:]
    for epoch in (first, second):
        assert sorted(epoch) == list(range(10))
    assert list(first) != list(second)
    assert list(first) != list(range(10))
    np.testing.assert_array_equal(joined(batches, "label"), ids % 3)
    views = joined(batches, "image")
    assert views.shape == (20, 8, 8, 3) and views.dtype == np.uint8
    np.testing.assert_array_equal(views[..., 0], ids[:, None, None] * np.ones((8, 8)))


@KINDS
def test_crops_are_a_function_of_seed_epoch_and_id(kind):
    def by_id(source, **options):
        views = {}
        for batch in crops(source, **options):
            for example, image in zip(batch["id"], batch["image"]):
                views.setdefault(example, []).append(image)
        return views

    one, two = by_id(kind()), by_id(kind(), batch_size=3)
    other = by_id(kind(), seed=1)
    for example, views in one.items():
        np.testing.assert_array_equal(views, two[example])
        assert np.any(views[0] != views[1])
        assert np.any(views[0] != other[example][0])


def test_half_of_the_crops_are_flipped_and_scales_keep_to_their_range():
    source = from_arrays(images(200, side=12), np.zeros(200, int))
    views = joined(crops(source, epochs=10, crop_scale=(0.25, 0.5)), "image")
    columns = views[:, 0, :, 1].astype(int)
    span = columns[:, -1] - columns[:, 0]
    flipped = np.mean(span < 0)
    assert abs(flipped - 0.5) < 0.05
    # Sides of sqrt(0.25 x 3/4) to sqrt(0.5 x 4/3) of 12 columns, 20 levels each.
    assert 20 * 3 <= np.abs(span).min()
    assert np.abs(span).max() <= 20 * 9


def test_whole_image_is_a_crop_of_scale_one():
    source = in_memory()
    exact = crops(source, 1, crop_scale=(1, 1), crop_ratio=(1, 1), image_size=12)
    for example, view in zip(joined(exact, "id"), joined(exact, "image")):
        whole = images(10)[example]
        assert np.array_equal(view, whole) or np.array_equal(view, whole[:, ::-1])


def test_crops_refuse_other_channels():
    with pytest.raises(DataError, match="channels=1 differs"):
        labelled_crops(in_memory(), batch_size=2, image_size=8, channels=1)


@KINDS
def test_subset_keeps_images_and_labels_and_counts_ids_anew(kind):
    part = subset(kind(), [7, 2, 5])
    assert part.num_examples == 3 and part.class_names == ("0", "1", "2")
    elements = list(part.dataset.as_numpy_iterator())
    assert [element["id"] for element in elements] == [0, 1, 2]
    assert [element["label"] for element in elements] == [2, 2, 1]
    assert [element["image"][0, 0, 0] for element in elements] == [2, 5, 7]
    batches = crops(part, epochs=3, batch_size=2)
    by_id = {
        int(example): int(image[0, 0, 0])
        for batch in batches
        for example, image in zip(batch["id"], batch["image"])
    }
    assert by_id == {0: 2, 1: 5, 2: 7}
    assert sorted(joined(batches, "id")) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@KINDS
def test_labels_are_read_by_id(kind):
    np.testing.assert_array_equal(labels_of(kind()), np.arange(10) % 3)


@pytest.mark.parametrize("most", [1, 3, 7, 10, 11, None])
def test_evenly_spread_takes_the_last_of_each_equal_stretch(most):
    taken = min(most or 10, 10)
    expected = [i for i in range(10) if (i + 1) * taken // 10 > i * taken // 10]
    np.testing.assert_array_equal(evenly_spread(10, most), expected)


@KINDS
def test_few_labels_of_a_set_are_read_twice_however_often_they_are_used(kind):
    reads = []

    def read(element):
        def count(example):
            reads.append(int(example))
            return example

        example = tf.numpy_function(count, [element["id"]], tf.int64)
        return {**element, "id": tf.ensure_shape(example, ())}

    source = dataclasses.replace(kind(), load=None, labels=None)
    counted = dataclasses.replace(source, dataset=source.dataset.map(read))
    part = balanced_subset(counted, 0.6, seed=0)
    kept, held = held_out(part, 0.5, seed=0)
    for _ in range(2):
        images = [joined(crops(half, epochs=3), "image") for half in (kept, held)]
    assert len(images[0]) == len(images[1]) == 9
    # Once for the labels, once for the images.
    assert sorted(reads) == sorted([*range(10), *range(10)])
    elements = part.dataset.as_numpy_iterator()
    assert [element["label"] for element in elements] == list(labels_of(part))


def test_images_held_in_memory_are_the_same():
    encoded = tf.data.Dataset.range(5).map(
        lambda number: {
            "image": tf.io.encode_png(tf.fill((2, 3, 3), tf.cast(number, tf.uint8))),
            "id": number,
            "label": number % 2,
        }
    )
    ragged = tf.data.Dataset.range(5).map(
        lambda number: {
            "image": tf.fill((number + 1, 3, 3), tf.cast(number, tf.uint8)),
            "id": number,
            "label": number % 2,
        }
    )
    for dataset, channels in ((encoded, None), (ragged, 3)):
        source = Source(dataset, 5, 2, ("even", "odd"), channels=channels)
        held = read_once(source)
        for old, new in zip(dataset, held.dataset):
            for key, value in old.items():
                np.testing.assert_array_equal(new[key], value)
                assert new[key].dtype == value.dtype
        np.testing.assert_array_equal(held.labels, [0, 1, 0, 1, 0])
        assert held.load(tf.constant(3, tf.int64))["label"] == 1


def test_labels_of_a_folder_are_known_without_reading(tmp_path):
    write_images(tmp_path, 2)
    source = open_source("folder", "train", data_dir=str(tmp_path))
    for file in tmp_path.glob("*/*.png"):
        file.unlink()
    np.testing.assert_array_equal(labels_of(source), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(labels_of(subset(source, [5, 1])), [0, 2])


def test_batches_are_filled_up_to_the_replicas_with_weight_zero():
    dataset = labelled_batches(in_memory(), batch_size=4, image_size=12)
    filled = list(even_batches(dataset, 4).as_numpy_iterator())
    assert [len(batch["id"]) for batch in filled] == [4, 4, 4]
    np.testing.assert_array_equal(filled[2]["weight"], [1, 1, 0, 0])
    np.testing.assert_array_equal(filled[2]["id"][:2], [8, 9])
    kept = joined(filled, "weight") > 0
    np.testing.assert_array_equal(joined(filled, "id")[kept], np.arange(10))
    assert filled[2]["image"].shape == (4, 12, 12, 3)
