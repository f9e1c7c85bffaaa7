"""How long one waits: for --help, an import, a network and the demo's first step.

    python -m benchmarks.start [--turns=5] [--only "train.py --help"]

Each is a process of its own, timed from outside until it ends; they take turns and the
median counts. Files are in the system's cache, as they are from the second time on.
`imports TensorFlow` is what Python's own list of imports says. The demo's first step
is that of `python train.py` in an empty folder, with all that comes before it: drawing
the glyphs, judging raw pixels and the untrained encoder, tracing and compiling; the
process ends there. `import tensorflow` alone is the least that anything after --help
can take. Results go to benchmarks/results/start.csv.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.writing import write_results

ROOT = pathlib.Path(__file__).parents[1]
MODEL = "import moco_tf; moco_tf.encoders.ResNet50()"
DEMO = "the demo's first step"
WAYS = {
    "train.py --help": ["train.py", "--help"],
    "evaluate.py --help": ["evaluate.py", "--help"],
    "import moco_tf": ["-c", "import moco_tf"],
    "import tensorflow": ["-c", "import tensorflow"],
    "import moco_tf, make ResNet50": ["-c", MODEL],
    DEMO: ["-m", "benchmarks.start", "--child"],
}


def main() -> None:
    """Measures, or, as a child, trains until the demo's first step is made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="of each")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        make_first_step()
    ways = {name: WAYS[name] for name in options.only}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, words in ways.items():
            found[name].append(seconds(words))
    rows = []
    for name, words in ways.items():
        row = {"what": name, "seconds": f"{statistics.median(found[name]):.2f}"}
        imported = name == DEMO or imports_tensorflow(words)  # the demo trains
        row["imports TensorFlow"] = "yes" if imported else "no"
        rows.append(row)
        print("  ".join(row.values()), flush=True)
    write_results("start", rows)


def seconds(words: list[str]) -> float:
    """How long a fresh Python takes for these words."""
    start = time.perf_counter()
    run(words)
    return time.perf_counter() - start


def imports_tensorflow(words: list[str]) -> bool:
    """Whether a fresh Python imports TensorFlow for these words."""
    imported = run(["-X", "importtime", *words]).stderr
    return bool(re.search(r"\| +tensorflow$", imported, re.MULTILINE))


def run(words: list[str]) -> subprocess.CompletedProcess:
    """The finished process, which must have gone well."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"error: python {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return done


def make_first_step() -> None:
    """`python train.py` in an empty folder, until it has made a step."""
    from moco_tf import cli
    from moco_tf.methods import MoCo

    fit = MoCo.fit

    def fit_once(model, *words, callbacks=(), **options):
        from tensorflow import keras

        class FirstStep(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                sys.exit(0)

        return fit(model, *words, callbacks=[FirstStep(), *callbacks], **options)

    MoCo.fit = fit_once
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cli.main(["train"])
    sys.exit("error: the demo ended before its first step")


if __name__ == "__main__":
    main()
