"""What one lane makes and the other one takes; a program of its own for each.

`lane_work.py make FOLDER` trains two epochs and exports; `lane_work.py take FOLDER`
continues a copy of that run after its first epoch, and loads and serves the exports.
Each leaves its figures as FOLDER/{made,taken}.npz.
"""

import csv
import pathlib
import shutil
import sys

import moco_tf  # before TensorFlow, whose Keras it chooses

# isort: split
import numpy as np
import tensorflow as tf
from tensorflow import keras

from moco_tf.cli import main
from moco_tf.config import load_config
from moco_tf.interchange import load_pretrained
from moco_tf.pretrain import pretrain

SMALL = (
    "encoder.width=4",
    "augment.jit_compile=false",
    "data.image_size=16",
    "method.queue_size=64",
    "method.dim=16",
    "train.epochs=2",
    "train.batch_size=32",
    "train.steps_per_epoch=3",
    "monitor.every=0",
)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)


def make(folder):
    pretrain(load_config(None, [*SMALL, f"runs_dir={folder}", "name=run"]))
    run = folder / "run"
    assert main(["export", str(run), "--to", "keras", str(folder / "net.keras")]) == 0
    return figures(run, folder / "net.keras")


def take(folder):
    run = folder / "continued"
    shutil.copytree(folder / "run", run)
    back_to_first_epoch(run)
    pretrain(load_config(run / "config.yaml", [f"runs_dir={folder}", "name=continued"]))
    return {
        **figures(folder / "run", folder / "net.keras"),
        "continued": last_losses(run),
    }


def back_to_first_epoch(run):
    """Leaves the run as if it had been stopped in its second epoch."""
    for path in (run / "checkpoints").glob("epoch-2.*"):
        path.unlink()
    (run / "checkpoints/checkpoint").write_text(
        'model_checkpoint_path: "epoch-1"\nall_model_checkpoint_paths: "epoch-1"\n'
    )
    (run / "report/summary.json").unlink()


def figures(run, file):
    """What each form of the encoder gives for the same images, and the losses."""
    pretrained = load_pretrained(run)
    given = (IMAGES / 255.0 - pretrained.mean) / pretrained.std
    given = given.astype(np.float32)
    served = tf.saved_model.load(str(run / "saved_model"))
    signature = served.signatures["serving_default"]
    return {
        "rebuilt": pretrained.encoder(given, training=False).numpy(),
        "keras file": keras.models.load_model(file)(given, training=False).numpy(),
        "served": signature(tf.constant(IMAGES, tf.float32))["features"].numpy(),
        "losses": last_losses(run),
        "versions": np.array([tf.__version__, moco_tf.__version__]),
    }


def last_losses(run):
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    return np.array([float(row["loss"]) for row in rows[-2:]])


if __name__ == "__main__":
    word, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if word == "make":
        np.savez(folder / "made.npz", **make(folder))
    else:
        np.savez(folder / "taken.npz", **take(folder))
