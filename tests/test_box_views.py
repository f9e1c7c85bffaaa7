"""Training views move boxes with their pixels; whole images say the way back."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from voc_folder import FILL, annotation, make_voc

import moco_tf
from moco_tf.data.box_views import training_boxes, whole_images
from moco_tf.data.boxes import open_boxes


@pytest.fixture
def rectangles(tmp_path):
    """One white rectangle on black an image, which shows where its box must be."""
    root = tmp_path / "rectangles"
    make_voc(root, 8, 1)
    rng = np.random.default_rng(1)
    for number in range(8):
        height, width = rng.integers(60, 120, 2)
        image = np.zeros((height, width, 3), np.uint8)
        left, top = rng.integers(0, (width - 30, height - 30))
        box = (int(left), int(top), int(left) + 30, int(top) + 25)
        image[box[1] : box[3], box[0] : box[2]] = 255
        key = f"train{number:03d}"
        Image.fromarray(image).save(root / "JPEGImages" / f"{key}.jpg", quality=98)
        text = annotation([("square", box)])
        (root / "Annotations" / f"{key}.xml").write_text(text)
    return open_boxes("folder", data_dir=root)


def bright(image):
    """Left, top, right, bottom of what is bright; None where nothing is."""
    rows, columns = np.nonzero(image.min(axis=-1) > 127)
    if not len(rows):
        return None
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def views(source, **kwargs):
    arguments = dict(batch_size=4, image_size=96, fill=(0, 0, 0))
    return training_boxes(source, **{**arguments, **kwargs})


def test_random_views_move_boxes_with_their_pixels(rectangles):
    places, kept = set(), 0
    for batch in views(rectangles, scale_jitter=(0.5, 2.0)).take(30):
        assert batch["image"].shape == (4, 96, 96, 3)
        for image, boxes, classes in zip(
            batch["image"].numpy(), batch["boxes"].numpy(), batch["classes"].numpy()
        ):
            boxes, seen = boxes[classes >= 0], bright(image)
            assert len(boxes) <= 1 and set(classes) <= {-1.0, 0.0}
            if len(boxes):
                np.testing.assert_allclose(boxes[0], seen, atol=1.6)
                places.add(tuple(np.round(boxes[0])))
                kept += 1
            elif seen is not None:  # a rest of a box whose centre was cut off
                assert min(seen[0], seen[1], 96 - seen[2], 96 - seen[3]) <= 0
    assert kept > 60 and len(places) > 40


def test_flip_happens_half_the_time():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 255
    source = moco_tf.data.from_arrays(np.stack([image] * 50))
    empty = {"boxes": tf.zeros((0, 4)), "label": tf.zeros(0, tf.int64)}
    load = source.load
    source = source.__class__(
        source.dataset, 50, load=lambda i: {**load(i), **empty}, channels=3
    )
    batches = views(source, batch_size=50, image_size=32, scale_jitter=(1, 1)).take(20)
    flipped = np.concatenate([batch["image"][:, 0, 0, 0] == 0 for batch in batches])
    assert 0.45 < flipped.mean() < 0.55


def test_views_depend_on_their_seed_alone(rectangles):
    def first(seed):
        return [
            batch["image"].numpy() for batch in views(rectangles, seed=seed).take(3)
        ]

    np.testing.assert_array_equal(first(0), first(0))
    assert not np.array_equal(first(0), first(1))


def test_rest_of_the_square_is_filled_and_absent_boxes_lie_outside(rectangles):
    batch = next(iter(views(rectangles, fill=FILL, scale_jitter=(0.3, 0.3))))
    for image in batch["image"].numpy():
        ground = np.all(image == FILL, axis=-1)
        assert 96 * 96 - ground.sum() <= 30 * 30
    absent = batch["boxes"].numpy()[batch["classes"].numpy() < 0]
    assert len(absent) == 4 and np.all(absent == (-2, -2, -1, -1))


def test_whole_images_keep_order_and_say_how_to_go_back(voc):
    root, truth = voc
    source = open_boxes("folder", "test", data_dir=root)
    batches = whole_images(source, batch_size=4, image_size=64, fill=FILL)
    batches = list(batches.as_numpy_iterator())
    assert [len(batch["id"]) for batch in batches] == [4, 2]
    number = 0
    for batch in batches:
        for image, scale, size in zip(batch["image"], batch["scale"], batch["size"]):
            key = f"test{number:03d}"
            with Image.open(root / "JPEGImages" / f"{key}.jpg") as file:
                original = file.convert("RGB")
            assert tuple(size[::-1]) == original.size
            sides = np.round(scale * original.size).astype(int)
            assert max(sides) == 64
            assert np.all(image[sides[1] :] == FILL)
            assert np.all(image[:, sides[0] :] == FILL)
            expected = np.asarray(original.resize(tuple(sides), Image.BILINEAR))
            part = image[: sides[1], : sides[0]].astype(int)
            assert np.abs(part - expected).max() <= 4
            number += 1
