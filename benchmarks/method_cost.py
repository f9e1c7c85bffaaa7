"""Peak memory and time of a step: MoCo against end-to-end, at equal batch.

    python benchmarks/method_cost.py [--encoder=ResNet50] [--image_size=224] \
        [--batch_size=32] [--out=benchmarks/results/method_cost.csv]
    python benchmarks/method_cost.py --plot_only=docs/images/method_cost.png

Each method runs in a fresh process on random views. On a GPU the peak is TensorFlow's
own count; on a CPU it is the process's largest resident memory less what it had before
the model was made. The methods take turns, so that a busy machine hits both alike.
Results go to a CSV and, drawn beside the published ratios, to a PNG next to it. The
memory of a batch that was not run is predicted by the line through the two that were.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
import time

METHODS = ("moco", "end_to_end")
# Chen et al. 2020 (MoCo v2, arXiv 2003.04297), table 3: memory of each of 8 V100 and
# hours of 200 epochs at a batch of 256; their estimate of end-to-end at 4096.
PUBLISHED = {"peak_mib": (5.0, 7.4), "step_ms": (53, 65)}
PUBLISHED_AT_512 = 93.0


def main() -> None:
    """Measures, or, as a child, measures one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="ResNet50", help="of moco_tf.encoders")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32, help="and half of it")
    parser.add_argument("--queue_size", type=int, default=65536)
    parser.add_argument("--steps", type=int, default=6, help="timed, after two others")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method")
    parser.add_argument(
        "--predict",
        type=int,
        default=512,
        help="images on one device to predict; 512 is the paper's 4096 over 8 devices",
    )
    here = pathlib.Path(__file__).parent / "results" / "method_cost.csv"
    parser.add_argument("--out", type=pathlib.Path, default=here, help="PATH.csv")
    parser.add_argument(
        "--plot_only",
        type=pathlib.Path,
        metavar="PATH.png",
        help="measure nothing; draw the figures of --out",
    )
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    if options.out.suffix != ".csv":
        parser.error(f"--out={options.out} is not a CSV; give a path that ends in .csv")
    if options.plot_only:
        if not options.out.is_file():
            parser.error(f"--out={options.out} does not exist; measure it first")
        draw(read(options.out), options.predict, options.plot_only)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
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
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    report(rows, options.predict)
    print(f"written to {options.out}")
    draw(rows, options.predict, options.out.with_suffix(".png"))


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
    import moco_tf  # before TensorFlow, whose Keras it chooses
    from moco_tf.callbacks.health import peak_memory

    # isort: split
    import tensorflow as tf

    shape = (options.batch_size, options.image_size, options.image_size, 3)
    tf.keras.utils.set_random_seed(0)
    batch = {name: tf.random.normal(shape) for name in ("query", "key")}
    gpu = bool(tf.config.list_logical_devices("GPU"))
    # A GPU's count is TensorFlow's own; a CPU's has the libraries too.
    before = 0 if gpu else peak_memory()
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
    times = sorted(times[2:])
    return {
        "peak_mib": peak_memory() - before,
        "step_ms": 1000 * times[len(times) // 2],
        "device": "GPU" if gpu else f"{os.cpu_count()} CPU cores",
    }


def read(path: pathlib.Path) -> list[dict]:
    """The rows that a measurement has written: both methods at half, then at whole."""
    numbers = ("image_size", "batch_size", "peak_mib", "step_ms")
    with open(path, newline="") as file:
        return [
            {key: int(row[key]) if key in numbers else row[key] for key in row}
            for row in csv.DictReader(file)
        ]


def ratios(rows: list[dict], key: str) -> list[float]:
    """MoCo's share of end-to-end, at half the batch and at the whole."""
    return [moco[key] / other[key] for moco, other in (rows[:2], rows[2:])]


def predicted(rows: list[dict], batch: int) -> list[float | None]:
    """GiB of each method at another batch, by the line through the two measured.

    None where what does not grow with the batch outweighs what does.
    """
    found = []
    for small, large in zip(rows[:2], rows[2:]):
        slope = (large["peak_mib"] - small["peak_mib"]) / (
            large["batch_size"] - small["batch_size"]
        )
        peak = large["peak_mib"] + slope * (batch - large["batch_size"])
        found.append(peak / 1024 if slope > 0 else None)
    return found


def report(rows: list[dict], predict: int) -> None:
    """Prints figures, ratios and the prediction, beside the published ones."""
    for row in rows:
        print("{method:<11} batch {batch_size:>4}  {peak_mib:>6} MiB  {step_ms:>6} ms"
              .format(**row))  # fmt: skip
    for key, (moco, end_to_end) in PUBLISHED.items():
        print(f"{key}: MoCo / end-to-end = {ratios(rows, key)[1]:.2f}, "
              f"published {moco / end_to_end:.2f}")  # fmt: skip
    for method, peak in zip(METHODS, predicted(rows, predict)):
        if peak is None:
            print(f"{method}: no prediction from batches as small as these")
        else:
            print(f"{method}: {peak:.1f} GiB predicted for {predict} images a device")
    print(f"published: end-to-end {PUBLISHED_AT_512} GB for 512 images a device")


def draw(rows: list[dict], predict: int, path: pathlib.Path) -> None:
    """Draws measured and predicted figures, and the ratios beside the published."""
    from matplotlib.figure import Figure

    from moco_tf.report import look

    figure = Figure(figsize=(9, 6.4), facecolor="white", layout="constrained")
    memory, prediction, time_of_step, shares = figure.subplots(2, 2).flat
    batches = [f"{row['batch_size']} images" for row in (rows[0], rows[2])]
    sides = {"MoCo": (rows[0::2], look.BLUE), "end-to-end": (rows[1::2], look.ORANGE)}
    for axes, key, unit in ((memory, "peak_mib", 1024), (time_of_step, "step_ms", 1e3)):
        for number, (name, (own, colour)) in enumerate(sides.items()):
            values = [row[key] / unit for row in own]
            bars(axes, number, 2, values, "{:.1f}", color=colour, label=name)
        axes.set_xticks(range(2), batches)
    predictions = zip(predicted(rows, predict), sides.values())
    for place, (peak, (_, colour)) in enumerate(predictions):
        if peak is not None:
            hatched = {"color": "white", "edgecolor": colour, "hatch": "//"}
            bars(prediction, 0, 1, [peak], "{:.0f}", start=place, **hatched)
    names = list(sides)
    if predict == 512:
        bars(prediction, 0, 1, [PUBLISHED_AT_512], "{:.0f}", start=2, color=look.GREY)
        names.append("end-to-end,\nthe paper's\nestimate")
    prediction.set_xticks(range(len(names)), names)
    keys = list(PUBLISHED)
    measured = zip(*(ratios(rows, key) for key in keys))
    published = [moco / other for moco, other in PUBLISHED.values()]
    columns = [*measured, published]
    colours = ("#8fb4d8", look.BLUE, look.GREY)
    labels = (*batches, "published")
    for number, (column, colour, name) in enumerate(zip(columns, colours, labels)):
        values = [100 * value for value in column]
        bars(shares, number, 3, values, "{:.0f}", color=colour, label=name)
    shares.set_xticks(range(2), ["peak memory", "time of a step"])
    titles = {
        memory: f"peak memory on {rows[0]['device']}, GiB",
        prediction: f"peak memory predicted for {predict} images a device, GiB",
        time_of_step: f"time of a step on {rows[0]['device']}, s",
        shares: "MoCo as a share of end-to-end, %",
    }
    for axes, text in titles.items():
        look.title(axes, text)
        look.finish(axes)
        axes.margins(y=0.15)
        if axes is not prediction:
            axes.legend(frameon=False, fontsize=8.5, labelcolor=look.INK)
    print(f"drawn to {look.save(figure, path)}")


def bars(axes, number, count, values, style, start=0, **kwargs) -> None:
    """One of `count` bars side by side in each group, with its value above it."""
    from moco_tf.report import look

    width = 0.8 / count
    places = [
        start + group + (number - (count - 1) / 2) * width
        for group in range(len(values))
    ]
    drawn = axes.bar(places, values, 0.9 * width, **kwargs)
    axes.bar_label(drawn, [style.format(value) for value in values], padding=2,
                   fontsize=8.5, color=look.INK)  # fmt: skip


if __name__ == "__main__":
    main()
