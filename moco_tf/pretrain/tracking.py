"""A run in Weights & Biases or MLflow, by the Keras callback that each brings."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator

from tensorflow import keras

from moco_tf.cluster import find_cluster
from moco_tf.config import Config, ConfigError
from moco_tf.config.checks import check_tracker
from moco_tf.mistakes import reason
from moco_tf.paths import is_remote
from moco_tf.pretrain.claim import write_whole

_NOTE = "tracker.json"


@contextlib.contextmanager
def tracked(
    config: Config, run_dir: pathlib.Path, epochs: int
) -> Iterator[list[keras.callbacks.Callback]]:
    """Logs a run where its configuration says, on its first host.

    The tracker's name of the run is kept in `tracker.json`, by which a run that goes on
    goes on there too.

    Args:
        config: the run; its hyper-parameters go along.
        run_dir: where it is.
        epochs: that lie behind it.

    Yields:
        The tracker's callback, for `fit`; nothing where there is none, or nothing left
        to train.

    Raises:
        ConfigError: the library is missing, or its service refuses the run.
    """
    check_tracker(config)
    cluster = find_cluster()
    is_over = epochs == config.train.epochs
    if config.log.tracker is None or is_over or (cluster and cluster.index):
        yield []
        return
    begin = {"wandb": _wandb, "mlflow": _mlflow}[config.log.tracker]
    with begin(config, run_dir) as callback:
        # Otherwise Keras turns the logs into numbers every step.
        callback._supports_tf_logs = True
        yield [callback]


@contextlib.contextmanager
def _wandb(config, run_dir):
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    try:
        run = wandb.init(
            project=config.log.project,
            name=config.name,
            id=_noted("wandb", run_dir),
            resume="allow",
            config=config.hyperparameters,
            dir=None if is_remote(run_dir) else str(run_dir),
            settings=wandb.Settings(console="off"),  # the table is for this terminal
        )
    except wandb.Error as error:
        raise ConfigError(
            f"log.tracker=wandb: Weights & Biases did not begin ({reason(error)}); log "
            "in with `wandb login`, or set WANDB_MODE=offline and `wandb sync` later."
        ) from error
    _note("wandb", run.id, run_dir)
    code = 1  # unless all goes well
    try:
        yield WandbMetricsLogger()
        code = 0
    finally:
        run.finish(exit_code=code)


@contextlib.contextmanager
def _mlflow(config, run_dir):
    import mlflow

    # The one in mlflow.keras is Keras 3's.
    from mlflow.tensorflow import MlflowCallback

    try:
        if config.log.project:
            mlflow.set_experiment(config.log.project)
        noted = _noted("mlflow", run_dir)
        # Within a run of the caller's own where there is one.
        run = mlflow.start_run(run_id=noted, run_name=config.name, nested=True)
    except Exception as error:  # MLflow's, a database's or the network's
        raise ConfigError(
            f"log.tracker=mlflow: MLflow did not begin ({reason(error)}); check "
            f"MLFLOW_TRACKING_URI and its server, or delete {run_dir / _NOTE} where "
            "the run there is gone."
        ) from error
    _note("mlflow", run.info.run_id, run_dir)
    with run:
        mlflow.log_params(config.hyperparameters)
        yield MlflowCallback()
        mlflow.flush_async_logging()


def _noted(tracker, run_dir):
    """What a tracker called the run when it began; None: it begins."""
    try:
        return json.loads((run_dir / _NOTE).read_text()).get(tracker)
    except (OSError, ValueError, AttributeError):
        return None


def _note(tracker, name, run_dir):
    write_whole(run_dir / _NOTE, json.dumps({tracker: name}) + "\n")
