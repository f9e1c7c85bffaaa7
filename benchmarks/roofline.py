"""How close a step comes to what this machine can do at most, as a table and a picture.

    python -m benchmarks.roofline [--seconds=2] [--out=docs/images/roofline.png]

The roof is measured here: the best of several square matrix products through
TensorFlow, in float32 and bfloat16, and the bandwidth of memory with an operation that
reads a large array and writes another. A step is ResNet-50's with MoCo v2 of
benchmarks/step.py. Its operations are counted in its graph, from the shapes of each
convolution and matrix product in it (queries forward and backward, keys forward,
logits); its bytes are those of each operation's tensors, as if nothing stayed in a
cache, which is what an operation at a time asks of memory at most. Images a second
are those of benchmarks/results/step.csv, whose PyTorch is given the same operations and
bytes; measure both on the same quiet machine. Results go to
benchmarks/results/roofline.csv, the picture to --out.
"""

from __future__ import annotations

import argparse
import csv
import math
import pathlib
from collections.abc import Iterable

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import tensorflow as tf

from benchmarks import step
from benchmarks.scaling import operations
from benchmarks.timing import milliseconds
from benchmarks.writing import RESULTS, write_results
from moco_tf.report import look

NETWORK = "ResNet50"
DTYPES = {"float32": tf.float32, "mixed_bfloat16": tf.bfloat16}
SIDES = (1024, 2048, 3072, 4096)
COPIED = 2**26  # float32, 256 MiB
PICTURE = pathlib.Path(__file__).parents[1] / "docs" / "images" / "roofline.png"
NAMES = {
    "fit": "fit", "bare": "bare step", "torch": "PyTorch",
    "torch_last": "PyTorch, channels last",
}  # fmt: skip
MARKS = {"fit": "o", "bare": "D", "torch": "^", "torch_last": "s"}
# They move or name values that are where they are.
_FREE = {
    "Const", "ConcatOffset", "ExpandDims", "Identity", "IdentityN", "NoOp",
    "PartitionedCall", "Placeholder", "ReadVariableOp", "Reshape", "Shape", "Squeeze",
    "StatefulPartitionedCall", "StopGradient",
}  # fmt: skip


