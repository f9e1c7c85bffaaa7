"""Time and memory of the kNN vote: `python benchmarks/knn.py [--train N] [--csv F]`.

Random unit features, in one pass over k = 10, 20, 100, 200 and three temperatures. Each
way of taking the k nearest runs in a process of its own, so that its peak of resident
memory is its own: `groups` is what `moco_tf.evaluation` does, `top_k` and `argpartition`
are what it would be with tf.math.top_k or numpy.argpartition on whole rows. `sorted`
orders the training images so that similarities rise along a row, as they may where a set
comes sorted by class.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import time

WAYS = ("groups", "top_k", "argpartition")
FIELDS = ("way", "order", "train", "test", "dim", "cpus", "seconds", "peak_growth_mib")


def main() -> None:
    """Measures every way, or the one that a parent process asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--csv", help="also write the figures to this file")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--sorted", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print("measured", *measure(options))
        return
    rows = []
    sizes = [f"--{key}={getattr(options, key)}" for key in ("train", "test", "dim")]
    for order in ("random", "sorted"):
        for way in WAYS:
            words = [sys.executable, __file__, f"--way={way}", *sizes]
            words += ["--sorted"] * (order == "sorted")
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                words, stdout=subprocess.PIPE, text=True, check=True, env=environment
            )
            _, seconds, growth = done.stdout.splitlines()[-1].split()
            cpus = len(os.sched_getaffinity(0))
            values = (way, order, options.train, options.test, options.dim, cpus)
            rows.append(dict(zip(FIELDS, (*values, seconds, growth))))
            print(f"{way:>14}  {order:<8}{seconds:>8} s{growth:>8} MiB", flush=True)
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)


def measure(options: argparse.Namespace) -> tuple[str, str]:
    """Seconds of the vote, and MiB by which resident memory grew at most."""
    import numpy as np
    import tensorflow as tf

    from moco_tf.evaluation import knn

    if options.way == "top_k":
        knn._top_k = tf.math.top_k
    elif options.way == "argpartition":
        knn._top_k = _argpartition
    rng = np.random.default_rng(0)
    train = rng.normal(size=(options.train, options.dim)).astype(np.float32)
    test = rng.normal(size=(options.test, options.dim)).astype(np.float32)
    test[:, 0] += 5  # similarities follow the first feature
    if options.sorted:
        train = train[np.argsort(train[:, 0])]
        test[:, 0] += 50
    labels = rng.integers(0, 10, options.train)
    arguments = ([10, 20, 100, 200], [0.07, 0.1, np.inf])
    knn.knn_predict_all(train[:1000], labels[:1000], test[:10], *arguments)  # warm up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    knn.knn_predict_all(train, labels, test, *arguments)
    seconds = time.perf_counter() - start
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{seconds:.2f}", f"{growth:.0f}"


def _argpartition(similarity, k):
    import numpy as np
    import tensorflow as tf

    values = similarity.numpy()
    index = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
    nearest = np.take_along_axis(values, index, axis=1)
    order = np.argsort(-nearest, axis=1)
    index = np.take_along_axis(index, order, axis=1)
    return tf.constant(np.take_along_axis(values, index, axis=1)), tf.constant(index)


if __name__ == "__main__":
    main()
