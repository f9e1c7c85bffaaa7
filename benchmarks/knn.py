"""Time and memory of the kNN vote: `python -m benchmarks.knn [--train N]`.

Random features, in one pass over k = 10, 20, 100, 200 and three temperatures, beside
scikit-learn's search for the 200 nearest, without a vote. Each runs in a process of its
own, whose peak of resident memory is then its own. `sorted` orders the training images
so that similarities rise along a row, the worst case of a search for the largest. On a
machine with other work, the processor's seconds divided by the number of processors say
more than the wall's. Results go to benchmarks/results/knn.csv.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from benchmarks.writing import write_results

WAYS = ("moco_tf", "scikit-learn")
SIZES = ("train", "test", "dim")
MEASURED = ("wall_seconds", "cpu_seconds", "peak_growth_mib")


def main() -> None:
    """Measures every way, or the one that a parent process asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--sorted", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print("measured", *measure(options))
        return
    rows = []
    sizes = {key: getattr(options, key) for key in SIZES}
    for order in ("random", "sorted"):
        for way in WAYS:
            words = [sys.executable, "-m", "benchmarks.knn", f"--way={way}"]
            words += [f"--{key}={value}" for key, value in sizes.items()]
            words += ["--sorted"] * (order == "sorted")
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                words, stdout=subprocess.PIPE, text=True, check=True, env=environment
            )
            measured = dict(zip(MEASURED, done.stdout.splitlines()[-1].split()[1:]))
            rows.append({"way": way, "order": order, **sizes, **measured})
            print(f"{way:>12} {order}: " + "  ".join(map(" ".join, measured.items())))
    write_results("knn", rows)


def measure(options: argparse.Namespace) -> list[str]:
    """What `MEASURED` names; the memory is how far the process grew at most."""
    import numpy as np
    from sklearn.neighbors import NearestNeighbors

    from moco_tf.callbacks.health import peak_memory
    from moco_tf.evaluation.knn.vote import knn_predict_all

    def vote(train, labels, test):
        if options.way == "moco_tf":
            knn_predict_all(
                train, labels, test, [10, 20, 100, 200], [0.07, 0.1, np.inf]
            )
        else:
            search = NearestNeighbors(metric="cosine", algorithm="brute", n_jobs=-1)
            search.fit(train).kneighbors(test, 200)

    rng = np.random.default_rng(0)
    train = rng.normal(size=(options.train, options.dim)).astype(np.float32)
    test = rng.normal(size=(options.test, options.dim)).astype(np.float32)
    test[:, 0] += 5  # similarities follow the first feature
    if options.sorted:
        train = train[np.argsort(train[:, 0])]
        test[:, 0] += 50
    labels = rng.integers(0, 10, options.train)
    vote(train[:1000], labels[:1000], test[:10])  # warm up
    before = peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    vote(train, labels, test)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return [f"{wall:.2f}", f"{cpu:.2f}", f"{peak_memory() - before:.0f}"]


if __name__ == "__main__":
    main()
