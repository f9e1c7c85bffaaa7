"""`evaluate.py fewshot`: what a few labels are enough for."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from moco_tf.config import ConfigError
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.fewshot.accuracy import accuracies
from moco_tf.evaluation.fewshot.settings import FewShot
from moco_tf.evaluation.labelled_sets import open_labelled_sets, place_of_results
from moco_tf.evaluation.results.output import (
    Outcome,
    conclude,
    mean_and_spread,
    text_table,
)
from moco_tf.evaluation.test_sets import (
    extract_all,
    facts_of,
    open_test_sets,
    rows_of,
)
from moco_tf.interchange import Pretrained
from moco_tf.log import watched
from moco_tf.report import look


def run(settings: FewShot, pretrained: Pretrained) -> dict:
    """Fits a classifier to every draw and writes report/fewshot[_on_IMAGES].

    Args:
        settings: how many images, how often.
        pretrained: the encoder.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: a class has fewer images than asked for, or nowhere to write.
        DataError: the data cannot be had or do not fit.
    """
    folder, images = place_of_results("fewshot", settings, pretrained)
    train_set, test_set = open_labelled_sets(settings.data, pretrained)
    tests = open_test_sets(settings.data, pretrained, test_set, train_set.source)
    train, *scored = extract_all(train_set, tests, settings, pretrained)
    test = scored[0]
    names = train_set.source.class_names
    _require_enough(train.labels, names, settings.shots)
    found: dict[int, list[float]] = {}
    of_tests: list[dict[str, float]] = [{} for _ in scored]
    for shots in settings.shots:
        drawn = accuracies(
            (train.features, train.labels),
            [(each.features, each.labels) for each in scored],
            shots,
            settings.draws,
            settings.inverse_penalty,
            settings.seed,
        )
        draws = list(watched(drawn, f"{shots} a class", settings.draws))
        found[shots] = [of_sets[0] for of_sets in draws]
        for figures, shares in zip(of_tests, zip(*draws)):
            figures[f"{shots} a class"] = float(np.mean(shares))
    most = max(settings.shots)
    warning = explain_chance(
        float(np.mean(found[most])),
        test.labels,
        "the encoder is untrained, or what it learnt has nothing to do with these "
        "classes; compare with an untrained encoder.",
        features=test.features,
    )
    outcome = Outcome(
        figures=of_tests[0],
        facts={"data_set": images, "data": facts_of(train_set, tests)},
        rows=[
            {"shots": shots, "draw": number, "top1": value}
            for shots, values in found.items()
            for number, value in enumerate(values)
        ],
        pictures={"fewshot": _draw(found, len(names))},
        table=text_table(
            [f"top-1, %, of {settings.draws} draws", *(f"{s} a class" for s in found)],
            [["linear", *(mean_and_spread(values) for values in found.values())]],
        ),
        warning=warning,
        tests=rows_of(tests, of_tests),
    )
    return conclude("fewshot", outcome, folder, settings, pretrained)


def _require_enough(labels, names, shots):
    counts = np.bincount(labels, minlength=len(names))
    fewest = int(np.argmin(counts))
    if counts[fewest] < max(shots):
        raise ConfigError(
            f"shots={list(shots)} asks for {max(shots)} training images of each class, "
            f"but {names[fewest]!r} has {counts[fewest]}; use fewer, or more images."
        )


@look.literal
def _draw(found, classes):
    figure = Figure(figsize=(5.5, 3.8), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    shots = sorted(found)
    for each in shots:
        axes.plot([each] * len(found[each]), 100 * np.array(found[each]), ".",
                  color=look.BLUE, alpha=0.35, markersize=6)  # fmt: skip
    means = [100 * np.mean(found[each]) for each in shots]
    axes.plot(shots, means, color=look.BLUE, marker="o", linewidth=1.8, markersize=5)
    look.title(axes, f"Accuracy of {classes} classes, %, and its draws")
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(each) for each in shots])
    axes.minorticks_off()
    axes.set_xlabel("labelled images a class", fontsize=8.5, color=look.GREY)
    look.finish(axes)
    return figure
