"""Images from TensorFlow Datasets: kept encoded, counted, and what can fail."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.data import DataError, open_source, two_views
from moco_tf.data.decoding import decode

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
PREPARED = SHARED / "data" / "tensorflow_datasets"
needs_cifar = pytest.mark.skipif(not PREPARED.exists(), reason=f"{PREPARED} is absent")


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

    def in_order(source, seed):
        seed = tf.constant(seed, tf.int64)
        return pixels(source.shuffled(seed, 0, source.num_examples))

    orders = [in_order(source, seed) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == plain
    part = open_source("tfds", "train[4:17]", name="shots", data_dir=str(sharded))
    expected = [(index, grey) for index, (_, grey) in enumerate(plain[4:17])]
    assert pixels(part.dataset) == expected
    assert sorted(in_order(part, 1)) == expected


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


@pytest.mark.parametrize("hosts", [2, 3, 5])
def test_hosts_share_tfds_files_out_anew_each_epoch(sharded, hosts):
    source = open_source("tfds", "train", name="shots", data_dir=str(sharded))
    batch, steps = 4 * hosts, 23 // (4 * hosts)
    options = {"image_size": 8, "epochs": 4, "shuffle_buffer": 6}
    options = {"batch_size": batch, **options}
    shares = []
    for host in range(hosts):
        stream = two_views(source, shards=(hosts, host), **options)
        ids = np.stack([batch["id"] for batch in stream.as_numpy_iterator()])
        assert ids.shape == (4 * steps, 4)
        later = two_views(source, shards=(hosts, host), start_step=1, **options)
        later = np.stack([batch["id"] for batch in later.as_numpy_iterator()])
        np.testing.assert_array_equal(later, ids[1:])
        shares.append(ids.reshape(4, -1))
    for ids in np.concatenate(shares, axis=1):
        assert len(set(ids.tolist())) == steps * batch
    assert len({tuple(sorted(ids)) for ids in shares[0].tolist()}) > 1


def test_hosts_open_only_their_share_of_the_files(sharded, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy)
    source = open_source("tfds", "train", name="shots", data_dir=str(copy))
    seed = tf.constant(3, tf.int64)
    ids = [int(element["id"]) for element in source.shuffled(seed, 0, 12)]
    starts = np.cumsum([0, *source_shards(copy)])
    needed = set(np.searchsorted(starts, ids, side="right") - 1)
    assert len(needed) < 4
    for index, path in enumerate(sorted(copy.rglob("*.tfrecord-*"))):
        if index not in needed:
            path.unlink()
    again = [int(element["id"]) for element in source.shuffled(seed, 0, 12)]
    assert again == ids
    with pytest.raises(tf.errors.NotFoundError):
        list(source.shuffled(seed, 12, 23))


def source_shards(root):
    """How many examples each file of the set has."""
    (facts,) = (json.loads(p.read_text()) for p in root.rglob("dataset_info.json"))
    return [int(length) for length in facts["splits"][0]["shardLengths"]]


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
