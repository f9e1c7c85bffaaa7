"""What tells the images of a protocol from others, for the features kept of them."""

from __future__ import annotations

import os
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from pretrained_runs import write_run

from moco_tf.cli.evaluate import parse_evaluation
from moco_tf.config import load_config
from moco_tf.data import DataError
from moco_tf.data.sources.listing import fingerprint
from moco_tf.evaluation import evaluate
from moco_tf.evaluation.labelled_sets import open_labelled_sets, resolve_labelled
from moco_tf.evaluation.settings import LabelledData
from moco_tf.pixels import GREY_LEVELS

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write_tfds(root, form, shards=1, unlabelled=0):
    """A TFDS set of six images a split, as PNG or as JPEG, labelled in test."""
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
            train = self._generate_examples(unlabelled)
            return {"train": train, "test": self._generate_examples(0)}

        def _generate_examples(self, unlabelled):
            for index in range(6):
                image = np.full((8, 8, 3), 30 * index, np.uint8)
                label = -1 if index < unlabelled else index // 3
                yield index, {"image": image, "label": label}

    config = tfds.download.DownloadConfig(num_shards=shards)
    root.mkdir()
    Shades(data_dir=root).download_and_prepare(download_config=config)
    return root


def facts(root):
    data = LabelledData("tfds", "shades", str(root), test_split="train", max_test=3)
    encoder = SimpleNamespace(config=None, channels=3, pixels=GREY_LEVELS)
    train, test = open_labelled_sets(data, encoder)
    return train.facts, test.facts


def test_copies_of_a_tfds_set_are_told_apart_wherever_they_lie(tmp_path):
    original = write_tfds(tmp_path / "original", "png")
    train, test = facts(original)
    assert train["name"] == "shades/1.0.0" and train != test
    assert facts(write_tfds(tmp_path / "smaller", "jpeg")) != (train, test)
    assert facts(write_tfds(tmp_path / "sharded", "png", shards=2)) != (train, test)
    shutil.move(original, tmp_path / "moved")
    assert facts(tmp_path / "moved") == (train, test)


@pytest.mark.parametrize(
    ("split", "asked", "opened"),
    [
        ("train[:10%]", None, "train"),
        ("train", None, "train"),
        ("train[:10%]", "train[:5%]", "train[:5%]"),
    ],
)
def test_a_part_that_watches_a_run_stands_for_the_whole_split(split, asked, opened):
    path = ROOT / "configs" / "moco_v2_resnet50_200ep.yaml"
    config = load_config(path, [f"monitor.train_split={split}"])
    data = LabelledData(train_split=asked)
    train, test = resolve_labelled(data, SimpleNamespace(config=config))
    assert (train.split, test.split) == (opened, "validation")


def test_folder_is_told_apart_by_its_images_whatever_else_lies_there(tmp_path):
    image = tmp_path / os.fsdecode(b"\xe9t\xe9.png")  # no UTF-8
    image.write_bytes(b"\x89PNG\r\n one")
    before = fingerprint(tmp_path)
    (tmp_path / "lock").symlink_to(tmp_path / "nowhere")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert fingerprint(tmp_path) == before
    image.write_bytes(b"\x89PNG\r\n two")
    os.utime(image, ns=(1, 1))
    assert fingerprint(tmp_path) != before


def test_training_images_without_labels_are_one_sentence_in_every_protocol(tmp_path):
    root = write_tfds(tmp_path / "data", "png", unlabelled=2)
    run = write_run(tmp_path)
    short = ["--epochs=1", "--batch_size=2"]
    for words in (
        ["knn", "--k=[1]"],
        ["linear", "--protocol=cached"],
        ["linear", "--protocol=official", *short],
        ["linear", "--protocol=mocov3", *short],
        ["finetune", "--milestones=[]", *short],
    ):
        data = ["tfds", "--data.name=shades", f"--data.data_dir={root}"]
        words = [*words, str(run), "--data.source", *data]
        with pytest.raises(DataError, match="2 of the 6 training images have no label"):
            evaluate(parse_evaluation(words))
    assert not list(run.glob("report/*/results.json"))
