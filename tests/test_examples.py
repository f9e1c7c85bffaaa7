"""The examples run, and the one that shows the algorithm is the library's."""

import importlib.util
import os
import re
import subprocess
import sys

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


# What makes an example short, and what it then prints.
PAGES = {
    "moco_in_60_lines": (
        {"STEPS": "2", "BATCHES": "1"},
        r"untrained: \d+\.\d %.*\n.* trained: \d+\.\d %.*\n.*library: \d+\.\d %",
    ),
    "search_own_photos": (
        {
            "MORE": "--encoder.name=resnet18 --encoder.width=4 --encoder.stem=cifar "
            "--data.image_size=16 --train.epochs=1 --train.steps_per_epoch=2 "
            "--train.batch_size=16 --method.queue_size=32"
        },
        r"'query': 'disc_000.png', 'rank': '8'",
    ),
    "finetune_checkpoint": (
        {"STEPS": "2"},
        r"MoCo v1 or v2 .*\n(.*\n)*accuracy on 2 test batches: \d+\.\d %",
    ),
}


def test_every_example_is_a_notebook_that_installs_first():
    pages = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert pages == set(PAGES)
    for page in pages:
        text = (ROOT / "examples" / f"{page}.py").read_text()
        first, code, *_ = re.split(r"^# %%", text, flags=re.M)[1:]
        assert first.startswith(' [markdown]\n"""') and first.endswith('"""\n\n')
        assert code.startswith("\n# %pip install -q moco_tf\n")


@pytest.mark.parametrize("page", PAGES)
def test_example_runs_as_a_script(page, tmp_path):
    settings, printed = PAGES[page]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{page}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert re.search(printed, done.stdout), done.stdout[-2000:]
