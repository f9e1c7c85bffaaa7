"""What a data service takes off a run: `python -m benchmarks.data_service`.

Processor time of this process for the two views of an image, of 224 pixels in batches
of 256: made here from photographs of 375 x 500 pixels, received from a worker of a
data service through `two_views`, and received from TensorFlow's service without the
order that `two_views` gives them. The worker is another process and hands out empty
images, so that it keeps up. Takes a minute. Results go to
benchmarks/results/data_service.csv.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Iterable

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import tensorflow as tf

from benchmarks.writing import write_results
from moco_tf.data import open_source, two_views
from moco_tf.data.service import served

BATCH, SIZE, STEPS = 256, 224, 12


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=0))
    host = dispatcher.target.partition("://")[2]
    command = [sys.executable, "-m", "moco_tf", "data-service", "worker"]
    worker = subprocess.Popen(
        [*command, "--dispatcher", host, "--host", "localhost"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    worker.stdout.readline()  # it serves
    steps = tf.data.Dataset.range(10**6).map(lambda step: (step, _empty()))
    bare = service.distribute(
        processing_mode=service.ShardingPolicy.DYNAMIC,
        service=dispatcher.target,
        compression=None,
    )
    ways = {
        "made here": two_views(
            open_source("synthetic", "train"), batch_size=BATCH, image_size=SIZE
        ),
        "received in order": served(steps, dispatcher.target, range(10**6), _never),
        "received": steps.apply(bare),
    }
    rows = [{"way": way, "cpu_ms": _milliseconds(ways[way])} for way in ways]
    worker.kill()
    for row in rows:
        print(f"{row['way']:18} {row['cpu_ms']:6} ms of a core for each image")
    write_results("data_service", rows)


def _empty():
    return {
        view: tf.zeros((BATCH, SIZE, SIZE, 3), tf.uint8) for view in ("query", "key")
    }


def _never(step):
    raise AssertionError(f"step {step} was not received")


def _milliseconds(dataset: Iterable) -> float:
    """Processor time of this process for each image of a dataset's batches."""
    batches = iter(dataset)
    next(batches)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        next(batches)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return round(1000 * seconds / (STEPS * BATCH), 3)


if __name__ == "__main__":
    assert moco_tf.__version__
    main()
