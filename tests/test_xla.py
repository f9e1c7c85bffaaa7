"""Steps that XLA compiles, as a whole or by encoder: the same, in fewer operations."""

import numpy as np
import pytest
from conftest import mirrored
from tensorflow import keras
from test_collectives import METHODS
from tiny import EIGHT, noise_batches, small_encoder

import moco_tf
from moco_tf.optimizers import SGD


def narrow():
    return moco_tf.encoders.ResNet((1, 1, 1, 1), "basic", 4, stem="cifar")


def trained(compiled, method, replicas=1, collectives=False, again=False, **settings):
    """Losses of three steps, every variable after them, and the step's graph."""
    keras.utils.set_random_seed(1)
    encoder = narrow if again else small_encoder
    with mirrored(replicas, collectives).scope():
        model = getattr(moco_tf, method)(encoder(), **{**METHODS[method], **settings})
        if again:
            model.recompute_activations()
        model.compile(SGD(0.1), jit_compile=compiled)
    losses = model.fit(noise_batches(3), verbose=0).history["loss"]
    graph = model.train_tf_function._list_all_concrete_functions()[0].graph
    functions = graph.as_graph_def().library.function
    parts = [f for f in functions if f.attr["_XlaMustCompile"].b]
    return losses, [variable.numpy() for variable in model.weights], len(parts)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("MoCo", {"bn_groups": 2, "accumulate": 2}),
        ("MoCo", {"again": True}),
        ("MoCo", {"replicas": 2}),
        ("MoCo", {"replicas": 2, "collectives": True, "bn_groups": 2}),
        ("MoCo", {"replicas": 2, "bn_groups": 2, "accumulate": 2}),
        ("MoCo", {"replicas": 2, "again": True}),
        ("EndToEnd", {"replicas": 2}),
        ("MemoryBank", {"replicas": 2, "collectives": True}),
        pytest.param("MoCo", {"replicas": 8}, marks=EIGHT.marks),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_step_stays_the_same(policy, method, settings):
    policy("float64")
    (plain, expected, none), (compiled, found, parts) = (
        trained(way, method, **settings) for way in (False, True)
    )
    assert none == 0 < parts
    np.testing.assert_allclose(compiled, plain, rtol=1e-9)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-11)
