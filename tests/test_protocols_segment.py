"""`evaluate.py segment`: masks in their places, the classifier of pixels, mistakes."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pretrained_runs import write_run

import moco_tf
from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import ConfigError
from moco_tf.data import DataError, from_arrays
from moco_tf.data.box_views import whole_images
from moco_tf.data.sources.masks import IGNORED, open_voc_masks, read_masks
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.segmentation.probe import PixelClassifier, overlaps
from moco_tf.interchange import export_saved_model


def write_masks(root, train=8, test=4, seed=0):
    """Stripes that lie or stand, 1 and 2, on grey noise, 0; a palette like VOC's."""
    random = np.random.default_rng(seed)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in (("train", train), ("val", test)):
        names = [f"{split}_{number}" for number in range(count)]
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for number, name in enumerate(names):
            image = random.integers(90, 130, (48, 64, 3)).astype(np.uint8)
            mask = np.zeros((48, 64), np.uint8)
            kind, left = 1 + number % 2, int(random.integers(0, 32))
            stripes = np.indices((32, 32))[kind - 1] // 2 % 2 * 255
            image[8:40, left : left + 32] = stripes[..., None]
            mask[8:40, left : left + 32] = kind
            mask[8, left : left + 32] = IGNORED
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg")
            picture = Image.fromarray(mask, mode="P")
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 759)
            picture.save(root / "SegmentationClass" / f"{name}.png")
    return root


def test_masks_lie_where_their_images_do(tmp_path):
    # An image whose pixels are its mask, scaled by a whole number: both must agree.
    mask = np.kron(np.arange(6).reshape(2, 3), np.ones((8, 8), int)).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    source = from_arrays(40 * mask[None, ..., None])
    (batch,) = whole_images(source, batch_size=1, image_size=48, fill=[255])
    image = batch["image"].numpy()[0, ..., 0]
    (found,) = read_masks([tmp_path / "mask.png"], 48)
    np.testing.assert_array_equal(found == IGNORED, image == 255)
    inside = image != 255
    assert inside.sum() == 48 * 32
    # But where bilinear enlargement mixes neighbours.
    assert np.mean(40 * found[inside] == image[inside]) > 0.8


def test_overlap_of_each_class_is_that_of_sets_of_pixels():
    random = np.random.default_rng(0)
    truth, guess = random.integers(0, 3, (2, 500))
    confusion = np.zeros((4, 4), int)
    for one, other in zip(truth, guess):
        confusion[one, other] += 1
    for number in range(3):
        here, there = (
            set(np.flatnonzero(truth == number)),
            set(np.flatnonzero(guess == number)),
        )
        expected = len(here & there) / len(here | there)
        assert overlaps(confusion)[number] == pytest.approx(expected)
    assert np.isnan(overlaps(confusion)[3])


def test_classifier_learns_what_is_linear_and_leaves_out_ignored_pixels():
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, (12, 4, 4))
    maps = np.eye(3, dtype=np.float32)[classes] * 5 + 2
    masks = classes.repeat(8, 1).repeat(8, 2).astype(np.uint8)
    wrong = masks.copy()
    wrong[:, :16] = IGNORED
    classifier = PixelClassifier(maps, 3, seed=0)
    loss = classifier.fit(maps, wrong, epochs=60, batch_size=5, learning_rate=0.1)
    assert loss[-1] < 0.5 * loss[0]
    confusion = classifier.confusion(maps, wrong, 5)
    assert confusion.sum() == (wrong != IGNORED).sum()
    middles = classifier.logits(maps, 32).numpy().argmax(-1)[:, 4::8, 4::8]
    assert np.mean(middles == classes) > 0.95


def test_enlarged_logits_are_those_of_enlarged_features():
    random = np.random.default_rng(1)
    maps = random.normal(size=(2, 3, 3, 5)).astype(np.float32)
    classifier = PixelClassifier(maps, 4, seed=0)
    classifier.bias.assign([1.0, 2.0, 3.0, 4.0])
    enlarged = tf.image.resize(maps, (12, 12)).numpy()
    standard = (enlarged - maps.mean((0, 1, 2))) / maps.std((0, 1, 2))
    expected = standard @ classifier.weights.numpy() + classifier.bias.numpy()
    np.testing.assert_allclose(classifier.logits(maps, 12), expected, atol=1e-5)


def test_command_tells_stripes_apart(tmp_path, capsys):
    run, root = write_run(tmp_path), write_masks(tmp_path / "VOC [a]")
    words = ["segment", str(run), f"--data.data_dir={root}", "--image_size=64",
             "--epochs=30", "--batch_size=3", "--learning_rate=0.02"]  # fmt: skip
    results = evaluate(parse_evaluation(words))
    with open(run / "report" / "segment" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["class"]) for row in rows] == [
        (start, name) for start in ("pretrained", "from scratch") for name in "012"
    ]
    ious = [float(row["iou"]) for row in rows[:3]]
    assert results["figures"]["mIoU"] == pytest.approx(np.mean(ious))
    assert results["figures"]["pixels"] > 0.7  # all background: 0.66
    said = capsys.readouterr().out
    assert "pretrained" in said and "from scratch" in said


def test_mistakes_are_sentences(tmp_path):
    run, root = write_run(tmp_path), write_masks(tmp_path / "VOC", 2, 2)

    def segment(*words, path=run, data=root):
        evaluate(
            parse_evaluation(
                ["segment", str(path), f"--data.data_dir={data}", "--image_size=32",
                 "--epochs=1", "--control=false", *words]
            )
        )  # fmt: skip

    with pytest.raises(ConfigError, match="add for instance --data.data_dir="):
        parse_evaluation(["segment", str(run)])
    with pytest.raises(DataError, match="has no ImageSets/Segmentation; give a folder"):
        segment(data=tmp_path)
    with pytest.raises(
        DataError, match="split='dev' is not in .* which has train, val"
    ):
        segment("--data.test_split=dev")
    vit = moco_tf.encoders.ViT(image_size=32, patch_size=8, width=16, depth=1, heads=2)
    export_saved_model(
        vit, tmp_path / "vit", image_size=32, resize=32, mean=(0.5,) * 3,
        std=(0.5,) * 3, provenance={},
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match="no feature map that is known; segment takes"
    ):
        segment(path=tmp_path / "vit")
    mask = root / "SegmentationClass" / "val_0.png"
    Image.new("RGB", (64, 48)).save(mask)
    with pytest.raises(DataError, match="val_0.png has pixels of mode RGB"):
        segment()
    mask.unlink()
    with pytest.raises(DataError, match="val_0.png is missing, but its name is in"):
        segment()
    assert not (run / "report" / "segment").exists()


def test_images_and_masks_come_in_the_order_of_the_list(tmp_path):
    root = write_masks(tmp_path / "VOC", 3, 1)
    source, masks = open_voc_masks(str(root), "train")
    assert source.num_examples == 3
    assert [mask.stem for mask in masks] == ["train_0", "train_1", "train_2"]
