"""Stages that are frozen do not move by a bit, and learn when their time has come."""

import re

import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored, strip_runs
from run_files import weights as checkpoint
from tensorflow import keras
from test_collectives import METHODS
from test_pretrain import small
from test_recompute import narrow, small_vit
from test_resuming import stop_after
from tiny import noise_batches

import moco_tf
from moco_tf.callbacks import FrozenStages
from moco_tf.config import ConfigError, load_config
from moco_tf.config.checks import STAGES
from moco_tf.encoders.encode import encode
from moco_tf.encoders.stages import stage_layers
from moco_tf.optimizers import LARS, SGD
from moco_tf.pretrain import build, pretrain

STEM_AND_FIRST = r"(conv1|bn1|layer1_.*)/"


def values(model, pattern, encoders=("query_encoder", "key_encoder")):
    """Every weight of the encoders whose name fits, statistics too, by its name."""
    return {
        f"{name}: {weight.name}": weight.numpy()
        for name in encoders
        if hasattr(model, name)
        for weight in getattr(model, name).weights
        if re.match(pattern, weight.name)
    }


def made(method="MoCo", encoder=narrow, optimizer=SGD, replicas=1, **settings):
    keras.utils.set_random_seed(1)
    with mirrored(replicas).scope():
        model = getattr(moco_tf, method)(encoder(), **{**METHODS[method], **settings})
        model.compile(optimizer(0.05, weight_decay=0.1))
    return model


def adamw(rate, weight_decay):
    return keras.optimizers.AdamW(rate, weight_decay, epsilon=1e-8)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: moco_tf.encoders.ResNet18(width=4, stem="cifar"), 5),
        (lambda: moco_tf.encoders.ResNet50(width=4), 5),
        (moco_tf.encoders.ViTSmall, 13),
    ],
)
def test_stages_are_those_that_the_names_tell(make, count):
    encoder = make()
    assert len(encoder.stage_ends) == count
    kind = "vit" if isinstance(encoder, moco_tf.encoders.ViT) else "resnet"
    assert STAGES[kind] == count
    weighted = [layer.name for layer in encoder.layers if layer.weights]

    def stage_of(name):
        if found := re.match(r"layer(\d)|blocks_(\d+)", name):
            return int(found[1]) + 1 if found[1] else int(found[2]) + 2
        return count if name == "norm" else 1

    for stages in range(count + 1):
        found = {name for name in stage_layers(encoder, stages) if name in weighted}
        assert found == {name for name in weighted if stage_of(name) <= stages}
    with pytest.raises(ValueError, match=f"it has {count}"):
        stage_layers(encoder, count + 1)


