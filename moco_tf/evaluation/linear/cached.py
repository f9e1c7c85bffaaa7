"""The cached linear protocol: a sweep on features that are extracted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from moco_tf.data.sources import DataError
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.images import ImageSet
from moco_tf.evaluation.labelled_sets import extract
from moco_tf.evaluation.linear.candidates import linear_sweep
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.results.output import Outcome, percent, text_table
from moco_tf.interchange import Pretrained
from moco_tf.report import heat_map


def sweep(
    settings: Linear,
    pretrained: Pretrained,
    train_set: ImageSet,
    test: Features,
    others: Sequence[Features] = (),
) -> tuple[Outcome, list[dict[str, float]]]:
    """Tries rates and penalties on features of the central crops.

    Args:
        settings: the candidates, and the length of training.
        pretrained: the encoder.
        train_set: the images to learn from, a part of which chooses.
        test: features of the central crops of the test images, which choose nothing.
        others: the same of further test sets.

    Returns:
        What was found, and the figures on each of the further test sets.

    Raises:
        DataError: too few images or classes.
    """
    train = extract(
        train_set, pretrained, settings.features, settings.precision, "training"
    )
    candidates = settings.sweep
    try:
        tried, best = linear_sweep(
            train,
            test,
            candidates.learning_rates,
            candidates.weight_decays,
            epochs=settings.epochs or 100,
            batch_size=settings.batch_size or 1024,
            held_out=candidates.held_out,
            lbfgs=candidates.lbfgs,
            seed=settings.seed,
            progress=True,
            others=others,
        )
    except ValueError as error:  # too few images or classes
        raise DataError(str(error)) from error
    assert best.top1 is not None and best.top5 is not None  # a solver's best
    warning = explain_chance(
        best.top1,
        test.labels,
        "the encoder is untrained, what it learnt has nothing to do with these "
        "classes, or every candidate diverged; try lower --sweep.learning_rates.",
        features=test.features,
    )
    grid = np.array([c.held_out for c in tried if c.solver == "sgd"])
    grid = grid.reshape(len(candidates.learning_rates), len(candidates.weight_decays))
    picture = heat_map(
        grid,
        [f"{rate:g}" for rate in candidates.learning_rates],
        [f"{decay:g}" for decay in candidates.weight_decays],
        "Held-out top-1 of SGD, %",
        ("learning rate", "weight decay"),
    )
    finished = [candidate for candidate in tried if candidate.top1 is not None]
    outcome = Outcome(
        figures={"top1": best.top1, "top5": best.top5},
        facts={"chosen": _row(best)},
        rows=[_row(candidate) for candidate in tried],
        pictures={"sweep": picture},
        table=_table(finished, best),
        warning=warning,
    )
    return outcome, [{"top1": top1, "top5": top5} for top1, top5 in best.others]


def _row(candidate):
    row = asdict(candidate)
    del row["others"]
    return row


def _table(candidates, best):
    rows = []
    for one in candidates:
        rate = "-" if one.learning_rate is None else f"{one.learning_rate:g}"
        shares = map(percent, (one.held_out, one.top1, one.top5))
        name = one.solver + (" (chosen)" if one == best else "")
        rows.append([name, rate, f"{one.weight_decay:g}", *shares])
    header = ["linear, cached", "rate", "decay", "held-out", "top-1", "top-5"]
    return text_table(header, rows)
