import numpy as np
import pytest
from photo_folders import elements, open_folder, photos, save

from moco_tf.data import DataError, from_arrays, open_source


def test_labels_are_the_sub_folders_in_alphabetical_order(tmp_path):
    for name in ("cat", "ant", "bee"):
        photos(tmp_path / name / "deeper", 2)
    source = open_folder(tmp_path)
    assert source.class_names == ("ant", "bee", "cat") and source.num_classes == 3
    assert [element["label"] for element in elements(source)] == [0, 0, 1, 1, 2, 2]
    assert [element["id"] for element in elements(source)] == list(range(6))
    assert source.num_examples == 6


@pytest.mark.parametrize("inside", [".", "2023", "2023/summer"])
def test_flat_or_singly_nested_folder_is_unlabelled(tmp_path, inside):
    photos(tmp_path / inside, 3)
    source = open_folder(tmp_path)
    assert source.num_examples == 3 and source.num_classes == 0
    assert {element["label"] for element in elements(source)} == {-1}


def test_image_beside_the_sub_folders_makes_the_set_unlabelled(tmp_path):
    photos(tmp_path / "a", 1)
    photos(tmp_path / "b", 1)
    save(tmp_path / "stray.png")
    source = open_folder(tmp_path)
    assert source.num_examples == 3 and source.num_classes == 0


def test_split_is_a_sub_folder_where_the_folder_is_divided(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            photos(tmp_path / split / name, count)
    assert open_folder(tmp_path, "train").num_examples == 6
    assert open_folder(tmp_path, "test").num_examples == 4
    assert open_folder(tmp_path, "test").class_names == ("a", "b")
    with pytest.raises(DataError, match="split='val' .* it has train, test"):
        open_folder(tmp_path, "val")


def test_photos_beside_a_folder_called_train_are_not_lost(tmp_path):
    photos(tmp_path, 3)
    photos(tmp_path / "train", 2)
    assert open_folder(tmp_path).num_examples == 5


def test_class_called_train_is_not_a_split(tmp_path):
    for name in ("bus", "train"):
        photos(tmp_path / name, 2)
    assert open_folder(tmp_path).class_names == ("bus", "train")
    with pytest.raises(DataError, match="split='test' is not a sub-folder"):
        open_folder(tmp_path, "test")


def test_missing_folder_and_missing_images_are_named(tmp_path):
    with pytest.raises(DataError, match="data_dir=.*nowhere.* is not a folder"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(DataError, match="has no images"):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="data_dir is missing"):
        open_source("folder", "train")


def test_labels_are_missed_only_where_they_are_asked_for(tmp_path):
    photos(tmp_path, 3)
    with pytest.raises(DataError, match="has no labels in split 'train'"):
        open_folder(tmp_path, labelled=True)
    assert open_folder(tmp_path).num_classes == 0
    assert open_source("glyphs", "test", labelled=True).num_classes == 10


def test_unknown_kind_and_wrong_channels_are_named():
    with pytest.raises(DataError, match="source='csv' is not known"):
        open_source("csv", "train")
    with pytest.raises(DataError, match="channels=1 differs from the 3 channels"):
        open_source("glyphs", "train", channels=1)


def test_arrays_keep_images_labels_and_ids():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 16), np.uint8)
    source = from_arrays(images, np.array([0, 1, 2, 1, 0], np.int32))
    assert source.num_classes == 3 and source.channels == 16
    for index, element in enumerate(elements(source)):
        np.testing.assert_array_equal(element["image"], images[index])
        assert element["id"] == index
    with pytest.raises(DataError, match="dtype float64"):
        from_arrays(images / 255.0)
    with pytest.raises(DataError, match="one integer per image"):
        from_arrays(images, [0, 1])
    with pytest.raises(DataError, match="the label -1"):
        from_arrays(images, [0, 1, -1, 0, 0])


def test_links_that_lead_back_end_and_count_once(tmp_path):
    photos(tmp_path / "a", 2)
    photos(tmp_path / "b", 3)
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "b" / "up").symlink_to("..")
    (tmp_path / "latest").symlink_to(".")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    assert open_folder(tmp_path).num_examples == 5


def test_litter_of_systems_is_no_part_of_a_folder(tmp_path):
    photos(tmp_path / "cats", 2)
    photos(tmp_path / "dogs", 2)
    for name in ("@eaDir", "$RECYCLE.BIN", "__MACOSX", "#recycle"):
        photos(tmp_path / name, 1)
    photos(tmp_path / "cats" / "@eaDir", 1)
    source = open_folder(tmp_path)
    assert source.class_names == ("cats", "dogs") and source.num_examples == 4


def test_litter_beside_splits_is_no_class(tmp_path):
    for name in ("train", "test", "@eaDir"):
        photos(tmp_path / name, 2)
    assert open_folder(tmp_path, "test").num_examples == 2
