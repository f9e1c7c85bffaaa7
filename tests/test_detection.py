"""The detector: its backbone and anchors, its training, the boxes that it finds."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from PIL import Image
from tensorflow import keras
from voc_folder import FILL

import moco_tf
from moco_tf.data.box_views import training_boxes, whole_images
from moco_tf.data.boxes import open_boxes
from moco_tf.evaluation.detection.detector import (
    Detector,
    build_detector,
    compile_detector,
    largest_object,
    true_boxes,
)
from moco_tf.evaluation.detection.settings import Detect


def resnet(**kwargs):
    settings = {"block": "basic", "width": 8, **kwargs}
    return moco_tf.encoders.ResNet((1, 1, 1, 1), **settings)


def training_batch(source, count, side=64):
    """Normalised images and boxes, as `fit` takes them."""
    views = training_boxes(source, batch_size=count, image_size=side, fill=(0, 0, 0))
    batch = next(iter(views))
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


@pytest.mark.parametrize("stem, fits", [("imagenet", 1149), ("cifar", 287)])
def test_largest_object_overlaps_an_anchor_by_half_and_a_larger_one_does_not(
    stem, fits
):
    encoder = resnet(stem=stem, width=4)
    assert largest_object(encoder) == fits
    model = build_detector(encoder, 3)
    for generator in model.anchor_generator.anchor_generators.values():
        for scale in generator.scales:
            greatest = (generator.sizes * scale) ** 2
    assert greatest / fits**2 >= 0.5 > greatest / (fits + 1) ** 2


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
