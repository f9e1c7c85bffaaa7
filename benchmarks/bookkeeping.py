"""What watching and saving cost a run: `python -m benchmarks.bookkeeping`.

Steps of MoCo v2 on CIFAR-10's narrow ResNet-18 (batch 128, on noise) in `fit`, in turns
without a look and with figures every 50 steps and the gradient's norm at each; then one
look and one checkpoint of that network and of ResNet-50 with 65,536 keys, apart. All
are medians of the rounds. Takes some seven minutes on two cores. Results go to
benchmarks/results/bookkeeping.csv.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import numpy as np
import tensorflow as tf
from tensorflow import keras

from benchmarks.writing import write_results
from moco_tf import callbacks, encoders
from moco_tf.augment import recipes
from moco_tf.callbacks.steps import StepFigures

STEPS, EVERY, MINUTES = 100, 50, 10


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [steps_with_looks(options.rounds)]
    for name, encoder, queue in (
        ("ResNet-18 of width 16, 4,096 keys", narrow(), 4096),
        ("ResNet-50, 65,536 keys", encoders.ResNet50(), 65536),
    ):
        rows += apart(name, encoder, queue, options.rounds)
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    write_results("bookkeeping", rows)


def narrow() -> keras.Model:
    """The encoder of configs/moco_v2_cifar10_cpu.yaml."""
    return encoders.ResNet18(width=16, stem="cifar")


def steps_with_looks(rounds: int) -> dict:
    """Seconds of a hundred steps with looks over those without."""
    random = np.random.default_rng(0)
    views = random.integers(0, 256, (2, 128, 32, 32, 3), np.uint8)
    batch = {"query": views[0], "key": views[1], "id": np.arange(128)}
    data = tf.data.Dataset.from_tensors(batch).cache().repeat(STEPS)
    data = data.apply(tf.data.experimental.assert_cardinality(STEPS))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        fits = {looks: _fit(looks, pathlib.Path(folder)) for looks in seconds}
        for fit in fits.values():
            fit(data.take(2))  # traces
        for _ in range(rounds):
            for looks, fit in fits.items():
                start = time.perf_counter()
                fit(data)
                seconds[looks].append(time.perf_counter() - start)
    ratios = [a / b - 1 for a, b in zip(seconds[True], seconds[False])]
    extra = statistics.median(seconds[True]) - statistics.median(seconds[False])
    share = statistics.median(ratios)
    return _row(f"{STEPS} steps with figures", "ResNet-18 of width 16", extra, share)


def _fit(looks, folder):
    model = moco_tf.MoCo(
        narrow(), queue_size=4096, bn_groups=8, augment=recipes.cifar()
    )
    model.measures_gradients = looks
    model.compile(moco_tf.optimizers.SGD(0.06))
    board = callbacks.TensorBoard(folder / str(looks), every=10**9, batch_size=128)
    board.every_steps = EVERY if looks else None
    return lambda data: model.fit(data, verbose=0, callbacks=[board])


def apart(name: str, encoder: keras.Model, queue: int, rounds: int) -> list[dict]:
    """Seconds of one look and of one checkpoint."""
    model = moco_tf.MoCo(encoder, queue_size=queue, dim=128, bn_groups=1)
    model.compile(moco_tf.optimizers.SGD(0.06))
    figures = StepFigures(model, 256)
    figures.since()
    looks = [_seconds(figures.since) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        saving = callbacks.WithinEpoch(pathlib.Path(folder))
        saving.set_model(model)
        checkpoints = [_seconds(lambda: saving._save(0, 1)) for _ in range(rounds)]
        files = list(pathlib.Path(folder).glob("epoch-0+1.*"))
        mib = sum(path.stat().st_size for path in files) / 2**20
    checkpoint = statistics.median(checkpoints)
    return [
        _row("one look", name, statistics.median(looks)),
        _row(
            f"a checkpoint of {mib:,.0f} MiB each {MINUTES} minutes",
            name,
            checkpoint,
            checkpoint / (60 * MINUTES),
        ),
    ]


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _row(what, network, seconds, share=None):
    percent = "" if share is None else f"{100 * share:.2f}"
    return {
        "what": what,
        "network": network,
        "seconds": f"{seconds:.3f}",
        "percent_of_training": percent,
    }


if __name__ == "__main__":
    main()
