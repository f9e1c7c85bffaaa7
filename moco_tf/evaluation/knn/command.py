"""`evaluate.py knn`: the vote of the nearest training images."""

from __future__ import annotations

import math

import numpy as np

from moco_tf.config import ConfigError
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.knn.settings import KNN
from moco_tf.evaluation.knn.vote import knn_predict, knn_predict_all
from moco_tf.evaluation.labelled_sets import open_labelled_sets, place_of_results
from moco_tf.evaluation.results.output import Outcome, conclude, percent, text_table
from moco_tf.evaluation.test_sets import (
    extract_all,
    facts_of,
    open_test_sets,
    rows_of,
)
from moco_tf.interchange import Pretrained
from moco_tf.report import confusion_matrix


def run(settings: KNN, pretrained: Pretrained) -> dict:
    """Measures every k and temperature in one pass, and writes report/knn[_on_IMAGES].

    Args:
        settings: k, temperatures, data and the like.
        pretrained: the encoder.

    Returns:
        What results.json holds. Its figure belongs to the largest k and the first
        temperature (200 and 0.07 unless told otherwise, Wu et al. 2018); nothing is
        chosen by the test images.

    Raises:
        ConfigError: more neighbours than training images, or nowhere to write.
        DataError: the data cannot be had or do not fit.
    """
    folder, images = place_of_results("knn", settings, pretrained)
    train_set, test_set = open_labelled_sets(settings.data, pretrained)
    count = train_set.source.num_examples
    if max(settings.k) > count:
        raise ConfigError(
            f"k={max(settings.k)} is more than the {count} training images; use "
            f"--k=[{min(count, 10)}] or other numbers up to {count}."
        )
    tests = open_test_sets(settings.data, pretrained, test_set, train_set.source)
    train, test, *others = extract_all(train_set, tests, settings, pretrained)
    temperatures = (*settings.temperature, math.inf)
    predicted = knn_predict_all(
        train.features,
        train.labels,
        test.features,
        settings.k,
        temperatures,
        progress="kNN votes",
    )
    top1 = np.mean(predicted == test.labels, axis=2)
    rows = [
        {"k": k, "temperature": _name(temperature), "top1": float(top1[i, j])}
        for i, temperature in enumerate(temperatures)
        for j, k in enumerate(settings.k)
    ]
    shown = int(np.argmax(settings.k))
    names = test_set.source.class_names
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (test.labels, predicted[0, shown]), 1)
    headline = float(top1[0, shown])
    shares = [headline]
    for other in others:
        voted = knn_predict(
            train.features,
            train.labels,
            other.features,
            settings.k[shown],
            temperatures[0],
        )
        shares.append(float(np.mean(voted == other.labels)))
    vote = f"k {settings.k[shown]}, {_describe(temperatures[0])}"
    warning = explain_chance(
        headline,
        test.labels,
        "the encoder is untrained, or what it learnt has nothing to do with these "
        "classes; compare with an untrained encoder.",
        features=test.features,
    )
    title = f"kNN ({vote}): {percent(headline)}"
    table = [
        [_describe(temperature), *map(percent, top1[i])]
        for i, temperature in enumerate(temperatures)
    ]
    outcome = Outcome(
        figures={"top1": headline},
        facts={
            "vote": vote,
            "rows": rows,
            "per_class": _per_class(confusion, names),
            "confusion": confusion.tolist(),
            "data_set": images,
            "data": facts_of(train_set, tests),
        },
        rows=rows,
        pictures={"confusion": confusion_matrix(confusion, names, title)},
        table=text_table(["kNN top-1", *(f"k {k}" for k in settings.k)], table),
        warning=warning,
        tests=rows_of(tests, [{"top1": share} for share in shares]),
    )
    return conclude("knn", outcome, folder, settings, pretrained)


def _name(temperature):
    return "uniform" if math.isinf(temperature) else temperature


def _describe(temperature):
    if math.isinf(temperature):
        return "equal votes"
    return f"temperature {temperature:g}"


def _per_class(confusion, names):
    """Accuracy of each class; None where the test images have none of it."""
    totals = confusion.sum(axis=1)
    return {
        name: float(confusion[i, i] / totals[i]) if totals[i] else None
        for i, name in enumerate(names)
    }
