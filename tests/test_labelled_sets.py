"""What tells the images of a protocol from others, for the features kept of them."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np

from moco_tf.config.protocols import LabelledData
from moco_tf.protocols.labelled_sets import open_labelled_sets


def write_tfds(root, form, shards=1):
    """A TFDS set of six labelled images, as PNG or as JPEG."""
    import tensorflow_datasets as tfds

    # Known from its files alone: a test may write several of one name.
    class Shades(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(8, 8, 3), encoding_format=form),
                "label": tfds.features.ClassLabel(names=["dark", "light"]),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(6):
                image = np.full((8, 8, 3), 30 * index, np.uint8)
                yield index, {"image": image, "label": index // 3}

    config = tfds.download.DownloadConfig(num_shards=shards)
    root.mkdir()
    Shades(data_dir=root).download_and_prepare(download_config=config)
    return root


def facts(root):
    data = LabelledData("tfds", "shades", str(root), test_split="train", max_test=3)
    train, test = open_labelled_sets(data, SimpleNamespace(config=None, channels=3))
    return train.facts, test.facts


def test_copies_of_a_tfds_set_are_told_apart_wherever_they_lie(tmp_path):
    original = write_tfds(tmp_path / "original", "png")
    train, test = facts(original)
    assert train["name"] == "shades/1.0.0" and train != test
    assert facts(write_tfds(tmp_path / "smaller", "jpeg")) != (train, test)
    assert facts(write_tfds(tmp_path / "sharded", "png", shards=2)) != (train, test)
    shutil.move(original, tmp_path / "moved")
    assert facts(tmp_path / "moved") == (train, test)
