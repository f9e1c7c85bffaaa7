"""Runs that go well and wrong on purpose, their curves, and what they say of it.

    python -m benchmarks.curves [--only NAME ...]     # about a minute each
    python -m benchmarks.curves --plot_only           # draws what was measured before

Each is the demo at half its width and length with what `RUNS` changes, in a process of
its own. Histories go to docs/tables/curves.csv, sentences to curves_said.csv beside it,
and a picture of each run to docs/images/curves_NAME.png, with the healthy one in grey.
docs/curves.md explains them.
"""

from __future__ import annotations

import argparse
import csv
import os
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]
TABLES, IMAGES = ROOT / "docs" / "tables", ROOT / "docs" / "images"
SCALE = ("encoder.width=8", "train.epochs=8", "monitor.linear=false",
         "monitor.max_train=2048", "monitor.max_test=1024",
         "log.quality_images=null")  # fmt: skip
COLUMNS = ("loss", "loss_ceiling", "top1", "knn", "feature_std", "effective_rank",
           "negative_similarity", "input_wait")  # fmt: skip
# How what a run says of itself begins.
SAID = ("The run looks", "The loss", "The own key", "Training waits", "The negatives",
        "error:")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run, and what is wrong with it.

    Attributes:
        name: of its picture.
        title: above that picture.
        overrides: of the demo's fields; FOLDER stands for large made photographs.
    """

    name: str
    title: str
    overrides: tuple[str, ...] = ()


RUNS = (
    Run("healthy", "Healthy"),
    Run("collapsed", "Collapsed", ("method.key_momentum=0",)),
    Run("stuck", "Stuck", ("optimizer.learning_rate=1e-5",)),
    Run("leaking", "Leaking batch statistics",
        ("method.shuffle_keys=false", "method.bn_groups=32")),
    Run("shortcut", "A shortcut: views without changes of colour or place",
        ("data.crop_scale=[0.9,1]", "augment.jitter=0", "augment.grayscale=0",
         "augment.horizontal_flip=0")),
    Run("long_queue", "A queue longer than the set", ("method.queue_size=16384",)),
    Run("starved", "Starved of images",
        ("data.source=folder", "data.data_dir=FOLDER", "data.decode_threads=1",
         "monitor.every=0", "train.batch_size=64")),
    Run("diverging", "Diverging", ("optimizer.learning_rate=1e5",)),
)  # fmt: skip


def main() -> None:
    """Trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [run.name for run in RUNS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--plot_only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.plot_only:
        for run in RUNS:
            if run.name in options.only:
                rows, said = trained(run)
                replace(TABLES / "curves.csv", run.name, rows)
                replace(TABLES / "curves_said.csv", run.name, said)
    histories = read(TABLES / "curves.csv")
    for run in RUNS:
        if any(row["loss"] for row in histories.get(run.name, ())):
            draw(run, histories)


def trained(run: Run) -> tuple[list[dict], list[dict]]:
    """Trains a run in a process of its own.

    Returns:
        The rows of its history, and its sentences.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [*SCALE, *run.overrides, f"name={run.name}", f"runs_dir={folder}/runs"]
        if any("FOLDER" in word for word in words):
            make_photos(pathlib.Path(folder) / "photos")
            words = [word.replace("FOLDER", f"{folder}/photos") for word in words]
        print(f"\n{run.title}: {' '.join(run.overrides)}", flush=True)
        done = subprocess.run(
            [sys.executable, "train.py", *(f"--{word}" for word in words)],
            cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "COLUMNS": "10000"},
        )  # fmt: skip
        print(done.stdout, done.stderr, flush=True)
        with open(f"{folder}/runs/{run.name}/history.csv", newline="") as file:
            history = list(csv.DictReader(file))
    lines = (done.stdout + done.stderr).replace(f"{folder}/", "").splitlines()
    said = [line.strip() for line in lines if line.strip().startswith(SAID)]
    rows = [
        {"epoch": row["epoch"], **{name: row.get(name, "") for name in COLUMNS}}
        for row in history
    ]
    return rows, [{"said": sentence} for sentence in dict.fromkeys(said)]


def make_photos(folder: pathlib.Path, count: int = 512) -> None:
    """Writes made photographs of nine megapixels, 32 different ones."""
    import io

    from PIL import Image

    import moco_tf  # noqa: F401  before TensorFlow, whose Keras it chooses
    from moco_tf.data.sources.synthetic import photographs

    folder.mkdir()
    files = []
    for photograph in photographs():
        image = Image.open(io.BytesIO(photograph)).resize((3000, 3000))
        image.save(written := io.BytesIO(), "jpeg", quality=90)
        files.append(written.getvalue())
    for number in range(count):
        # A comment after its end makes each file another one.
        text = files[number % len(files)] + b"%d" % number
        (folder / f"{number:04}.jpg").write_bytes(text)


def replace(path: pathlib.Path, name: str, rows: list[dict]) -> None:
    """Puts a run's rows into a table in the place of those that it had."""
    kept = read(path) if path.exists() else {}
    kept[name] = rows
    heads = ["epoch", *COLUMNS] if path.name == "curves.csv" else ["said"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["run", *heads])
        writer.writeheader()
        for run in RUNS:
            writer.writerows({"run": run.name, **row} for row in kept.get(run.name, []))


def read(path: pathlib.Path) -> dict[str, list[dict]]:
    """The rows of each run of a table."""
    found: dict[str, list[dict]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row.pop("run"), []).append(row)
    return found


def draw(run: Run, histories: dict[str, list[dict]]) -> None:
    """Draws a run's curves beside the healthy one's."""
    from matplotlib.figure import Figure

    from moco_tf.report import look

    own, healthy = histories[run.name], histories["healthy"]
    figure = Figure(figsize=(11, 2.5), facecolor="white", layout="constrained")
    panels = figure.subplots(1, 4)
    columns = (
        ("loss, and ln(1+K)", "loss", 1),
        ("own key found, %", "top1", 100),
        ("kNN, %", "knn", 100),
        ("feature deviation", "feature_std", 1),
    )
    if run.name == "starved":
        columns = (*columns[:2], ("waiting for images, %", "input_wait", 100),
                   columns[3])  # fmt: skip
    for axes, (title, column, scale) in zip(panels, columns):
        look.title(axes, title)
        if run.name != "healthy":
            line(axes, healthy, column, scale, color="#bbbbbb", linewidth=1.5)
        line(axes, own, column, scale, color=look.BLUE, linewidth=2, marker="o",
             markersize=3.5)  # fmt: skip
        if column == "loss":
            line(axes, own, "loss_ceiling", 1, color=look.GREY, linewidth=1,
                 linestyle="--")  # fmt: skip
        top = max(axes.get_ylim()[1], 1.1 if column == "feature_std" else 0)
        axes.set_ylim(0, 102 if scale == 100 else 1.1 * top)
        axes.set_xlim(0, len(healthy) - 1)
        look.finish(axes)
    path = look.save(figure, IMAGES / f"curves_{run.name}.png")
    print(f"drawn to {path}")


def line(axes, rows: list[dict], column: str, scale: float, **style) -> None:
    """Draws the filled cells of a column over the epochs."""
    points = [(int(row["epoch"]), scale * float(row[column]))
              for row in rows if row[column] not in ("", "nan")]  # fmt: skip
    if points:
        axes.plot(*zip(*points), **style)


if __name__ == "__main__":
    main()
