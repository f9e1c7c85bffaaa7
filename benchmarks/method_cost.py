"""Peak memory and time of a step: MoCo against end-to-end, at equal batch.

    python benchmarks/method_cost.py [--encoder=ResNet50] [--image_size=224] \
        [--batch_size=32]

Each method runs in a fresh process on random views. On a GPU the peak is TensorFlow's
own count; on a CPU it is the process's largest resident memory less what it had before
the model was made. The methods take turns, so that a busy machine hits both alike.
Results go to benchmarks/method_cost.csv. Batches that were not run are predicted by the
line through the two that were.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

METHODS = ("moco", "end_to_end")
PUBLISHED = "MoCo 5.0 GB, 53 h; end-to-end 7.4 GB, 65 h (He et al. 2020, batch 256)"


def main() -> None:
    """Measures, or, as a child, measures one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="ResNet50", help="of moco_tf.encoders")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32, help="and half of it")
    parser.add_argument("--queue_size", type=int, default=65536)
    parser.add_argument("--steps", type=int, default=6, help="timed, after two others")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument("--predict", type=int, default=4096, help="batch to predict")
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    rows = []
    for batch in (options.batch_size // 2, options.batch_size):
        found = {method: [] for method in METHODS}
        for _ in range(options.rounds):
            for method in METHODS:
                found[method].append(run_child(options, method, batch))
        for method in METHODS:
            rows.append({
                "method": method,
                "encoder": options.encoder,
                "image_size": options.image_size,
                "batch_size": batch,
                "peak_mib": round(max(one["peak_mib"] for one in found[method])),
                "step_ms": round(min(one["step_ms"] for one in found[method])),
                "device": found[method][0]["device"],
            })  # fmt: skip
    report(rows, options.predict)


def run_child(options: argparse.Namespace, method: str, batch: int) -> dict:
    """Measures one method in a process of its own."""
    words = [f"--child={method}", f"--batch_size={batch}"]
    for key in ("encoder", "image_size", "queue_size", "steps"):
        words.append(f"--{key}={getattr(options, key)}")
    done = subprocess.run(
        [sys.executable, __file__, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        sys.exit(f"error: {method} at batch {batch} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict:
    """Peak memory, MiB, and median time of a step, ms, in this process."""
    import tensorflow as tf

    import moco_tf

    shape = (options.batch_size, options.image_size, options.image_size, 3)
    tf.keras.utils.set_random_seed(0)
    batch = {name: tf.random.normal(shape) for name in ("query", "key")}
    gpu = bool(tf.config.list_physical_devices("GPU"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    encoder = getattr(moco_tf.encoders, options.encoder)()
    if options.child == "moco":
        model = moco_tf.MoCo(encoder, queue_size=options.queue_size)
    else:
        model = moco_tf.methods.EndToEnd(encoder)
    model.compile(moco_tf.optimizers.SGD(learning_rate=0.03, weight_decay=1e-4))
    step = tf.function(model.train_step)
    times = []
    for _ in range(options.steps + 2):
        start = time.perf_counter()
        step(batch)["loss"].numpy()
        times.append(time.perf_counter() - start)
    if gpu:
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    times = sorted(times[2:])
    return {
        "peak_mib": peak,
        "step_ms": 1000 * times[len(times) // 2],
        "device": "GPU" if gpu else f"{os.cpu_count()} CPU cores",
    }


def report(rows: list[dict], predict: int) -> None:
    """Prints figures, ratios and the prediction, and writes the CSV."""
    path = pathlib.Path(__file__).with_suffix(".csv")
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("{method:<11} batch {batch_size:>4}  {peak_mib:>6} MiB  {step_ms:>6} ms"
              .format(**row))  # fmt: skip
    half, whole = rows[:2], rows[2:]
    for key in ("peak_mib", "step_ms"):
        print(f"{key}: MoCo / end-to-end = {whole[0][key] / whole[1][key]:.2f}")
    for small, large in zip(half, whole):
        slope = (large["peak_mib"] - small["peak_mib"]) / (
            large["batch_size"] - small["batch_size"]
        )
        if slope <= 0:  # what does not grow with the batch outweighs what does
            print(f"{large['method']}: no prediction from batches as small as these")
            continue
        peak = large["peak_mib"] + slope * (predict - large["batch_size"])
        print(f"{large['method']}: {peak / 1024:.1f} GiB predicted at batch {predict}")
    print(f"published: {PUBLISHED}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
