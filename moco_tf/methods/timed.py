"""Keras's train function, but for the wait for the next batch, timed outside of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow import keras

from moco_tf.encoders.encode import compiled


def timed_train_function(model: keras.Model) -> Callable[[Iterator], dict]:
    """What `fit` calls for each step: takes a batch and trains on it.

    Args:
        model: whose `train_step` is run on every replica. Its `input_seconds`,
            `steps_made` and `doing` are kept, and its `train_tf_function` is set.

    Returns:
        Iterator over batches -> logs, the means over this host's replicas. Those of an
        epoch, over all hosts, Keras asks the model for.
    """
    strategy = model.distribute_strategy
    names: list[str] = []  # of the logs, known once a step is traced

    replicas = strategy.num_replicas_in_sync

    def run_step(batch):
        by_itself = model.jit_compile and replicas > 1
        with compiled() if by_itself else contextlib.nullcontext():
            logs = model.train_step(batch)
        model._train_counter.assign_add(1)
        names[:] = sorted(logs)
        return tf.stack([logs[name] for name in names])

    if model.jit_compile and replicas == 1:
        run_step = tf.function(run_step, jit_compile=True)

    def run(batch):
        model.own_logs = True
        try:
            means = strategy.run(run_step, args=(batch,))
        finally:
            model.own_logs = False
        own = strategy.experimental_local_results(means)
        return dict(zip(names, tf.unstack(tf.add_n(own) / len(own))))

    if not model.run_eagerly:
        run = tf.function(run)
    model.train_tf_function = run

    def train_function(iterator):
        start, model.doing = time.perf_counter(), "images"
        batch = next(iterator)
        model.input_seconds += time.perf_counter() - start
        model.doing = "step"
        logs = run(batch)
        model.steps_made, model.doing = model.steps_made + 1, "after"
        return logs

    return train_function
