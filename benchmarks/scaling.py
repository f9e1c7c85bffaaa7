"""What a step moves, and where more GPUs stop helping: `python benchmarks/scaling.py`.

Prints the tables of docs/scaling.md: what each method's step hands to collectives,
counted in its traced graph over two logical CPU devices (some two minutes; --methods
chooses them), and for MoCo v2 on ResNet-50 the arithmetic of devices, network and hosts
for 8, 64 and 512 GPUs, from published speeds, which --speed replaces by your own. The
arithmetic's bytes must be those counted, or it stops.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator
from typing import Any

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import function_def_to_graph

from moco_tf import encoders, methods, optimizers
from moco_tf.distribution import make_strategy, mirrored

# Images/s of supervised ResNet-50 on one GPU with XLA, in 8, by NVIDIA: TensorFlow
# ResNet50v1.5 of github.com/NVIDIA/DeepLearningExamples, "Training performance".
SUPERVISED = {
    "V100, float32": 3170 / 8,
    "V100, float16": 9510 / 8,
    "A100, TF32": 7000 / 8,
    "A100, mixed precision": 17400 / 8,
}
# A step of MoCo adds a forward pass, of keys, to the three passes' worth of training.
MOCO = 3 / 4
# Twice an A100's: an assumption, for want of a published figure.
SPEEDS = {name: rate * MOCO for name, rate in SUPERVISED.items()}
SPEEDS["H100, mixed precision (assumed)"] = 2 * SPEEDS["A100, mixed precision"]
# Of results/input_pipeline.csv: two views of a photograph of 375 x 500 pixels.
PER_CORE = 571 / 2
# Mean of ImageNet's training files, and of two crops as a data service sends them.
FILE_BYTES, CROPS_BYTES = 138e9 / 1281167, 2 * 224 * 224 * 3
# Bytes/s of a GPU's links to the others of a host (NVLink), and of a host to others.
LINKS, NETWORK = 200e9, 100e9 / 8
GPUS_A_HOST = 8

Rows = list[list[str]]


def main() -> None:
    """Counts, computes and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--speed", type=float, help="images/s that one GPU trains MoCo v2 at"
    )
    parser.add_argument("--batch", type=int, default=32, help="images of each GPU")
    options = parser.parse_args()
    make_strategy(2)  # makes the devices, before anything else does
    counts = {
        name: counted(METHODS[name](encoders.ResNet50()), 224, 32)
        for name in options.methods
    }
    if counts:
        print(table(*count_rows(counts)))
    speeds = {"yours": options.speed} if options.speed else SPEEDS
    parameters = resnet50_parameters()
    if "moco" in counts:
        require_same(counts["moco"], moved(parameters, 128, 2 * 32))
    print(table(*gpu_rows(speeds, parameters, options.batch)))
    print(table(*host_rows(speeds)))


METHODS: dict[str, Any] = {
    "moco": lambda encoder: methods.MoCo(encoder),
    "moco_v3": lambda encoder: methods.MoCoV3(encoder, total_steps=100),
    "simclr": lambda encoder: methods.SimCLR(encoder),
    "end_to_end": lambda encoder: methods.EndToEnd(encoder),
    "memory_bank": lambda encoder: methods.MemoryBank(encoder, 1281167, seed=0),
}


def moved(parameters: int, dim: int, rows: int) -> dict[str, int]:
    """Bytes that a replica of MoCo hands to all-reduces in a step.

    Args:
        parameters: of the query encoder with its head.
        dim: of the embeddings.
        rows: images of all replicas, whose places are in every replica's part.
    """
    return {
        "gradients": 4 * parameters,
        "embeddings": 4 * rows * (dim + 1),  # and whether a place is taken
        "ids": 4 * rows * (3 + 1),  # an integer in three floats
        "statistics": 0,
    }


