import time

import numpy as np
import pytest

from moco_tf.data import DataError, glyphs
from moco_tf.data.sources.glyphs import COUNTS, NAMES, draw_glyphs


def knn(train, train_labels, test, test_labels, k=200, temperature=0.1):
    """A plain weighted vote by the cosine of pixels / 255."""

    def rows(images):
        flat = images.reshape(len(images), -1).astype(np.float32) / 255
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    similarity = rows(test) @ rows(train).T
    nearest = np.argpartition(-similarity, k, axis=1)[:, :k]
    weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / temperature)
    votes = np.stack(
        [(weight * (train_labels[nearest] == c)).sum(1) for c in range(len(NAMES))], 1
    )
    return (votes.argmax(1) == test_labels).mean()


def test_splits_have_the_stated_size_and_equal_classes():
    for split, count in COUNTS.items():
        source = glyphs(split)
        images, labels = draw_glyphs(split)
        assert source.num_examples == count == len(images)
        assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
        assert source.class_names == NAMES and source.num_classes == len(NAMES) == 10
        assert np.ptp(np.bincount(labels, minlength=10)) <= 1


def test_drawing_is_quick_and_repeats_exactly():
    draw_glyphs.cache_clear()
    started = time.perf_counter()
    images, labels = draw_glyphs("train")
    assert time.perf_counter() - started < 5.0
    draw_glyphs.cache_clear()
    again, labels_again = draw_glyphs("train")
    assert np.array_equal(images, again) and np.array_equal(labels, labels_again)


def test_splits_and_seeds_differ():
    train, test = draw_glyphs("train")[0], draw_glyphs("test")[0]
    assert not {image.tobytes() for image in train} & {i.tobytes() for i in test}
    assert not np.array_equal(test, draw_glyphs("test", seed=1)[0])


def test_raw_pixels_tell_something_but_not_the_class():
    accuracy = knn(*draw_glyphs("train"), *draw_glyphs("test"))
    assert 0.25 < accuracy < 0.65


def test_ground_and_colour_do_not_tell_the_class():
    images, labels = draw_glyphs("train")
    dark = images.max(axis=-1) < 40
    grounds = (images.mean(-1) * dark).sum((1, 2)) / dark.sum((1, 2))
    by_class = [grounds[labels == c].mean() for c in range(10)]
    assert np.ptp(by_class) < 0.5 * grounds.std()
    tints = images.astype(np.float32).mean((1, 2))
    tints -= tints.mean(1, keepdims=True)
    assert np.abs(tints).max() < 3.0


def test_shapes_of_every_class_stand_out_from_a_dark_ground():
    images, labels = draw_glyphs("train")
    grey = images.astype(np.float32).mean(-1).reshape(len(images), -1)
    contrast = np.percentile(grey, 97, axis=1) - np.percentile(grey, 3, axis=1)
    for label in range(10):
        assert np.percentile(contrast[labels == label], 1) > 80


def test_unknown_split_is_named():
    with pytest.raises(DataError, match="split='valid'.*train or test"):
        glyphs("valid")
