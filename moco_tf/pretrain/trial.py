"""A few steps of a configuration on this machine: how fast, and in how much memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Iterator

import tensorflow as tf
from tensorflow import keras

from moco_tf.config import Config, ConfigError
from moco_tf.distribution import make_strategy
from moco_tf.exchange import local_replicas
from moco_tf.log import hide_first_compilation
from moco_tf.mistakes import reason
from moco_tf.pretrain.build import build_model
from moco_tf.pretrain.images import Images


@dataclasses.dataclass(frozen=True)
class Machine:
    """What there is to compute with.

    Attributes:
        gpus: how many TensorFlow sees.
        cores: of the CPU.
        free_bytes: of the memory that a step takes, a GPU's where there is one; None
            where that is not known.
    """

    gpus: int
    cores: int
    free_bytes: int | None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a few steps took.

    Attributes:
        batch_size: of the steps.
        images_per_second: reading and cropping included.
        bytes_per_image: of memory that a step takes, for each image of its batch.
    """

    batch_size: int
    images_per_second: float
    bytes_per_image: float


def this_machine() -> Machine:
    """Looks at devices and free memory."""
    import psutil  # only here: what it imports of itself differs between systems

    gpus = len(tf.config.list_physical_devices("GPU"))
    free = _free_on_gpu() if gpus else psutil.virtual_memory().available
    return Machine(gpus, os.cpu_count() or 1, free)


def _free_on_gpu():
    """Of the fullest GPU, as NVIDIA's tool says; TensorFlow does not."""
    words = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return min(int(line) for line in said.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def trial(config: Config, seconds: float = 5.0) -> Trial:
    """Trains for some seconds, on the images of a configuration; nothing is kept.

    Args:
        config: the run, with at least a batch of images.
        seconds: of the steps that are measured; compiling them comes before.

    Raises:
        DataError: the images cannot be had.
        ConfigError: the device cannot hold a step.
    """
    try:
        return _trial(config, seconds)
    except tf.errors.ResourceExhaustedError as error:
        raise ConfigError(
            f"the device's memory cannot hold a step of {config.train.batch_size} "
            f"images ({reason(error)}); stop what else runs on it, or go without "
            "measuring (--no_measure)."
        ) from error


def _trial(config, seconds):
    keras.backend.clear_session()
    keras.utils.set_random_seed(config.seed)
    hide_first_compilation()
    strategy = make_strategy(config.distribution.replicas, config.distribution.gpus)
    images = Images(config, strategy)
    with _watched_memory() as taken:
        with strategy.scope():
            replicas, examples = local_replicas(strategy), images.source.num_examples
            model = build_model(config, images.steps, replicas, examples)
        batches = images.batches(0)
        if strategy.num_replicas_in_sync > 1:
            batches = strategy.experimental_distribute_dataset(batches)
        batches, train = iter(batches), model.make_train_function()
        train(batches)
        done, start = 0, time.perf_counter()
        while done < 2 or time.perf_counter() - start < seconds:
            logs = train(batches)
            _ = [value.numpy() for value in logs.values()]  # the device has finished
            done += 1
        took = time.perf_counter() - start
    batch = config.train.batch_size
    return Trial(batch, done * batch / took, max(taken) / batch)


@contextlib.contextmanager
def _watched_memory() -> Iterator[list[int]]:
    """Bytes taken while something runs, over those before it: on GPUs, or in all."""
    import psutil  # as in `this_machine`

    taken, over = [0], threading.Event()
    gpus = [f"GPU:{n}" for n in range(len(tf.config.list_logical_devices("GPU")))]
    process = psutil.Process()
    before = process.memory_info().rss

    def look():
        while not over.wait(0.02):
            taken.append(process.memory_info().rss - before)

    watcher = threading.Thread(target=look, daemon=True)
    if not gpus:
        watcher.start()
    try:
        yield taken
    finally:
        over.set()
        if gpus:
            usage = [tf.config.experimental.get_memory_info(name) for name in gpus]
            taken.append(sum(gpu["peak"] for gpu in usage))
        else:
            watcher.join()
