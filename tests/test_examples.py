"""The examples run, and the one that shows the algorithm is the library's."""

import importlib.util
import re

import numpy as np
import pytest
from commands import ROOT
from tensorflow import keras
from test_golden_trace import StepLosses
from tiny import noise_batches, small_encoder

import moco_tf
from moco_tf.optimizers import SGD


def example(name):
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_losses_of_the_algorithm_equal_those_of_the_library(policy):
    policy("float64")
    page = example("moco_in_60_lines")
    f_q, f_k = (page.with_head(small_encoder(), dim=8) for _ in range(2))
    step, queue = page.moco(f_q, f_k, 40, 0.9, 0.2, keras.optimizers.SGD(0.125, 0.875))
    model = moco_tf.MoCo(
        small_encoder(), dim=8, queue_size=40, key_momentum=0.9, temperature=0.2,
        bn_groups=1,
    )  # fmt: skip
    model.compile(SGD(0.125, momentum=0.875, weight_decay=0.0))
    for encoder in (model.query_encoder, model.key_encoder):
        encoder.set_weights(f_q.get_weights())
    model.queue.keys.assign(queue)
    # Keras makes float32 of the rates, which loses nothing of these. 16 keys a step:
    # the cursor goes round in the third.
    batches = noise_batches(10, shuffled=False)
    shown = [float(step(batch["query"], batch["key"])) for batch in batches]
    losses = StepLosses()
    model.fit(batches, verbose=0, callbacks=[losses])
    np.testing.assert_allclose(shown, losses.losses, rtol=1e-11)
    np.testing.assert_allclose(queue, model.queue.keys, rtol=1e-6)
    for one, other in zip(f_k.weights, model.key_encoder.weights):
        if "moving" not in one.name:  # Keras has them biased
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)


@pytest.mark.slow
def test_the_algorithm_trains_as_a_page(capsys):
    example("moco_in_60_lines").main(steps=2)
    shown = capsys.readouterr().out
    assert re.search(r"untrained: \d+\.\d %.*\n.* trained: \d+\.\d %", shown)
