"""Detection: VOC folders, views with boxes, average precision, RetinaNet, command."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from PIL import Image
from tensorflow import keras

import evaluate
import moco_tf
from moco_tf.config.transfer import Detect
from moco_tf.data import DataError
from moco_tf.data.box_views import training_boxes, whole_images
from moco_tf.data.boxes import joined, open_boxes
from moco_tf.evaluation.average_precision import Boxes, average_precision
from moco_tf.evaluation.detection import (
    Detector,
    build_detector,
    compile_detector,
    true_boxes,
)

FILL = (100, 110, 120)
NAMES = ("disc", "square", "stripes")


# A made VOC set


def draw(rng, objects):
    """An image of bright shapes on dark noise, and its (name, box) list."""
    height, width = rng.integers(80, 129, 2)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    boxes = []
    for _ in range(objects):
        side = int(rng.integers(32, 48))
        left, top = rng.integers(0, (width - side, height - side))
        if any(abs(left - b[0]) < 48 and abs(top - b[1]) < 48 for _, b in boxes):
            continue
        name = NAMES[rng.integers(len(NAMES))]
        rows, columns = np.mgrid[:side, :side]
        middle = (side - 1) / 2
        mask = {
            "disc": (rows - middle) ** 2 + (columns - middle) ** 2 <= side**2 / 4,
            "square": rows >= 0,
            "stripes": rows // 4 % 2 == 0,
        }[name]
        part = image[top : top + side, left : left + side]
        part[mask] = {"disc": (250, 80, 80), "square": (80, 250, 80)}.get(
            name, (240, 240, 240)
        )
        boxes.append((name, (int(left), int(top), int(left) + side, int(top) + side)))
    return image, boxes


def annotation(objects, difficult=()):
    parts = [
        f"<object><name>{name}</name><difficult>{int(i in difficult)}</difficult>"
        f"<bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for i, (name, box) in enumerate(objects)
    ]
    return f"<annotation>{''.join(parts)}</annotation>"


def make_voc(root, train, test, seed=0):
    rng = np.random.default_rng(seed)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    truth = {}
    for split, count in (("train", train), ("test", test)):
        ids = [f"{split}{number:03d}" for number in range(count)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for key in ids:
            image, truth[key] = draw(rng, rng.integers(1, 3))
            file = root / "JPEGImages" / f"{key}.jpg"
            Image.fromarray(image).save(file, quality=95)
            text = annotation(truth[key])
            (root / "Annotations" / f"{key}.xml").write_text(text)
    return truth


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc") / "VOC2007"
    return root, make_voc(root, 12, 6)


@pytest.fixture
def broken(tmp_path):
    make_voc(tmp_path / "VOC2007", 3, 2)
    return tmp_path / "VOC2007"


def test_folder_is_read_as_its_files_say(voc):
    root, truth = voc
    source = open_boxes("folder", data_dir=root)
    assert source.class_names == NAMES and source.num_examples == 12
    elements = list(source.dataset.as_numpy_iterator())
    for key, element in zip(sorted(truth)[6:], elements):
        names = [NAMES[label] for label in element["label"]]
        assert list(zip(names, map(tuple, element["boxes"]))) == truth[key]
        file = (root / "JPEGImages" / f"{key}.jpg").read_bytes()
        assert element["image"] == file
        assert not element["difficult"].any()
    again = source.load(tf.constant(7, tf.int64))
    np.testing.assert_array_equal(again["boxes"], elements[7]["boxes"])


def test_trainval_is_preferred_and_difficult_is_kept(broken):
    lists, annotations = broken / "ImageSets" / "Main", broken / "Annotations"
    (lists / "trainval.txt").write_text("train000\ntest001\n")
    objects = [("disc", (0, 0, 9, 9)), ("square", (1, 2, 3, 4))]
    (annotations / "test001.xml").write_text(annotation(objects, difficult={1}))
    source = open_boxes("folder", data_dir=broken)
    assert source.num_examples == 2
    last = list(source.dataset.as_numpy_iterator())[1]
    np.testing.assert_array_equal(last["difficult"], [False, True])
    np.testing.assert_array_equal(last["boxes"][1], [1, 2, 3, 4])


def test_joined_sources_count_on_and_need_the_same_classes(voc, tmp_path):
    root, _ = voc
    train = open_boxes("folder", "train", data_dir=root)
    test = open_boxes("folder", "test", data_dir=root)
    both = joined(train, test)
    ids = [element["id"] for element in both.dataset.as_numpy_iterator()]
    assert ids == list(range(18)) and both.num_examples == 18
    # A source that only streams is shuffled and trained on as well.
    batches = list(views(both, batch_size=6).take(3).as_numpy_iterator())
    count = sum((batch["classes"] >= 0).sum() for batch in batches)
    assert count > 18 * 0.7
    make_voc(tmp_path / "other", 1, 1)
    for path in (tmp_path / "other" / "Annotations").iterdir():
        path.write_text(annotation([("tree", (0, 0, 9, 9))]))
    other = open_boxes("folder", "train", data_dir=tmp_path / "other")
    with pytest.raises(DataError, match="3 classes and the second one 1; disc"):
        joined(train, other)


@pytest.mark.parametrize(
    "name, config, first", [("scenes", None, 0), ("voc", "2007", 1)]
)
def test_tfds_boxes_are_pixels_and_voc_counts_from_one(tmp_path, name, config, first):
    tfds = pytest.importorskip("tensorflow_datasets")
    objects = {
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(names=NAMES),
        "is_difficult": np.bool_,
    }
    features = {
        "image": tfds.features.Image(),
        "objects": tfds.features.Sequence(objects),
    }
    if name == "voc":  # what TFDS knows of the set must be on disk
        features = tfds.builder_cls("voc")(config=config).info.features
        objects = features["objects"].feature

    def example(count):
        corners = np.tile(np.float32([[0.25, 0.5, 0.75, 1.0]]), (count, 1))
        values = {key: np.zeros(count, np.int64) for key in objects}
        values.update(bbox=corners, label=np.full(count, 2))
        values["is_difficult"] = np.full(count, count == 1)
        if "is_truncated" in objects:
            values["is_truncated"] = np.zeros(count, bool)
        unused = {"image/filename": "x.jpg", "labels": [], "labels_no_difficult": []}
        return {
            "image": np.zeros((40, 80, 3), np.uint8),
            "objects": values,
            **{key: unused[key] for key in features if key in unused},
        }

    features = tfds.features.FeaturesDict(dict(features.items()))
    spec = features.get_tensor_spec()
    dataset = tf.data.Dataset.from_generator(
        lambda: map(example, range(3)), output_signature=spec
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version="5.0.0",
        features=features,
        split_datasets={"train": dataset},
        config=config,
        data_dir=tmp_path,
    )
    full_name = f"{name}/{config}" if config else name
    source = open_boxes("tfds", "train", name=full_name, data_dir=tmp_path)
    elements = list(source.dataset.as_numpy_iterator())
    assert source.num_examples == 3
    assert sorted(len(element["boxes"]) for element in elements) == [0, 1, 2]
    for element in elements:
        for box, label in zip(element["boxes"], element["label"]):
            np.testing.assert_allclose(box, [40 - first, 10 - first, 80, 30])
            assert label == 2
        assert element["difficult"].tolist() in ([], [True], [False, False])


def _remove_image(root):
    (root / "JPEGImages" / "train001.jpg").unlink()


def _remove_annotation(root):
    (root / "Annotations" / "train001.xml").unlink()


def _write(text):
    def change(root):
        (root / "Annotations" / "train001.xml").write_text(text)

    return change


def _empty_all(root):
    for path in (root / "Annotations").iterdir():
        path.write_text("<annotation/>")


def _remove_lists(root):
    for path in (root / "ImageSets" / "Main").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "change, message",
    [
        (_remove_image, "train001.xml has no image .*train001.jpg"),
        (_remove_annotation, "'train001' is listed .*train001.xml is missing"),
        (_write("<annotation><object>"), "train001.xml is not a VOC annotation"),
        (_write("<a><object><name>x</name></object></a>"), "a name and a bndbox"),
        (_write(annotation([("disc", (5, 5, 5, 9))])), "a disc whose bndbox is empty"),
        (_empty_all, "None of the 3 images of split 'train' .* has a box"),
        (_remove_lists, "split='train' is not in .*which has none"),
    ],
)
def test_broken_folder_is_explained_in_one_sentence(broken, change, message):
    change(broken)
    with pytest.raises(DataError, match=message) as caught:
        open_boxes("folder", data_dir=broken)
    assert "\n" not in str(caught.value)


def test_other_places_are_explained(tmp_path, shared_data):
    with pytest.raises(DataError, match="has no ImageSets/Main"):
        open_boxes("folder", data_dir=tmp_path)
    place = shared_data / "tensorflow_datasets"
    with pytest.raises(DataError, match="cifar10.* has no feature 'objects'"):
        open_boxes("tfds", name="cifar10", data_dir=place)


# Views


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


# Average precision


def random_boxes(rng, count):
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 40, (count, 2))], axis=1)


def random_detections(seed=0):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(25):
        count = int(rng.integers(0, 4))
        boxes, labels = random_boxes(rng, count), rng.integers(0, 3, count)
        truth.append(Boxes(number, boxes, labels, rng.random(count) < 0.2))
        near = boxes + rng.normal(0, 1.5, boxes.shape)
        extra = int(rng.integers(0, 3))
        found.append(
            Boxes(
                number,
                np.concatenate([near, random_boxes(rng, extra)]),
                np.concatenate([labels, rng.integers(0, 3, extra)]),
                scores=rng.random(count + extra),
            )
        )
    return truth, found


def test_average_precision_equals_pycocotools_called_directly(tmp_path, capsys):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = random_detections()

    def coco_boxes(image, **more):
        for row, (left, top, right, bottom) in enumerate(image.boxes):
            sides = [float(right - left), float(bottom - top)]
            yield {
                "image_id": image.id,
                "category_id": int(image.labels[row]) + 1,
                "bbox": [float(left), float(top), *sides],
                "area": sides[0] * sides[1],
                **{key: values[row] for key, values in more.items()},
            }

    annotations = [
        {"id": 1 + number, **item}
        for number, item in enumerate(
            item
            for image in truth
            for item in coco_boxes(image, iscrowd=image.difficult.astype(int).tolist())
        )
    ]
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": number} for number in range(25)],
                "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)],
                "annotations": annotations,
            }
        )
    )
    (tmp_path / "found.json").write_text(
        json.dumps(
            [i for image in found for i in coco_boxes(image, score=list(image.scores))]
        )
    )
    coco = COCO(str(tmp_path / "truth.json"))
    oracle = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    capsys.readouterr()
    figures = average_precision(truth, found, NAMES)
    assert [figures[name] for name in ("AP", "AP50", "AP75")] == list(oracle.stats[:3])
    of_class = list(figures["AP50_of_class"].values())
    assert np.mean(of_class) == pytest.approx(figures["AP50"], rel=1e-12)
    assert 0.1 < figures["AP75"] < figures["AP50"] < 0.95
    assert capsys.readouterr().out == ""


def test_average_precision_by_hand():
    pytest.importorskip("pycocotools")
    square = np.array([[0.0, 0, 10, 10]])
    truth = [Boxes(0, square, [0]), Boxes(1, square, [0])]
    # Best first: found, wrong place, found at an overlap of 0.6.
    found = [
        Boxes(
            0, np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), [0, 0], None, [0.9, 0.8]
        ),
        Boxes(1, np.array([[0.0, 0, 10, 6]]), [0], None, [0.7]),
    ]
    figures = average_precision(truth, found, NAMES)
    # Of 101 recalls 51 have precision 1, and at 0.5 the other 50 have 2/3.
    half, rest = 51 / 101, 50 / 101 * 2 / 3
    assert figures["AP50"] == pytest.approx(half + rest)
    assert figures["AP75"] == pytest.approx(half)
    # Overlaps 0.5, 0.55 and 0.6 count the second.
    assert figures["AP"] == pytest.approx(half + 0.3 * rest)
    assert figures["AP50_of_class"] == {
        "disc": pytest.approx(half + rest),
        "square": None,
        "stripes": None,
    }


def test_difficult_boxes_neither_cost_nor_earn():
    pytest.importorskip("pycocotools")
    pair = np.array([[0.0, 0, 10, 10], [40, 40, 50, 50]])
    truth = [Boxes(0, pair, [0, 0], np.array([False, True]))]
    one = [Boxes(0, pair[:1], [0], None, [0.5])]
    both = [Boxes(0, pair, [0, 0], None, [0.5, 0.9])]
    for found in (one, both):
        assert average_precision(truth, found, NAMES)["AP"] == pytest.approx(1)
    truth = [Boxes(0, pair, [0, 0], np.array([False, False]))]
    assert average_precision(truth, one, NAMES)["AP50"] < 0.6


def test_nothing_found_is_zero_and_nothing_to_find_an_error():
    pytest.importorskip("pycocotools")
    square = np.array([[0.0, 0, 10, 10]])
    truth = [Boxes(0, square, [1])]
    nothing = [Boxes(0, np.zeros((0, 4)), [], None, [])]
    figures = average_precision(truth, nothing, NAMES)
    assert figures == {
        "AP": 0.0,
        "AP50": 0.0,
        "AP75": 0.0,
        "AP50_of_class": {"disc": None, "square": 0.0, "stripes": None},
    }
    with pytest.raises(ValueError, match="None of the 1 test images has a box"):
        average_precision([Boxes(0, square, [1], np.array([True]))], nothing, NAMES)


# The detector


def resnet(**kwargs):
    settings = {"block": "basic", "width": 8, **kwargs}
    return moco_tf.encoders.ResNet((1, 1, 1, 1), **settings)


def training_batch(source, count, side=64):
    """Normalised images and boxes, as `fit` takes them."""
    batch = next(iter(views(source, batch_size=count, image_size=side)))
    images = tf.cast(batch["image"], tf.float32) / 128 - 1
    return images, {"boxes": batch["boxes"], "classes": batch["classes"]}


def quick(**kwargs):
    return Detect(
        **{"batch_size": 2, "steps": 9, "warmup_steps": 0, "milestones": (), **kwargs}
    )


@pytest.mark.parametrize(
    "stem, strides", [("imagenet", (8, 16, 32, 64, 128)), ("cifar", (2, 4, 8, 16, 32))]
)
def test_anchors_follow_the_strides_of_the_backbone(stem, strides):
    encoder = resnet(stem=stem, width=4)
    model = build_detector(encoder, 3)
    anchors = model.anchor_generator(image_shape=(64, 64, 3))
    cells = [max(1, 64 // stride) ** 2 for stride in strides]
    assert [len(level) for level in anchors.values()] == [9 * cell for cell in cells]
    predictions = model(tf.zeros((1, 64, 64, 3)))
    assert predictions["box"].shape == (1, 9 * sum(cells), 4)
    assert predictions["classification"].shape == (1, 9 * sum(cells), 3)
    generators = model.anchor_generator.anchor_generators.values()
    assert [one.sizes for one in generators] == [4 * stride for stride in strides]


def test_detector_copies_the_encoder_or_starts_anew():
    encoder = resnet(width=4)
    encoder.get_layer("bn1").groups = 8
    kernel = encoder.get_layer("conv1").get_weights()[0]
    levels = dict(encoder.pyramid_level_inputs)
    for pretrained in (True, False):
        backbone = build_detector(encoder, 2, pretrained).backbone
        own = backbone.get_layer("conv1").get_weights()[0]
        assert np.array_equal(own, kernel) == pretrained
        assert backbone is not encoder and backbone.get_layer("bn1").groups == 1
    assert encoder.pyramid_level_inputs == levels


def test_mixed_precision_stays_in_the_backbone(policy):
    policy("mixed_bfloat16")
    model = build_detector(resnet(width=4), 2)
    assert model.backbone.get_layer("conv1").compute_dtype == "bfloat16"
    assert keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    for prediction in model(tf.zeros((1, 32, 32, 3))).values():
        assert prediction.dtype == tf.float32


def test_encoder_without_pyramid_is_explained():
    flat = keras.Sequential([keras.layers.GlobalAveragePooling2D()], name="flat")
    with pytest.raises(ValueError, match="'flat' has no pyramid .*use a ResNet"):
        build_detector(flat, 2)


def test_loss_falls_also_where_images_have_no_boxes(voc):
    keras.utils.set_random_seed(0)
    root, _ = voc
    images, boxes = training_batch(open_boxes("folder", data_dir=root), 4)
    without = tf.concat([boxes["classes"][:2] * 0 - 1, boxes["classes"][2:]], axis=0)
    boxes["boxes"] = tf.where(
        without[..., None] < 0, [-2.0, -2, -1, -1], boxes["boxes"]
    )
    boxes["classes"] = without
    encoder = resnet()
    model = build_detector(encoder, 3)
    before, start = encoder.get_weights(), model.backbone.get_weights()
    compile_detector(model, quick(learning_rate=0.1))
    dataset = tf.data.Dataset.from_tensors((images, boxes)).repeat()
    history = model.fit(dataset, epochs=4, steps_per_epoch=3, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["box_loss"][-1] < history["box_loss"][0]
    # End to end: every weight of the backbone moves, the encoder itself stays.
    for old, new in zip(start, model.backbone.get_weights()):
        assert not np.array_equal(old, new)
    for old, new in zip(before, encoder.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_two_replicas_of_the_same_images_learn_as_one(voc):
    root, _ = voc
    batch = training_batch(open_boxes("folder", data_dir=root), 2, side=32)
    twice = tf.nest.map_structure(lambda value: tf.concat([value, value], 0), batch)
    encoder, results, weights = resnet(width=2), [], None
    for replicas, data in ((1, batch), (2, twice)):
        with mirrored(replicas).scope():
            model = build_detector(encoder, 3)
            weights = weights or model.get_weights()
            model.set_weights(weights)
            # The rate per image is what the settings scale.
            compile_detector(model, quick(batch_size=16))
        model.fit(
            tf.data.Dataset.from_tensors(data).repeat(), steps_per_epoch=2, verbose=0
        )
        results.append([value.numpy() for value in model.trainable_variables])
    moved = np.abs(results[0][0] - weights[0]).max()
    for one, two in zip(*results):
        np.testing.assert_allclose(one, two, atol=1e-2 * moved)


class KnownBoxes:
    """Stands for a detector that finds the same boxes in every image."""

    def __call__(self, images, training):
        return tf.shape(images)[0]

    def decode_predictions(self, count, images):
        found = {
            "boxes": [[8.0, 4, 16, 12], [-5, -5, 999, 999], [0, 0, 0, 0]],
            "classes": [1.0, 0, -1],
            "confidence": [0.9, 0.4, -1],
        }
        found = {key: tf.repeat([value], count, 0) for key, value in found.items()}
        return {**found, "num_detections": tf.fill([count], 2)}


def test_found_boxes_are_in_pixels_of_the_image_itself(voc):
    root, _ = voc
    source = open_boxes("folder", "test", data_dir=root)
    batches = whole_images(source, batch_size=4, image_size=32, fill=FILL)
    found = list(Detector(KnownBoxes(), lambda x: x).find(batches))
    assert [boxes.id for boxes in found] == list(range(6))
    for boxes in found:
        with Image.open(root / "JPEGImages" / f"test{boxes.id:03d}.jpg") as image:
            width, height = image.size
        ratio = max(width, height) / 32
        expected = ratio * np.array([8, 4, 16, 12])
        np.testing.assert_allclose(boxes.boxes[0], expected, rtol=0.02)
        np.testing.assert_array_equal(boxes.boxes[1], [0, 0, width, height])
        np.testing.assert_array_equal(boxes.labels, [1, 0])
        np.testing.assert_allclose(boxes.scores, [0.9, 0.4])


def test_true_boxes_of_all_images_are_collected(voc):
    root, truth = voc
    boxes = true_boxes(open_boxes("folder", "test", data_dir=root))
    assert [one.id for one in boxes] == list(range(6))
    for one, key in zip(boxes, sorted(truth)):
        assert [tuple(box) for box in one.boxes] == [box for _, box in truth[key]]


# The command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "saved"
    moco_tf.interchange.export_saved_model(
        resnet(),
        path,
        image_size=64,
        resize=64,
        mean=(0.4, 0.4, 0.4),
        std=(0.25, 0.25, 0.25),
        provenance={"recipe": "test"},
    )
    return path


def words(saved, root, out, *more):
    data = ("--data.source=folder", f"--data.data_dir={root}", "--image_size=64")
    small = ("--steps=4", "--evaluations=2", "--batch_size=4", "--warmup_steps=1")
    return [
        "detect",
        str(saved),
        *data,
        *small,
        "--milestones=[3]",
        f"--out={out}",
        *more,
    ]


def test_command_writes_results_of_encoder_and_control(saved, voc, tmp_path, capsys):
    pytest.importorskip("pycocotools")
    out = tmp_path / "out"
    more = ("--distribution.replicas=2", "--precision=mixed_bfloat16")
    assert evaluate.main(words(saved, voc[0], out, *more)) == 0
    document = json.loads((out / "results.json").read_text())
    assert document["protocol"] == "detect" and "Faster R-CNN" in document["warning"]
    assert [arm["start"] for arm in document["arms"]] == ["pretrained", "from scratch"]
    for arm in document["arms"]:
        assert [one["step"] for one in arm["measured"]] == [2, 4]
        assert len(arm["loss"]) == 2
    assert set(document["figures"]) == {"AP", "AP50", "AP75", "from scratch AP"}
    assert len((out / "results.csv").read_text().splitlines()) == 5
    for name in ("curves", "classes"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert "AP50" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, message",
    [
        (["--image_size=100"], "image_size=100 must be a multiple of 32.*use 96"),
        (["--steps=5"], "evaluations=2 does not divide steps=5"),
        (
            ["--batch_size=3", "--distribution.replicas=2"],
            "batch_size=3 does not give 2",
        ),
        (["--batch_size=40"], "batch_size=40 is more than the 12 examples"),
        (["--data.test_split=val"], "split='val' is not in .*which has test, train"),
        (["--data.data_dir=/nowhere"], "has no ImageSets/Main"),
        (
            ["--evaluations=1", "--learning_rate=1e30"],
            "loss is not finite: learning_rate=1e.30",
        ),
    ],
)
def test_command_explains_bad_input(saved, voc, tmp_path, capsys, more, message):
    pytest.importorskip("pycocotools")
    out = tmp_path / "out"
    assert evaluate.main(words(saved, voc[0], out, "--control=false", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not out.exists()


def test_test_images_that_are_all_difficult_are_explained(saved, broken, capsys):
    pytest.importorskip("pycocotools")
    for path in (broken / "Annotations").glob("test*.xml"):
        path.write_text(annotation([("disc", (0, 0, 9, 9))], difficult={0}))
    assert evaluate.main(words(saved, broken, broken / "out")) == 2
    assert "'test' has no boxes to find" in capsys.readouterr().err


@pytest.mark.slow
def test_detection_of_made_shapes_is_learnt(saved, tmp_path):
    pytest.importorskip("pycocotools")
    root, out = tmp_path / "VOC2007", tmp_path / "out"
    make_voc(root, 48, 24)
    more = (
        "--image_size=128",
        "--steps=120",
        "--evaluations=3",
        "--batch_size=8",
        "--learning_rate=0.04",
        "--warmup_steps=20",
        "--milestones=[100]",
        "--control=false",
    )
    assert evaluate.main(words(saved, root, out, *more)) == 0
    document = json.loads((out / "results.json").read_text())
    curve = [one["AP50"] for one in document["arms"][0]["measured"]]
    assert curve[-1] > 0.5 and curve[-1] > curve[0]
