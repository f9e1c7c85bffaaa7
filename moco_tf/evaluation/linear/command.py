"""`evaluate.py linear`: a linear classifier on the frozen encoder."""

from __future__ import annotations

from dataclasses import replace

from moco_tf.evaluation.labelled_sets import (
    extract,
    open_labelled_sets,
    place_of_results,
)
from moco_tf.evaluation.linear.cached import sweep
from moco_tf.evaluation.linear.on_crops import train
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.results.output import conclude
from moco_tf.interchange import Pretrained


def run(settings: Linear, pretrained: Pretrained) -> dict:
    """Trains and scores the classifier, and writes report/linear_PROTOCOL[_on_IMAGES].

    Args:
        settings: which of the protocols, and its numbers.
        pretrained: the encoder, which is not changed.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: the training diverged, or nowhere to write.
        DataError: the data cannot be had or do not fit.
    """
    name = f"linear_{settings.protocol}"
    folder, images = place_of_results(name, settings, pretrained)
    train_set, test_set = open_labelled_sets(settings.data, pretrained)
    test = extract(test_set, pretrained, settings.features, settings.precision, "test")
    learn = sweep if settings.protocol == "cached" else train
    outcome = learn(settings, pretrained, train_set, test)
    data = {"train": train_set.facts, "test": test_set.facts}
    facts = {**outcome.facts, "data_set": images, "data": data}
    outcome = replace(outcome, facts=facts)
    return conclude(name, outcome, folder, settings, pretrained)
