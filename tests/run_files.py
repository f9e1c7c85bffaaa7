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
