"""What a run says of itself before it starts."""

import types

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.config import load_config
from moco_tf.pixels import GREY_LEVELS, Pixels
from moco_tf.pretrain import announce

SOURCE = types.SimpleNamespace(num_examples=1000, pixels=GREY_LEVELS, groups=None)


@pytest.fixture
def said(monkeypatch):
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            announce.log, level, lambda text, *values: lines.append(text % values)
        )
    return lines


def say(*overrides, groups=8, keys=True, source=SOURCE):
    model = types.SimpleNamespace(negatives=lambda batch: 1024, bn_groups=groups)
    if keys:
        model.key_encoder = None
    config = load_config(None, overrides)
    announce.announce(config, source, 7, tf.distribute.get_strategy(), model)


@pytest.mark.parametrize(
    "overrides, warns",
    [
        ((), True),
        (("method.queue_size=1000",), False),
        (("method.mask_same_image=true",), False),
        (("method.name=simclr",), False),
    ],
)
def test_queue_that_holds_a_querys_own_image_is_told_unless_masked(
    said, overrides, warns
):
    say(*overrides)
    assert any("false negatives" in line for line in said) == warns


def test_devices_rate_and_batch_norm_are_told(said):
    say("train.batch_size=64", "method.queue_size=64")
    assert said[0] == ("demo: moco on 1,000 images, 16 epochs of 7 steps of 64 images.")
    assert said[1] == (
        "1 replica (CPU), float32; learning rate 0.03 (0.12 at batch 256)."
    )
    assert said[2] == (
        "Batch norm in 8 groups per replica; keys shuffled over these (ShuffleBN)."
    )


def test_one_is_no_plural(said):
    say("train.epochs=1")
    assert "images, 1 epoch of 7 steps of 128 images." in said[0]


@pytest.mark.parametrize(
    ("overrides", "has", "lacks"),
    [
        ((), ["ln(1+65,536) = 11.09", "queue", "kNN, linear  acc"], []),
        (("monitor.linear=false",), ["kNN          accuracy"], ["linear"]),
        (("monitor.every=0", "method.name=simclr"), ["own key"], ["kNN", "queue"]),
    ],
)
def test_columns_are_explained(said, overrides, has, lacks):
    model = types.SimpleNamespace(negatives=lambda batch: 65536)
    announce.announce_columns(load_config(None, overrides), model)
    (legend,) = said
    assert all(word in legend for word in has)
    assert not any(word in legend for word in lacks)
    assert max(map(len, legend.splitlines())) <= 80


def test_keys_that_are_not_shuffled_are_told(said):
    say("method.shuffle_keys=false")
    assert "keys not shuffled, as method.shuffle_keys=false asks" in said[2]


def test_method_without_keys_is_not_said_to_shuffle_them(said):
    say("method.name=memory_bank", keys=False)
    assert said[2] == "Batch norm in 8 groups per replica."


def test_memory_of_a_bank_is_told(said):
    announce.announce_bank(load_config(None, ["method.name=memory_bank"]), SOURCE)
    assert said == ["The memory bank takes 0.5 MiB on each replica."]
    announce.announce_bank(load_config(), SOURCE)
    assert len(said) == 1


def test_other_numbers_and_groups_are_told(said):
    source = types.SimpleNamespace(
        num_examples=1000,
        pixels=Pixels("uint16", 0, 4095),
        groups=np.repeat(np.arange(500), 2)[:999].tolist() + [1000],
    )
    words = ("data.source=folder", "data.data_dir=x.csv", "data.positives=group")
    say(*words, "data.channels=13", "method.queue_size=4096", source=source)
    text = " ".join(said)
    assert "uint16 numbers in 13 channels, 0..4095 as 0..1" in text
    assert "501 groups, of 2 images at most; 2 images without another" in text
    assert "false negatives" not in text  # keys of the group are masked
    said.clear()
    say()
    assert "numbers" not in " ".join(said) and "group:" not in " ".join(said)
