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
from moco_tf.evaluation.test_sets import facts_of, open_test_sets, rows_of
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
    tests = open_test_sets(settings.data, pretrained, test_set, train_set.source)
    test, *others = [
        extract(one, pretrained, settings.features, settings.precision, title)
        for title, one in zip(["test", *list(tests)[1:]], tests.values())
    ]
    learn = sweep if settings.protocol == "cached" else train
    outcome, of_others = learn(settings, pretrained, train_set, test, others)
    data = facts_of(train_set, tests)
    facts = {**outcome.facts, "data_set": images, "data": data}
    rows = rows_of(tests, [outcome.figures, *of_others])
    outcome = replace(outcome, facts=facts, tests=rows)
    return conclude(name, outcome, folder, settings, pretrained)
