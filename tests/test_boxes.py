"""Images with boxes: VOC folders, TFDS, joined sources, and what is wrong with them."""

import numpy as np
import pytest
import tensorflow as tf
from voc_folder import NAMES, annotation, make_voc

from moco_tf.data import DataError
from moco_tf.data.box_views import training_boxes
from moco_tf.data.boxes import joined, open_boxes


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


def test_trainval_is_preferred_and_difficult_is_kept(own_voc):
    lists, annotations = own_voc / "ImageSets" / "Main", own_voc / "Annotations"
    (lists / "trainval.txt").write_text("train000\ntest001\n")
    objects = [("disc", (0, 0, 9, 9)), ("square", (1, 2, 3, 4))]
    (annotations / "test001.xml").write_text(annotation(objects, difficult={1}))
    source = open_boxes("folder", data_dir=own_voc)
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
    views = training_boxes(both, batch_size=6, image_size=96, fill=(0, 0, 0))
    batches = list(views.take(3).as_numpy_iterator())
    count = sum((batch["classes"] >= 0).sum() for batch in batches)
    assert count > 18 * 0.7
    make_voc(tmp_path / "other", 1, 1)
    for path in (tmp_path / "other" / "Annotations").iterdir():
        path.write_text(annotation([("tree", (0, 0, 9, 9))]))
    other = open_boxes("folder", "train", data_dir=tmp_path / "other")
    with pytest.raises(DataError, match=r"3 classes and the second one 1 \(disc"):
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


def _cut_image(root):
    file = root / "JPEGImages" / "train001.jpg"
    file.write_bytes(file.read_bytes()[:600])


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
        (_cut_image, "1 of 3 images in .*JPEGImages cannot be read: train001.jpg; "),
        (_remove_annotation, "'train001' is listed .*train001.xml is missing"),
        (_write("<annotation><object>"), "train001.xml is not a VOC annotation"),
        (_write("<a><object><name>x</name></object></a>"), "a name and a bndbox"),
        (_write(annotation([("disc", (5, 5, 5, 9))])), "a disc whose bndbox is empty"),
        (_empty_all, "None of the 3 images of split 'train' .* has a box"),
        (_remove_lists, "split='train' is not in .*which has none"),
    ],
)
def test_broken_folder_is_explained_in_one_sentence(own_voc, change, message):
    change(own_voc)
    with pytest.raises(DataError, match=message) as caught:
        open_boxes("folder", data_dir=own_voc)
    assert "\n" not in str(caught.value)


def test_other_places_are_explained(tmp_path, shared_data):
    with pytest.raises(DataError, match="has no ImageSets/Main"):
        open_boxes("folder", data_dir=tmp_path)
    place = shared_data / "tensorflow_datasets"
    with pytest.raises(DataError, match="cifar10.* has no feature 'objects'"):
        open_boxes("tfds", name="cifar10", data_dir=place)
