"""Class-balanced parts of a labelled source, and what is held out of it."""

import numpy as np
import pytest
from coloured import coloured, source_of, streamed

from moco_tf.data import DataError, from_arrays
from moco_tf.data.balanced import balanced_subset, held_out
from moco_tf.data.labelled import labels_of


@pytest.mark.parametrize("form", [lambda source: source, streamed])
def test_subset_has_equally_many_of_each_class(form):
    images, _ = coloured(60)
    labels = np.array([0] * 40 + [1] * 15 + [2] * 5)
    source = form(from_arrays(images, labels, ("red", "green", "blue")))
    part = balanced_subset(source, 0.2, seed=0)
    assert part.num_examples == 12
    np.testing.assert_array_equal(np.bincount(labels_of(part)), [4, 4, 4])
    # A class that has fewer gives all it has.
    part = balanced_subset(source, 0.4, seed=0)
    np.testing.assert_array_equal(np.bincount(labels_of(part)), [8, 8, 5])
    assert part.class_names == source.class_names
    assert balanced_subset(source, 1.0, seed=0) is source


def test_subset_depends_on_its_seed_alone():
    source = source_of(60)

    def pixels(seed):
        part = balanced_subset(source, 0.2, seed)
        elements = part.dataset.as_numpy_iterator()
        return np.stack([element["image"] for element in elements])

    np.testing.assert_array_equal(pixels(0), pixels(0))
    assert not np.array_equal(pixels(0), pixels(1))


def test_held_out_part_is_apart_and_has_every_class():
    source = source_of(33)
    kept, held = held_out(source, 0.2, seed=0)
    assert (kept.num_examples, held.num_examples) == (27, 6)
    np.testing.assert_array_equal(np.bincount(labels_of(held)), [2, 2, 2])
    images = [
        {element["image"].tobytes() for element in part.dataset.as_numpy_iterator()}
        for part in (kept, held, source)
    ]
    assert not images[0] & images[1]
    assert images[0] | images[1] == images[2]


def test_subsets_explain_what_is_too_small():
    source = source_of(60)
    with pytest.raises(DataError, match="fraction=0.02 of 60 .* use 0.05 or more"):
        balanced_subset(source, 0.02, seed=0)
    images, labels = coloured(6)
    lacking = from_arrays(images, labels % 2, ("red", "green", "blue"))
    with pytest.raises(DataError, match="no image of the class 'blue'"):
        balanced_subset(lacking, 0.5, seed=0)
    with pytest.raises(DataError, match="'red' has one training image"):
        held_out(source_of(3), 0.2, seed=0)