def main() -> None:
    """Measures the roof, counts the step, writes and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each size")
    parser.add_argument("--out", type=pathlib.Path, default=PICTURE, metavar="PATH.png")
    options = parser.parse_args()
    roofs = {
        name: max(product_rate(side, dtype, options.seconds) for side in SIDES)
        for name, dtype in DTYPES.items()
    }
    bandwidth = copy_rate(options.seconds)
    steps = {name: counted_step(name) for name in DTYPES}
    batch = step.NETWORKS[NETWORK]["batch"]
    rows = rows_of(roofs, bandwidth, steps, batch, measured_rates())
    for row in rows:
        print("  ".join(map(str, row.values())), flush=True)
    write_results("roofline", rows)
    print(f"drawn to {draw(rows, options.out)}")


def product_rate(side: int, dtype: tf.DType, seconds: float) -> float:
    """GFLOP/s of a product of two square matrices."""
    values = tf.cast(tf.random.normal((2, side, side)), dtype)
    left, right = tf.unstack(values)
    product = tf.function(lambda: tf.matmul(left, right))
    return _best_rate(product, 2 * side**3, seconds)


def copy_rate(seconds: float) -> float:
    """GB/s that an operation reads and writes."""
    values = tf.random.normal((COPIED,))
    return _best_rate(tf.function(lambda: -values), 2 * 4 * COPIED, seconds)


def _best_rate(call, amount, seconds):
    call()
    return amount / milliseconds(call, seconds) / 1e6


def counted_step(precision: str) -> tuple[float, float]:
    """FLOP and bytes of a step, read from its graph."""
    setting = step.NETWORKS[NETWORK]
    model = step.make_model(NETWORK, precision)
    shape = (setting["batch"], setting["size"], setting["size"], 3)
    views = {name: tf.TensorSpec(shape, tf.float32) for name in ("query", "key")}
    graph = tf.function(model.train_step).get_concrete_function(views).graph
    tf.keras.mixed_precision.set_global_policy("float32")
    found = [each for each in operations(graph) if not _never_run(each)]
    return sum(map(flops, found)), sum(map(moved_bytes, found))


def _never_run(operation):
    # The gradient of the images, which is in the graph and which nothing takes.
    unused = not any(output.consumers() for output in operation.outputs)
    return operation.type == "Conv2DBackpropInput" and unused


def flops(operation: tf.Operation) -> int:
    """Multiplications and additions of a convolution or matrix product; else 0."""
    if operation.type == "MatMul":
        inner = operation.inputs[0].shape[0 if operation.get_attr("transpose_a") else 1]
        return 2 * operation.outputs[0].shape.num_elements() * inner
    kind = operation.type
    if kind not in ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"):
        return 0
    # The pixels of the convolution's result, and of its gradient, each meet a kernel.
    if kind == "Conv2D":
        result, kernel = operation.outputs[0].shape, operation.inputs[1].shape
    elif kind == "Conv2DBackpropInput":
        result, kernel = operation.inputs[2].shape, operation.inputs[1].shape
    else:
        result, kernel = operation.inputs[2].shape, operation.outputs[0].shape
    height, width, channels, _ = kernel
    return 2 * result.num_elements() * height * width * channels


def moved_bytes(operation: tf.Operation) -> int:
    """Bytes of what an operation reads and writes, where it is not only a name."""
    if operation.type in _FREE:
        return 0
    return sum(map(_size, [*operation.inputs, *operation.outputs]))


def _size(tensor):
    if tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    return (tensor.shape.num_elements() or 0) * tensor.dtype.size


def measured_rates() -> dict[tuple[str, str], float]:
    """Images a second of results/step.csv, by way and precision."""
    with open(RESULTS / "step.csv", newline="") as file:
        return {
            (row["way"], row["precision"]): float(row["images/s"])
            for row in csv.DictReader(file)
            if row["network"] == NETWORK
        }


def rows_of(
    roofs: dict[str, float],
    bandwidth: float,
    steps: dict[str, tuple[float, float]],
    batch: int,
    rates: dict[tuple[str, str], float],
) -> list[dict]:
    """The table.

    Args:
        roofs: GFLOP/s by precision.
        bandwidth: GB/s.
        steps: FLOP and bytes of a step by precision.
        batch: images of a step.
        rates: images a second by way and precision.
    """
    rows = [
        {"what": "matrix product", "precision": name, "GFLOP an image": "",
         "FLOP a byte": f"{roof / bandwidth:.1f}", "GFLOP/s": f"{roof:.0f}",
         "of the roof": "1.00"}
        for name, roof in roofs.items()
    ]  # fmt: skip
    for (way, name), rate in rates.items():
        operations_, size = steps[name]
        speed = rate * operations_ / batch / 1e9
        rows.append({
            "what": NAMES[way],
            "precision": name,
            "GFLOP an image": f"{operations_ / batch / 1e9:.1f}",
            "FLOP a byte": f"{operations_ / size:.1f}",
            "GFLOP/s": f"{speed:.0f}",
            "of the roof": f"{speed / roofs[name]:.2f}",
        })  # fmt: skip
    return rows


def draw(rows: list[dict], path: pathlib.Path) -> pathlib.Path:
    """Draws the roofs and the ways under them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.4), facecolor="white", layout="constrained")
    axes = figure.subplots()
    colours = dict(zip(DTYPES, (look.BLUE, look.ORANGE)))
    ends = _ends(float(row["FLOP a byte"]) for row in rows)
    for row in rows:
        speed, intensity = float(row["GFLOP/s"]), float(row["FLOP a byte"])
        colour = colours[row["precision"]]
        if row["what"] == "matrix product":
            # The ridge: left of it memory is the limit, right of it arithmetic.
            axes.plot([ends[0], intensity, ends[1]],
                      [speed * ends[0] / intensity, speed, speed],
                      color=colour, linewidth=1.6,
                      label=f"matrix product, {_short(row['precision'])}: "
                            f"{speed:.0f} GFLOP/s")  # fmt: skip
            continue
        way = next(way for way, name in NAMES.items() if name == row["what"])
        axes.plot([intensity], [speed], MARKS[way], color=colour, markersize=6,
                  label=f"{row['what']}, {_short(row['precision'])}: "
                        f"{row['of the roof']} of the roof")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(*ends)
    axes.set_xlabel("FLOP for each byte read or written", fontsize=9, color=look.GREY)
    look.title(axes, "GFLOP/s")
    look.finish(axes, "both")
    # Beside the panel, where its marks cannot be taken for measured ones.
    axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK, loc="center left",
                bbox_to_anchor=(1.01, 0.5))  # fmt: skip
    look.headline(figure, "A step of ResNet-50 under this machine's roof",
                  "MoCo v2, 224 pixels, 16 images; operations and bytes counted in the "
                  "step's graph")  # fmt: skip
    return look.save(figure, path)


def _ends(intensities: Iterable[float]) -> tuple[float, float]:
    """Powers of two around all that is drawn, with room for its text."""
    found = list(intensities)
    low, high = math.floor(math.log2(min(found))), math.ceil(math.log2(max(found)))
    return 2.0 ** (low - 2), 2.0 ** (high + 2)


def _short(precision):
    return precision.replace("mixed_", "")


if __name__ == "__main__":
    assert moco_tf.__version__
    main()
