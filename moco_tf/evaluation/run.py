"""How a command of evaluate.py is run."""

from __future__ import annotations

import importlib

from tensorflow import keras

from moco_tf.config.limits import ConfigError
from moco_tf.distribution import DistributionError, make_strategy
from moco_tf.evaluation.commands import ON_IMAGES, ON_RESULTS, Evaluation
from moco_tf.evaluation.given import sort_given
from moco_tf.evaluation.results.settings import Compare, Tables
from moco_tf.interchange import load_pretrained
from moco_tf.log import set_up_log

# Where each command is.
COMMANDS = {
    "knn": "knn.command",
    "linear": "linear.command",
    "fewshot": "fewshot.command",
    "retrieve": "retrieval.command",
    "finetune": "finetune.command",
    "detect": "detection.command",
    "segment": "segmentation.command",
    "compare": "results.compare",
    "tables": "results.tables",
    "embed": "embed.command",
    "search": "search.command",
    "duplicates": "duplicates.command",
    "cluster": "cluster.command",
    "outliers": "outliers.command",
    "map": "map.command",
}


def evaluate(evaluation: Evaluation) -> dict:
    """Runs a protocol on an encoder, under its strategy and in its precision.

    Args:
        evaluation: what evaluate.py was asked for.

    Returns:
        What the protocol wrote to its results.json.

    Raises:
        ConfigError: the settings do not fit the encoder, the data or the machine.
        DataError: the data cannot be had or do not fit.
        InterchangeError: there is no encoder at the path.
    """
    set_up_log()
    settings = evaluation.settings
    protocol = importlib.import_module(
        f"moco_tf.evaluation.{COMMANDS[evaluation.protocol]}"
    )
    if evaluation.protocol in ON_RESULTS:
        return protocol.run(settings, evaluation.paths)
    assert not isinstance(settings, (Compare, Tables))  # those are ON_RESULTS
    devices = settings.distribution
    try:
        strategy = make_strategy(devices.replicas, devices.gpus)
    except DistributionError as error:
        raise ConfigError(str(error)) from None
    keras.mixed_precision.set_global_policy(settings.precision)
    try:
        with strategy.scope():
            if evaluation.protocol not in ON_IMAGES:
                return protocol.run(settings, load_pretrained(evaluation.paths[0]))
            given = sort_given(evaluation.protocol, evaluation.paths)
            pretrained = load_pretrained(given.encoder) if given.encoder else None
            return protocol.run(settings, given, pretrained)
    finally:
        keras.mixed_precision.set_global_policy("float32")