def test_stages_of_another_backbone_are_not_known():
    images = keras.Input((12, 12, 3))
    other = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    with pytest.raises(ValueError, match="are not known.*use one of moco_tf.encoders"):
        stage_layers(other, 1)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("MoCo", {}),
        ("MoCo", {"optimizer": LARS}),
        ("MoCo", {"optimizer": adamw}),
        ("MoCo", {"bn_groups": 4, "accumulate": 2}),
        ("MoCo", {"replicas": 2}),
        ("MoCoV3", {}),
        ("EndToEnd", {}),
        ("SimCLR", {}),
        ("MemoryBank", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_frozen_weights_and_statistics_keep_every_bit(method, settings):
    model = made(method, **settings)
    _assert_held(model, STEM_AND_FIRST)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("again", [False, True])
def test_they_do_so_in_mixed_precision_and_recomputed(policy, precision, again):
    policy(precision)
    keras.utils.set_random_seed(1)
    model = moco_tf.MoCo(narrow(), **METHODS["MoCo"])
    if again:
        model.recompute_activations()
    model.compile(SGD(0.05, weight_decay=0.1))
    _assert_held(model, STEM_AND_FIRST)


def _assert_held(model, pattern):
    frozen = values(model, pattern)
    others = values(model, rf"(?!{pattern})")
    model.fit(noise_batches(3), epochs=2, verbose=0, callbacks=[FrozenStages(stages=2)])
    for name, value in values(model, pattern).items():
        np.testing.assert_array_equal(value, frozen[name], err_msg=name)
    moved = [
        name
        for name, value in values(model, rf"(?!{pattern})").items()
        if (value != others[name]).any()
    ]
    assert len(frozen) > 10 and len(moved) == len(others)
    # In another fit too, which Keras begins with all layers as they were compiled.
    model.fit(noise_batches(2), verbose=0, callbacks=[FrozenStages(stages=2)])
    for name, value in values(model, pattern).items():
        np.testing.assert_array_equal(value, frozen[name], err_msg=name)


def test_vit_keeps_its_patches_frozen_once_its_blocks_learn():
    model = made("MoCoV3", small_vit)
    block, patches = values(model, "blocks_0"), values(model, "patch_embed")
    kept = FrozenStages(stages=2, epochs=1)
    model.fit(noise_batches(2), epochs=1, verbose=0, callbacks=[kept])
    for name, value in values(model, "blocks_0").items():
        np.testing.assert_array_equal(value, block[name], err_msg=name)
    model.fit(noise_batches(2), epochs=2, initial_epoch=1, verbose=0, callbacks=[kept])
    assert all(
        (v != block[name]).any() for name, v in values(model, "blocks_0").items()
    )
    for name, value in values(model, "patch_embed").items():
        np.testing.assert_array_equal(value, patches[name], err_msg=name)


def test_frozen_batch_norm_normalises_by_its_running_statistics():
    model = made(encoder=narrow)
    encoder = model.encoder
    rng = np.random.default_rng(0)
    for weight in encoder.weights:  # statistics that no batch has
        weight.assign(rng.uniform(0.5, 1.5, weight.shape).astype(np.float32))
    callback = FrozenStages(stages=5)
    callback.set_model(model)
    callback.on_epoch_begin(0)
    images = tf.constant(rng.normal(size=(8, 12, 12, 3)).astype(np.float32))
    expected = encoder(images, training=False)
    np.testing.assert_array_equal(encode(encoder, images, groups=4), expected)
    assert [v.name for v in model.trained_variables if "layer" in v.name] == []


class Snapshots(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.taken = []

    def on_epoch_end(self, epoch, logs=None):
        self.taken.append(values(self.model, ".*", ("query_encoder",)))


def test_stages_are_let_go_and_then_train_as_if_never_frozen():
    """After the thaw a step is that of a fresh model of the same weights and state."""
    batches = noise_batches(2)
    model, seen = made(), Snapshots()
    begun = values(model, ".*", ("query_encoder",))
    model.fit(batches, epochs=2, verbose=0, callbacks=[FrozenStages(2, epochs=1), seen])
    first, second = seen.taken
    frozen = [name for name in begun if re.match(STEM_AND_FIRST, name.split(": ")[1])]
    for name in frozen:
        np.testing.assert_array_equal(first[name], begun[name], err_msg=name)
    assert all((second[name] != begun[name]).any() for name in frozen)
    # The same by hand: frozen in one fit, where Keras lets nothing else, then another.
    other = made()
    layers = other.backbone_layers(stage_layers(other.encoder, 2))

    def hold(trainable):
        for layer in layers:
            layer.trainable = trainable
        other.make_train_function(force=True)

    by_hand = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: hold(False))
    other.fit(batches, verbose=0, callbacks=[by_hand])
    hold(True)
    other.fit(batches, verbose=0)
    for name, value in values(other, ".*", ("query_encoder",)).items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)


@pytest.mark.parametrize("stop", [1, 2])
def test_run_goes_on_to_the_bit_within_and_after_the_frozen_epochs(
    tmp_path, monkeypatch, stop
):
    strip_runs(monkeypatch)
    monkeypatch.setattr(build, "build_encoder", lambda config: narrow())
    words = ["monitor.every=0", "train.epochs=4", "train.deterministic=true",
             "encoder.frozen_stages=3", "encoder.frozen_epochs=2"]  # fmt: skip
    whole = small(tmp_path, *words, name="whole")
    pretrain(whole)
    stopped = small(tmp_path, *words, name="stopped")
    stop_after(monkeypatch, stopped, stop)
    pretrain(stopped)
    expected, found = checkpoint(whole.run_dir), checkpoint(stopped.run_dir)
    assert set(expected) == set(found) and len(expected) > 60
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["frozen_stages=6"],
            "frozen_stages=6 is more than the 5 stages of encoder.na",
        ),
        (["frozen_stages=-1"], "encoder.frozen_stages=-1 is too small; use 0 or more"),
        (["name=EfficientNetV2B0Backbone", "frozen_stages=1"], "stages are not known"),
        (["frozen_epochs=3"], "frozen_epochs=3 has no effect with encoder.frozen_stag"),
        (["frozen_stages=1", "frozen_epochs=0"], "frozen_epochs=0 is too small"),
    ],
)
def test_stages_that_cannot_be_frozen_are_refused(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, [f"encoder.{word}" for word in words])
    assert load_config(
        None, ["encoder.name=vit_small", "encoder.frozen_stages=13"]
    ).encoder