def counted(model, image_size: int, rows: int, replicas: int = 2) -> dict[str, int]:
    """The same, read from the graph of a real step over logical CPU devices.

    Args:
        model: not compiled, and not made in the scope of a strategy.
        image_size: of the crops.
        rows: images of a replica.
        replicas: logical devices, which are there.
    """
    strategy = mirrored(tuple(f"CPU:{i}" for i in range(replicas)))
    model, shared = shared_step(model, image_size, rows * replicas, strategy)
    model.make_train_function()
    graph = model.train_tf_function.get_concrete_function(shared).graph
    total: collections.Counter = collections.Counter()
    for operation in operations(graph):
        for kind, size in _exchanged(operation):
            total[kind] += size
    kinds = moved(0, 0, 0)
    return {kind: total[kind] // replicas for kind in kinds}


def shared_step(
    model, image_size: int, rows: int, strategy: tf.distribute.Strategy
) -> tuple[Any, Any]:
    """The model anew in a strategy's scope, compiled, and a batch over its replicas.

    Args:
        model: not compiled, and not made in the scope of a strategy.
        image_size: of the crops, which are noise.
        rows: images of the global batch; the keys are in another order.
        strategy: where it is to run.
    """
    with strategy.scope():
        model = type(model).from_config(model.get_config())
        model.compile(optimizers.SGD(0.1))
    random = np.random.default_rng(0)
    views = random.normal(size=(2, rows, image_size, image_size, 3)).astype(np.float32)
    batch = {"query": views[0], "key": views[1], "id": np.arange(rows)}
    batch["position"] = random.permutation(rows).astype(np.int32)
    data = tf.data.Dataset.from_tensors(batch).unbatch()
    data = data.batch(rows, drop_remainder=True)
    return model, next(iter(strategy.experimental_distribute_dataset(data)))


def operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """All operations of a traced graph and of the functions that it calls."""
    library = graph.as_graph_def().library.function
    graphs = [graph, *map(function_def_to_graph.function_def_to_graph, library)]
    return (operation for each in graphs for operation in each.get_operations())


def _exchanged(operation):
    """(kind, bytes) of what an operation of the graph takes from each replica."""
    if not operation.type.startswith("CollectiveReduce"):
        return
    tensor = source = operation.inputs[0]
    while source.op.type in ("Reshape", "Identity"):
        source = source.op.inputs[0]
    if source.op.type == "ScatterNd":  # rows in the places of the global batch
        kind = "ids" if source.shape[1] == 4 else "embeddings"
    else:
        kind = "gradients" if tensor.dtype == tf.float32 else "statistics"
    yield kind, source.shape.num_elements() * source.dtype.size


def require_same(found: dict[str, int], expected: dict[str, int]) -> None:
    """Stops where the arithmetic is not what the graph has."""
    if found != expected:
        raise SystemExit(f"counted {found}, but the arithmetic says {expected}")


def parameters_of(model) -> int:
    """How many parameters a method trains."""
    return sum(v.shape.num_elements() for v in model.trainable_variables)


def resnet50_parameters() -> int:
    """Parameters that MoCo v2 trains: ResNet-50 and the MLP head."""
    return parameters_of(methods.MoCo(encoders.ResNet50()))


def count_rows(counts: dict[str, dict[str, int]]) -> tuple[list[str], Rows]:
    """The first table."""
    head = ["method", *(f"{kind}, kB" for kind in moved(0, 0, 0))]
    return head, [
        [name, *(f"{size / 1e3:,.1f}" for size in sizes.values())]
        for name, sizes in counts.items()
    ]


def exchange_seconds(gpus: int, size: int) -> float:
    """Time of a ring's all-reduces, within hosts and between them.

    Args:
        gpus: of the run.
        size: bytes to be reduced, of each GPU.
    """
    hosts = max(1, gpus // GPUS_A_HOST)
    local = min(gpus, GPUS_A_HOST)
    inside = 2 * (local - 1) / local * size / LINKS
    return inside + 2 * (hosts - 1) / hosts * size / NETWORK


def gpu_rows(
    speeds: dict[str, float], parameters: int, batch: int
) -> tuple[list[str], Rows]:
    """The second table: the share of a step that is arithmetic, not exchange."""
    head = ["GPU", "images/s each", "a step, ms", "8 GPUs", "64", "512"]
    rows = []
    sizes = {n: sum(moved(parameters, 128, n * batch).values()) for n in (8, 64, 512)}
    for name, speed in speeds.items():
        step = batch / speed
        shares = [step / (step + exchange_seconds(*each)) for each in sizes.items()]
        cells = [f"{100 * share:.0f} %" for share in shares]
        rows.append([name, f"{speed:,.0f}", f"{1000 * step:.0f}", *cells])
    return head, rows


def host_rows(speeds: dict[str, float]) -> tuple[list[str], Rows]:
    """The third table: what 8 GPUs ask of their host."""
    head = ["8 GPUs", "images/s", "cores for two views", "files, GB/s"]
    head.append("crops of a data service, Gbit/s")
    rows = []
    for name, speed in speeds.items():
        rate = GPUS_A_HOST * speed
        rows.append(
            [
                name,
                f"{rate:,.0f}",
                f"{rate / PER_CORE:.0f}",
                f"{rate * FILE_BYTES / 1e9:.2f}",
                f"{rate * CROPS_BYTES * 8 / 1e9:.0f}",
            ]
        )
    return head, rows


def table(head: list[str], rows: Rows) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    assert moco_tf.__version__
    main()
