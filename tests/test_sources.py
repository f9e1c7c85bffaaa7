import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import ROOT
from PIL import Image

from moco_tf.data import DataError, from_arrays, open_source, two_views
from moco_tf.data.crops import decode

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
PREPARED = SHARED / "data" / "tensorflow_datasets"
needs_cifar = pytest.mark.skipif(not PREPARED.exists(), reason=f"{PREPARED} is absent")


def save(path, mode="RGB", colour=(200, 100, 50), size=(12, 10), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def photos(root, count, start=0):
    for index in range(start, start + count):
        save(root / f"{index:03d}.jpg", colour=(index, 0, 0))
    return root


def open_folder(path, split="train", **options):
    return open_source("folder", split, data_dir=str(path), **options)


def elements(source):
    return list(source.dataset.as_numpy_iterator())


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


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_format_is_read_with_its_first_frame(tmp_path, channels):
    for suffix in ("jpg", "JPEG", "png", "bmp", "webp"):
        save(tmp_path / f"one.{suffix}")
    frames = [Image.new("RGB", (12, 10), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    save(tmp_path / "three.png", mode="L", colour=90)
    save(tmp_path / "three.bmp", mode="L", colour=90)
    source = open_folder(tmp_path, channels=channels)
    assert source.num_examples == 8
    images = [decode(e["image"], channels).numpy() for e in source.dataset]
    assert {image.shape for image in images} == {(10, 12, channels)}
    names = sorted(path.name for path in tmp_path.iterdir())
    expected = {"one": (200, 100, 50), "two": (255, 0, 0), "three": (90, 90, 90)}
    for name, image in zip(names, images):
        colour = expected[name.split(".")[0]]
        if channels == 1:
            colour = (np.dot(colour, (0.299, 0.587, 0.114)),)
        np.testing.assert_allclose(image[5, 5, :3], colour[:3], atol=4, err_msg=name)
        if channels == 4:
            assert (image[..., 3] == 255).all()


def test_name_that_belies_the_format_is_no_matter(tmp_path):
    save(tmp_path / "a.jpg", format="PNG")
    assert open_folder(tmp_path).num_examples == 1


def test_missing_folder_and_missing_images_are_named(tmp_path):
    with pytest.raises(DataError, match="data_dir=.*nowhere.* is not a folder"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(DataError, match="has no images"):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="data_dir is missing"):
        open_source("folder", "train")


def test_one_unreadable_image_is_left_out_counted_and_named(tmp_path, caplog):
    photos(tmp_path, 30)
    broken = tmp_path / "007.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path)
    assert "1 of 30 images" in caplog.text and "007.jpg" in caplog.text
    assert source.num_examples == 29
    assert [element["id"] for element in elements(source)] == list(range(29))
    batches = two_views(source, batch_size=29, image_size=16, epochs=1)
    assert len(list(batches)) == 1


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif"])
def test_files_that_are_no_images_are_unreadable(tmp_path, caplog, suffix, content):
    photos(tmp_path, 3)
    (tmp_path / f"bad.{suffix}").write_bytes(content)
    assert open_folder(tmp_path).num_examples == 3
    assert f"bad.{suffix}" in caplog.text


def test_damaged_files_print_nothing_of_libraries(tmp_path):
    photos(tmp_path, 3)
    save(tmp_path / "kept.webp")
    whole = (tmp_path / "000.jpg").read_bytes()
    (tmp_path / "marker.jpg").write_bytes(whole[:20] + b"\xff\xf0" + whole[30:])
    (tmp_path / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.webp").write_bytes(b"RIFF1234WEBPVP8 none")
    script = (
        "from moco_tf.data import open_source\n"
        f"print(open_source('folder', 'train', data_dir={str(tmp_path)!r},"
        " max_unreadable=0.9).num_examples)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "4\n", done.stderr
    left = [line for line in done.stderr.splitlines() if "left out" in line]
    assert len(left) == 1 and "bad.webp, marker.jpg" in left[0]
    for word in ("Traceback", "PIL", "marker type", "UNKNOWN", "Corrupt"):
        assert word not in done.stderr


def test_too_many_unreadable_images_stop_the_run(tmp_path):
    photos(tmp_path, 20)
    for index in range(15):
        (tmp_path / f"bad{index:02d}.jpg").write_bytes(b"none")
    with pytest.raises(DataError) as caught:
        open_folder(tmp_path)
    assert "15 of 35 images" in str(caught.value)
    assert "bad00.jpg" in str(caught.value) and "and 5 more" in str(caught.value)
    assert open_folder(tmp_path, max_unreadable=0.5).num_examples == 20


def test_folder_of_nothing_readable_stops_the_run(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"none")
    with pytest.raises(DataError, match="1 of 1 images"):
        open_folder(tmp_path)


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


@needs_cifar
def test_tfds_images_stay_encoded_and_sub_splits_count_right():
    options = {"name": "cifar10", "data_dir": str(PREPARED)}
    source = open_source("tfds", "train[:10%]", **options)
    assert source.num_examples == 5000 and source.class_names[0] == "airplane"
    some = list(source.dataset.take(20).as_numpy_iterator())
    assert [element["id"] for element in some] == list(range(20))
    assert all(element["image"][:2] == b"\xff\xd8" for element in some)
    later = next(iter(open_source("tfds", "train[10:20]", **options).dataset))
    assert later["image"].numpy() == some[10]["image"]
    assert open_source("tfds", "train[:20]+test", **options).num_examples == 10_020


@needs_cifar
def test_tfds_split_that_does_not_exist_is_named():
    options = {"name": "cifar10", "data_dir": str(PREPARED)}
    with pytest.raises(DataError, match="split='valid' is not in .*train, test"):
        open_source("tfds", "valid", **options)
    with pytest.raises(DataError, match="split='train.5:5.' .* has no examples"):
        open_source("tfds", "train[5:5]", **options)


def test_tfds_wrong_name_is_named(tmp_path):
    with pytest.raises(DataError, match="name='cifar11' is neither known"):
        open_source("tfds", "train", name="cifar11", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="name is missing"):
        open_source("tfds", "train")


def test_tfds_set_without_images_is_refused_before_it_is_downloaded(tmp_path):
    with pytest.raises(DataError, match="no feature 'image' .* text"):
        open_source("tfds", "train", name="imdb_reviews", data_dir=str(tmp_path))


def test_imagenet_says_which_archives_go_where(tmp_path):
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_source(
            "tfds",
            "train",
            name="imagenet2012",
            data_dir=str(tmp_path / "sets"),
            manual_dir=str(tmp_path),
        )
    message = str(caught.value)
    assert "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar" in message
    assert f"{tmp_path} (ILSVRC2012_img_train.tar missing there)" in message


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A TFDS set of 23 unlabelled images in four files."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")

    class Shots(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            image = tfds.features.Image(shape=(8, 8, 3))
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"image": image})
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(23):
                yield index, {"image": np.full((8, 8, 3), index, np.uint8)}

    builder = Shots(data_dir=root)
    config = tfds.download.DownloadConfig(num_shards=4)
    builder.download_and_prepare(download_config=config)
    return root


def test_shuffled_tfds_files_keep_their_ids(sharded):
    source = open_source("tfds", "train", name="shots", data_dir=str(sharded))
    assert source.num_examples == 23 and source.num_classes == 0

    def pixels(dataset):
        return [(int(e["id"]), int(decode(e["image"], 3)[0, 0, 0])) for e in dataset]

    plain = pixels(source.dataset)
    assert [example for example, _ in plain] == list(range(23))
    orders = [pixels(source.shuffled(tf.constant(s, tf.int64))) for s in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == plain
    part = open_source("tfds", "train[4:17]", name="shots", data_dir=str(sharded))
    expected = [(index, grey) for index, (_, grey) in enumerate(plain[4:17])]
    assert pixels(part.dataset) == expected
    assert sorted(pixels(part.shuffled(tf.constant(1, tf.int64)))) == expected


def test_shuffled_tfds_files_serve_the_pipeline(sharded):
    source = open_source("tfds", "train", name="shots", data_dir=str(sharded))
    options = {"batch_size": 5, "image_size": 8, "epochs": 2, "shuffle_buffer": 6}
    whole = list(two_views(source, **options).as_numpy_iterator())
    assert len(whole) == 8
    ids = np.concatenate([batch["id"] for batch in whole[:4]])
    assert len(set(ids.tolist())) == 20
    later = list(two_views(source, start_step=5, **options).as_numpy_iterator())
    for batch, other in zip(whole[5:], later):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_failed_download_is_told_in_a_sentence(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(self, **options):
        raise ConnectionError("No route to host.\nTraceback ...")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DataError) as caught:
        open_source("tfds", "train", name="cifar10", data_dir=str(tmp_path))
    message = str(caught.value)
    assert "could not be downloaded" in message and "No route to host" in message
    assert "\n" not in message


def test_download_that_keeps_failing_is_told_once_while_it_is_tried(
    tmp_path, monkeypatch, caplog
):
    import tensorflow_datasets as tfds

    urllib3 = logging.getLogger("urllib3.connectionpool")

    def fail(self, **options):
        for count in (4, 3, 2):
            urllib3.warning("Retrying (Retry(total=%d)) after connection broken", count)
        raise ConnectionError("No route to host.")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(DataError):
        open_source("tfds", "train", name="cifar10", data_dir=str(tmp_path))
    assert "Retrying" not in caplog.text
    (said,) = [r.getMessage() for r in caplog.records if r.name == "moco_tf"]
    assert said.startswith("TensorFlow Datasets cannot reach the server of 'cifar10'")
    urllib3.warning("heard again")
    assert "heard again" in caplog.text


def test_content_decides_what_is_an_image(tmp_path, caplog):
    save(tmp_path / "a.jfif", format="JPEG")
    save(tmp_path / "b", format="PNG")
    save(tmp_path / "c.dat", format="WEBP")
    save(tmp_path / "d.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path)
    assert source.file_names == ["a.jfif", "b", "c.dat", "d.jpg"]
    assert len(elements(source)) == 4
    assert not caplog.text


def test_other_kinds_of_images_are_counted(tmp_path, caplog):
    photos(tmp_path, 3)
    for number in range(4):
        (tmp_path / f"{number}.TIF").write_bytes(b"II*\0")
    (tmp_path / "phone.heic").write_bytes(b"ftypheic")
    with caplog.at_level(logging.WARNING):
        assert open_folder(tmp_path).num_examples == 3
    assert "4 .tif, 1 .heic; 3 others are" in caplog.text


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


def test_names_that_are_not_utf8_are_read_and_shown(tmp_path, caplog):
    photos(tmp_path, 1)
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    try:
        shutil.copy(tmp_path / "000.jpg", name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with open(os.fsencode(tmp_path) + b"/\xe9.png", "wb") as file:
        file.write(b"none")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path)
    assert source.file_names == ["000.jpg", "caf\\xe9.jpg"]
    assert len(elements(source)) == 2
    assert "\\xe9.png" in caplog.text


def test_images_of_16_bits_are_told(tmp_path, caplog):
    photos(tmp_path, 2)
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "xray.png")
    with caplog.at_level(logging.WARNING):
        source = open_folder(tmp_path, channels=1)
    assert source.num_examples == 3
    assert "1 of 3 images" in caplog.text and "16 bits" in caplog.text
    assert caplog.text.count("xray.png") == 1 and "000.jpg" not in caplog.text
