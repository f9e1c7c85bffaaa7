"""What a run has written, read back."""

import csv

import tensorflow as tf


def history(run):
    """The rows of history.csv."""
    with open(run / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(run):
    """Every array of the newest checkpoint of an epoch, by its name."""
    reader = tf.train.load_checkpoint(str(run / "checkpoints"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if "save_counter" not in name and name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def newest_place(run):
    """Whole epochs and further steps behind the newest checkpoint; (0, 0) without."""
    names = [path.stem[6:].split("+") for path in run.glob("checkpoints/epoch-*.index")]
    return max(
        ((int(epoch), int(*step or [0])) for epoch, *step in names), default=(0, 0)
    )


def write_sweep(path):
    """A sweep of two runs, cold-seed0 and warm-seed0 in swept/."""
    path.write_text(
        "name: swept\ntitle: two temperatures\nseeds: [0]\nrows:\n"
        "- {name: cold, overrides: [method.temperature=0.1]}\n"
        "- {name: warm, overrides: [method.temperature=0.5]}\n"
    )
    return path
