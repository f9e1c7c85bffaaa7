"""Activations computed again for the gradient: the same step, statistics moved once."""

import pytest
import tensorflow as tf
from conftest import mirrored
from tensorflow import keras
from test_collectives import METHODS
from tiny import assert_same_training, noise_batches, small_encoder

import moco_tf
from moco_tf.config import ConfigError, load_config, validate
from moco_tf.encoders import encode as encode_module
from moco_tf.optimizers import SGD


def narrow():
    return moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", 4, stem="cifar")


def small_vit():
    return moco_tf.encoders.ViT(
        image_size=12, patch_size=4, width=16, depth=2, heads=2, name="vit"
    )


def trained(again, method, encoder=narrow, replicas=1, collectives=False, **settings):
    """Logs of two steps, and every variable after them."""
    keras.utils.set_random_seed(1)
    with mirrored(replicas, collectives).scope():
        model = getattr(moco_tf, method)(encoder(), **{**METHODS[method], **settings})
        if again:
            model.recompute_activations()
        model.compile(SGD(0.1))
    logs = model.fit(noise_batches(2), verbose=0).history
    return logs, [variable.numpy() for variable in model.weights]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("MoCo", {}),
        ("MoCo", {"bn_groups": 4, "accumulate": 2}),
        ("MoCoV3", {"encoder": small_vit}),
        ("SimCLR", {"replicas": 2, "collectives": True}),
        ("EndToEnd", {}),
        pytest.param("MoCo", {"replicas": 2}, marks=pytest.mark.slow),
        pytest.param("MoCoV3", {"replicas": 2}, marks=pytest.mark.slow),
        pytest.param("MemoryBank", {}, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_step_stays_the_same(policy, method, settings):
    policy("float64")
    kept, again = (trained(way, method, **settings) for way in (False, True))
    assert_same_training(again, kept)


def test_convolutions_of_the_forward_pass_are_made_twice():
    def convolutions(again):
        model = moco_tf.MoCo(narrow(), dim=4, queue_size=32)
        if again:
            model.recompute_activations()
        model.compile(SGD(0.1))
        batch = next(iter(noise_batches(1)))
        graph = tf.function(model.train_step).get_concrete_function(batch).graph
        return sum(each.type == "Conv2D" for each in graph.get_operations())

    # Both encoders' 12, and the query encoder's once more.
    assert (convolutions(False), convolutions(True)) == (24, 36)


def test_inference_computes_nothing_again(monkeypatch):
    model = moco_tf.MoCo(narrow(), dim=4, queue_size=32)
    model.recompute_activations()
    model.compile(SGD(0.1))
    monkeypatch.setattr(encode_module, "recomputed", None)
    model.evaluate(noise_batches(1), verbose=0)


def test_encoders_of_others_are_refused():
    model = moco_tf.MoCo(small_encoder(), dim=4, queue_size=32)
    with pytest.raises(ValueError, match="cannot be computed again"):
        model.recompute_activations()
    words = ["train.recompute=true", "encoder.name=EfficientNetV2B0Backbone"]
    with pytest.raises(ConfigError, match="train.recompute=true does not go with"):
        validate(load_config(None, words))
