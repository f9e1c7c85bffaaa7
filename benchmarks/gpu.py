"""The parts of benchmarks/gpu.sh, which runs them one after the other on a GPU.

    python -m benchmarks.gpu devices
    python -m benchmarks.gpu step --found FILE --precision=float32 [--xla] \
        [--batches 64 512]
    python -m benchmarks.gpu torch --found FILE --precision=mixed_float16
    python -m benchmarks.gpu augment --found FILE
    python -m benchmarks.gpu table --found FILE

A part adds what it finds to FILE at once, a line of JSON each, so that one that is
stopped loses no more than what it was at. `step` is MoCo v2's on ResNet-50 of 224
pixels, as benchmarks/step.py makes it; `--xla` compiles it as `train.jit_compile` does.
`torch` is the same in PyTorch, channels last, under autocast (without the scaling of
gradients that float16 needs to learn, which costs little). Float32 is TensorFloat-32
where the frameworks choose it by themselves. `augment` compares the device's views with
the CPU's, from the same seeds. `table` prints all, and writes
benchmarks/results/gpu.csv. Without a GPU only `devices` refuses: the other parts then
run on the CPU, so that tests can run them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

from benchmarks.step import NETWORKS, make_model, torch_step
from benchmarks.timing import milliseconds
from benchmarks.writing import write_results

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
COLUMNS = ("what", "precision", "xla", "batch", "images/s", "peak MiB", "grey levels")
RATE = 0.05  # of learning


def main() -> None:
    """Runs one part."""
    options = parse(sys.argv[1:])
    PARTS[options.part](options)


def parse(words: list[str]) -> argparse.Namespace:
    """What the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--found", type=pathlib.Path, help="file of what was found")
    parser.add_argument("--network", choices=NETWORKS, default="ResNet50")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--xla", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each batch")
    options = parser.parse_args(words)
    if options.found is None and options.part != "devices":
        parser.error(f"{options.part} needs --found=FILE")
    return options


def devices(options: argparse.Namespace) -> None:
    """Says which GPUs there are, or that there is none."""
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        sys.exit(
            "error: TensorFlow finds no GPU here; run benchmarks/gpu.sh on a machine "
            "with one, where the project is installed with its extra `gpu`."
        )
    for gpu in found:
        details = tf.config.experimental.get_device_details(gpu)
        print(gpu.name, details.get("device_name"), details.get("compute_capability"))
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    print(f"TensorFlow {tf.__version__}, TensorFloat-32 {'on' if tf32 else 'off'}")


def steps(options: argparse.Namespace) -> None:
    """Times this project's step at each batch."""
    name, xla = options.precision, options.xla
    for batch in options.batches:
        row = {"what": "moco_tf", "precision": name, "xla": "yes" if xla else "no"}
        row["batch"] = batch
        _forget_peak()
        step = _step(options, batch)
        _add(options, {**row, **_measured(step, batch, options.seconds), "peak MiB":
                       f"{_peak():.0f}"})  # fmt: skip


def torch_steps(options: argparse.Namespace) -> None:
    """Times PyTorch's step at each batch."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    low = {"mixed_float16": torch.float16}.get(options.precision, torch.bfloat16)
    for batch in options.batches:
        NETWORKS[options.network].update(batch=batch, size=options.size)
        with torch.device(device):
            step = torch_step(options.network, "float32", last=True)

        def cast(step=step):
            enabled = options.precision != "float32"
            with torch.device(device), torch.autocast(device, low, enabled=enabled):
                step()

        row = {"what": "torch", "precision": options.precision, "xla": "no"}
        row.update(batch=batch, **_measured(cast, batch, options.seconds))
        if device == "cuda":
            row["peak MiB"] = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"
            torch.cuda.reset_peak_memory_stats()
        _add(options, row)


def augmentations(options: argparse.Namespace) -> None:
    """Compares each recipe's views on the device with the CPU's."""
    import moco_tf  # noqa: F401  before TensorFlow, whose Keras it chooses

    # isort: split
    import tensorflow as tf

    from moco_tf import augment

    batch = options.batches[0]
    shape = (batch, options.size, options.size, 3)
    images = tf.cast(tf.random.uniform(shape, 0, 256, tf.int32), tf.uint8)
    seeds = tf.random.uniform((batch, 2), 0, 2**31 - 1, tf.int32)
    place = "GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0"
    for name in ("moco_v1", "moco_v2", "simclr"):
        layers = getattr(augment, name)().layers[:-1]  # without the normalisation
        with tf.device("CPU:0"):
            expected = augment.Recipe(layers, jit_compile=False)(images, seeds=seeds)
        for xla in (False, True):
            with tf.device(place):
                found = augment.Recipe(layers, jit_compile=xla)(images, seeds=seeds)
            apart = tf.abs(found - expected)
            far = float(tf.reduce_mean(tf.cast(apart > 1, tf.float32)))
            said = f"{float(tf.reduce_max(apart)):g} at most, {100 * far:.4f} % over 1"
            row = {"what": name, "xla": "yes" if xla else "no", "batch": batch}
            _add(options, {**row, "grey levels": said})


def table(options: argparse.Namespace) -> None:
    """Prints what was found, and writes it where results are."""
    rows = [{name: row.get(name, "") for name in COLUMNS} for row in _found(options)]
    if not rows:
        sys.exit(f"error: {options.found} has nothing that was measured.")
    for row in [dict(zip(COLUMNS, COLUMNS)), *rows]:
        print("  ".join(f"{value!s:>14}" for value in row.values()))
    write_results("gpu", rows)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "devices": devices, "step": steps, "torch": torch_steps, "augment": augmentations,
    "table": table,
}  # fmt: skip


def _step(options, batch):
    import tensorflow as tf

    import moco_tf

    NETWORKS[options.network].update(batch=batch, size=options.size)
    model = make_model(options.network, options.precision)
    model.compile(moco_tf.optimizers.SGD(RATE), jit_compile=options.xla)
    model.make_train_function()
    shape = (batch, options.size, options.size, 3)
    views = {name: tf.random.normal(shape) for name in ("query", "key")}
    return lambda: model.train_tf_function(views)["loss"].numpy()


def _measured(step, batch, seconds):
    for _ in range(2):
        step()
    return {"images/s": f"{1000 * batch / milliseconds(step, seconds):.1f}"}


def _forget_peak():
    import tensorflow as tf

    for gpu in tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats(gpu.name.rpartition("device:")[2])


def _peak():
    from moco_tf.callbacks.health import peak_memory

    return peak_memory()


def _add(options, row):
    print("  ".join(map(str, row.values())), flush=True)
    with open(options.found, "a") as file:
        file.write(json.dumps(row) + "\n")


def _found(options) -> Iterator[dict]:
    if not options.found.is_file():
        return
    with open(options.found) as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()
