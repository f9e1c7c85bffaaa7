"""`evaluate.py finetune`: all layers trained on labels, beside a net from scratch."""

from __future__ import annotations

import dataclasses
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from moco_tf.config.limits import require
from moco_tf.data.balanced import balanced_subset
from moco_tf.data.labelled import require_labels
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.finetune.trial import Trial
from moco_tf.evaluation.labelled_sets import (
    open_labelled_sets,
    place_of_results,
    resolve_labelled,
)
from moco_tf.evaluation.results.output import (
    Outcome,
    conclude,
    percent,
    results_folder,
    text_table,
)
from moco_tf.evaluation.results.pictures import curves, grouped_bars
from moco_tf.evaluation.test_sets import facts_of, open_test_sets, rows_of
from moco_tf.interchange import Pretrained, export_saved_model
from moco_tf.interchange.staging import check_replaceable
from moco_tf.paths import to_path

log = logging.getLogger("moco_tf")

_KINDS = {"pretrained": "finetuned", "from scratch": "control"}  # start -> folder


def run(settings: Finetune, pretrained: Pretrained) -> dict:
    """Trains and scores the classifiers, and writes report/finetune[_SUBSET][_NNpct].

    Args:
        settings: the recipe, the share of the labels and the candidates.
        pretrained: the encoder, which is copied.

    Returns:
        What results.json holds.

    Raises:
        ConfigError: training diverged, or the batch does not fit the replicas.
        DataError: the data cannot be had or do not fit.
        InterchangeError: something else lies where an encoder is to be saved.
    """
    name = _name(settings, pretrained)
    folder, images = place_of_results(name, settings, pretrained)
    if settings.save:
        for kind in _KINDS.values():
            path = results_folder(to_path(settings.save) / kind, None, "save")
            check_replaceable(path, folder=True)
            require(
                path.resolve() != pretrained.path.resolve(),
                f"save={settings.save} would replace {pretrained.path}, the encoder "
                "itself; name another folder.",
            )
    settings = dataclasses.replace(settings, milestones=settings.drops)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    require(
        settings.batch_size % replicas == 0,
        f"batch_size={settings.batch_size} does not divide among {replicas} replicas; "
        f"use a multiple of {replicas}.",
    )
    train_set, test_set = open_labelled_sets(settings.data, pretrained)
    sets = open_test_sets(settings.data, pretrained, test_set, train_set.source)
    source = require_labels(train_set.source, "training")
    source = balanced_subset(source, settings.fraction, settings.seed)
    log.info("Fine-tuning on %s images.", f"{source.num_examples:,}")
    titles = ["test", *list(sets)[1:]]
    tests = [
        require_labels(one.source, title) for title, one in zip(titles, sets.values())
    ]
    trial = Trial(settings, pretrained, source, tests)
    arms = [trial.run("pretrained")]
    if settings.control:
        arms.append(trial.run("from scratch"))
    if settings.save:
        data = train_set.facts.get("name", train_set.facts["source"])
        facts = {"recipe": name, "data": data, "images": source.num_examples}
        _save(trial.encoders, settings, pretrained, facts)
    figures = [{"top1": arms[0].top1, "top5": arms[0].top5}, *arms[0].others]
    if settings.control:
        figures[0]["from scratch top1"] = arms[1].top1
        for of_set, other in zip(figures[1:], arms[1].others):
            of_set["from scratch top1"] = other["top1"]
    outcome = Outcome(
        figures=figures[0],
        facts={
            "images": source.num_examples,
            "data_set": images,
            "arms": [vars(arm) for arm in arms],
            "data": facts_of(train_set, sets),
        },
        rows=[row for arm in arms for row in arm.rows()],
        pictures=_pictures(arms),
        table=_table(f"{name}, {source.num_examples:,} images", arms),
        warning=_explain_chance(arms, tests[0]),
        tests=rows_of(sets, figures),
    )
    return conclude(name, outcome, folder, settings, pretrained)


def _name(settings, pretrained):
    """The command with the share of the labels, by TFDS's configuration and by ours."""
    asked, _ = resolve_labelled(settings.data, pretrained)
    config = ""
    if asked.source == "tfds":
        config = asked.name.partition(":")[0].partition("/")[2].replace("/", "_")
    share = f"{100 * settings.fraction:g}pct" if settings.fraction < 1 else ""
    return "_".join(filter(None, ("finetune", config, share)))


def _save(encoders, settings, pretrained, facts):
    """Writes the encoders without their heads, for the other protocols."""
    facts = {**facts, "epochs": settings.epochs}
    for start, encoder in encoders.items():
        before = {"pretrained": pretrained.provenance} if start == "pretrained" else {}
        # A strategy's scope is its thread's, and a SavedModel is traced outside of it.
        with ThreadPoolExecutor(1) as outside:
            path = outside.submit(
                export_saved_model,
                encoder,
                to_path(settings.save) / _KINDS[start],
                image_size=pretrained.image_size,
                resize=pretrained.resize,
                mean=pretrained.mean,
                std=pretrained.std,
                pixels=pretrained.pixels,
                channels=pretrained.channels,
                provenance={**facts, "start": start, **before},
            ).result()
        log.info("The encoder %s is in %s.", start, path)


def _explain_chance(arms, test):
    """A sentence for each arm whose accuracy is no better than guessing, or None."""
    guessing = math.log(test.num_classes)
    sentences = []
    for arm in arms:
        loss, rate = arm.history["loss"][-1], arm.learning_rate
        losses = f"training loss {loss:.3g}, guessing {guessing:.3g}"
        cause = (
            f"learning_rates={rate:g} is probably too high for this data ({losses}); "
            f"try --learning_rates=[{rate / 10:g}]."
            if loss > 1.1 * guessing  # which new weights alone exceed a little
            else f"the training was probably too short or too slow ({losses}); try "
            f"more --epochs, a smaller batch or --learning_rates=[{10 * rate:g}]."
        )
        train_top1 = arm.history["top1"][-1]
        sentence = explain_chance(arm.top1, test.labels, cause, train_top1)
        if sentence:
            sentences.append(f"{arm.start.capitalize()}: {sentence}")
    return "\n".join(sentences) or None


def _table(title, arms):
    rows = [
        [
            arm.start,
            f"{arm.learning_rate:g}",
            f"x{arm.head_multiplier:g}",
            percent(arm.top1),
            percent(arm.top5),
        ]
        for arm in arms
    ]
    return text_table([title, "rate", "head", "test top-1", "test top-5"], rows)


def _pictures(arms):
    epochs = range(1, len(arms[0].history["loss"]) + 1)
    losses = {arm.start: arm.history["loss"] for arm in arms}
    accuracies = {
        arm.start: [100 * value for value in arm.history["top1"]] for arm in arms
    }
    panels = {
        "Cross-entropy on crops, nats": losses,
        "Top-1 on training crops, %": accuracies,
    }
    bars = {arm.start: [[arm.top1], [arm.top5]] for arm in arms}
    accuracy = grouped_bars("Test accuracy, %", ["top-1", "top-5"], bars)
    return {"curves": curves(epochs, panels), "accuracy": accuracy}
