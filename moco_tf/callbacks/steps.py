"""What happens between two looks at a run within an epoch."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from moco_tf.methods.base import FINITE, ContrastiveModel


def mean_parts(model: ContrastiveModel) -> list[tf.Variable]:
    """The variables behind a model's running means, replica by replica of this host.

    TensorFlow itself would give their sum over replicas, and over hosts only where all
    of them ask.
    """
    strategy = model.distribute_strategy
    return [
        part
        for mean in model.metrics
        for variable in mean.variables
        for part in strategy.experimental_local_results(variable)
    ]


def running_sums(model: ContrastiveModel) -> np.ndarray:
    """What lies behind a model's running means, on each replica of this host.

    Returns:
        float64 (means, 2, replicas): the sums and the counts.
    """
    values = np.array([part.numpy() for part in mean_parts(model)], np.float64)
    return values.reshape(len(model.metrics), 2, -1)


def finite_steps(model: ContrastiveModel) -> int:
    """How many steps of the epoch had a finite loss on all replicas of this host."""
    names = [mean.name for mean in model.metrics]
    totals = running_sums(model)[names.index(FINITE), 0]
    # After the first that is not, no replica's is.
    return int(totals.sum() / len(totals))


class StepFigures:
    """Figures of this host over the steps since the last look, at the cost of a look.

    Args:
        model: in training.
        batch_size: of the global batch.
    """

    def __init__(self, model: ContrastiveModel, batch_size: int):
        self._model, self._batch_size = model, batch_size
        self._norm = tf.function(tf.linalg.global_norm)
        self.begin()

    def begin(self) -> None:
        """Forgets what lies behind, as at an epoch's start."""
        self._look(running_sums(self._model))

    def since(self) -> dict[str, float]:
        """The means over the steps since the last look, and what else is known.

        Returns:
            The model's own measures, "learning_rate", "weight_norm" (of all that the
            optimiser moves), "images_per_second" and "input_wait".
        """
        model, steps, waited = self._model, self._steps, self._waited
        began, before = self._began, self._sums
        # Waits for the device, so that the time below is that of the steps.
        now = running_sums(model)
        self._look(now)
        sums, counts = (now - before).sum(axis=2).T
        trained, seconds = self._steps - steps, self._began - began
        means = {
            mean.name: total / count
            for mean, total, count in zip(model.metrics, sums, counts)
            if count and mean.name != FINITE
        }
        return {
            **means,
            "learning_rate": float(model.optimizer.learning_rate.numpy()),
            "weight_norm": float(self._norm(model.trained_variables)),
            "images_per_second": trained * self._batch_size / seconds,
            "input_wait": (self._waited - waited) / seconds,
        }

    def _look(self, sums):
        self._sums, self._began = sums, time.perf_counter()
        self._waited = self._model.input_seconds
        self._steps = self._model.steps_made
