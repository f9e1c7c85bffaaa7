"""Packed sets: what is in them, read back by TFDS, and made in spite of a stop."""

import numpy as np
import pytest
import tensorflow as tf
from photo_folders import open_folder
from PIL import Image
from test_pretrain import small

from moco_tf import cli
from moco_tf.config.packing import Packing
from moco_tf.data import DataError, from_arrays, open_source
from moco_tf.data import pack as pack_module
from moco_tf.data.decoding import decode
from moco_tf.data.pack import pack
from moco_tf.pretrain import pretrain

PACKING = Packing(shorter_side=32, shard_images=7)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Large and small JPEGs, and PNGs, of two classes."""
    root, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(24):
        folder = root / ("cats", "dogs")[number % 2]
        folder.mkdir(exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
        size = ((300, 240), (40, 33), (28, 20))[number % 3]
        picture = coarse.resize(size, Image.BICUBIC)
        picture.save(folder / f"{number:02d}.{'png' if number % 4 == 3 else 'jpg'}")
    return root


def unpacked(place, name="set", split="train"):
    return open_source("tfds", split, name=name, data_dir=str(place))


def by_label_and_size(source):
    """Decoded images, in an order that no packing changes."""
    found = []
    for element in source.dataset.as_numpy_iterator():
        pixels = decode(tf.constant(element["image"]), 3).numpy()
        found.append((int(element["label"]), pixels))
    return sorted(found, key=lambda each: (each[0], each[1].mean()))


def test_images_are_those_of_the_source_no_larger_than_asked(photographs, tmp_path):
    source = open_folder(photographs)
    pack({"train": source}, tmp_path / "set", PACKING)
    read = unpacked(tmp_path)
    assert read.num_examples == 24 and read.class_names == ("cats", "dogs")
    pairs = zip(by_label_and_size(source), by_label_and_size(read))
    for (label, before), (same, after) in pairs:
        assert same == label
        shorter = min(before.shape[:2])
        if shorter <= 32:
            assert after.shape == before.shape
        else:
            assert min(after.shape[:2]) == 32
        height, width = after.shape[:2]
        image = Image.fromarray(before).resize((width, height), Image.BILINEAR)
        assert np.abs(after.astype(int) - np.asarray(image)).mean() < 4


def test_small_jpegs_keep_their_bytes(photographs, tmp_path):
    pack({"train": open_folder(photographs)}, tmp_path / "set", PACKING)
    packed = {each["image"] for each in unpacked(tmp_path).dataset.as_numpy_iterator()}
    files = [path.read_bytes() for path in photographs.rglob("*.jpg")]
    small = [file for file in files if min(tf.io.decode_jpeg(file).shape[:2]) <= 32]
    assert small and set(small) <= packed


def test_order_is_shuffled_and_names_travel(photographs, tmp_path):
    pack({"train": open_folder(photographs)}, tmp_path / "set", PACKING)
    labels = [int(e["label"]) for e in unpacked(tmp_path).dataset.as_numpy_iterator()]
    assert labels != sorted(labels)
    files = sorted((tmp_path / "set" / "1.0.0").glob("*.tfrecord-*"))
    assert len(files) == 4  # of 7, 7, 7 and 3
    names = set()
    for record in tf.data.TFRecordDataset([str(file) for file in files]):
        example = tf.train.Example.FromString(record.numpy())
        names.add(example.features.feature["file"].bytes_list.value[0].decode())
    paths = {str(path.relative_to(photographs)) for path in photographs.rglob("*.*")}
    assert names == paths


def test_stopped_packing_goes_on_to_the_same_files(photographs, tmp_path, monkeypatch):
    source = open_folder(photographs)
    whole = pack({"train": source}, tmp_path / "whole" / "set", PACKING)
    record, made = pack_module._record, []

    def stops(element, source):
        if len(made) == 10:
            raise KeyboardInterrupt
        made.append(element)
        return record(element, source)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pack_module, "_record", stops)
        pack({"train": source}, tmp_path / "set", PACKING)
    place = tmp_path / "set" / "1.0.0"
    assert len(list(place.glob("*.tfrecord-*"))) == 1 and not list(
        place.glob("*.part*")
    )
    assert pack({"train": source}, tmp_path / "set", PACKING) == place
    for file in whole.glob("*.tfrecord-*"):
        assert (place / file.name).read_bytes() == file.read_bytes()


def test_set_of_arrays_of_four_channels_is_kept_exactly(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 20, 24, 4), np.uint8)
    packing = Packing(channels=4, shorter_side=32, shard_images=4)
    pack({"train": from_arrays(images)}, tmp_path / "set", packing)
    read = open_source("tfds", "train", name="set", data_dir=tmp_path, channels=4)
    found = [decode(tf.constant(each["image"]), 4).numpy()
             for each in read.dataset.as_numpy_iterator()]  # fmt: skip
    np.testing.assert_array_equal(
        sorted(found, key=np.mean), sorted(images, key=np.mean)
    )


def test_packed_set_can_be_packed_again_and_trained_on(photographs, tmp_path, bare):
    pack({"train": open_folder(photographs)}, tmp_path / "set", PACKING)
    words = ["pack", "tfds:set", str(tmp_path / "again"), f"--data_dir={tmp_path}"]
    assert cli.main([*words, "--shorter_side=16", "--shard_images=5"]) == 0
    assert unpacked(tmp_path, "again").num_examples == 24
    config = small(
        tmp_path, "data.source=tfds", "data.name=again", f"data.data_dir={tmp_path}",
        "train.epochs=1", "train.batch_size=8", "monitor.every=0", "method.bn_groups=2",
    )  # fmt: skip
    pretrain(config)


def test_mistakes_are_told(photographs, tmp_path, capsys):
    source = open_folder(photographs)
    with pytest.raises(DataError, match="'My-Set' cannot be the name of a set"):
        pack({"train": source}, tmp_path / "My-Set", PACKING)
    pack({"train": source}, tmp_path / "set", PACKING)
    with pytest.raises(DataError, match="quality was 90 and is 50"):
        pack({"train": source}, tmp_path / "set", Packing(32, 50, shard_images=7))
    (tmp_path / "other" / "1.0.0").mkdir(parents=True)
    (tmp_path / "other" / "1.0.0" / "mine.txt").touch()
    with pytest.raises(DataError, match="files that are not of a packed set"):
        pack({"train": source}, tmp_path / "other", PACKING)
    with pytest.raises(DataError, match="is not on this machine"):
        pack({"train": source}, "gs://bucket/set", PACKING)
    assert cli.main(["pack", str(photographs), "x", "--quality=0"]) == 2
    assert (
        "--quality=0 is out of range; use a value from 1 to 100"
        in capsys.readouterr().err
    )
    assert cli.main(["pack", str(tmp_path / "nowhere"), str(tmp_path / "y")]) == 2
    assert "nowhere" in capsys.readouterr().err
