"""`evaluate.py finetune`: all layers trained on labels, beside a net from scratch."""

from __future__ import annotations

import itertools
import logging
import math
import pathlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tensorflow as tf
from tensorflow import keras

from moco_tf.augment import Normalize
from moco_tf.callbacks import Progress
from moco_tf.config import ConfigError
from moco_tf.config.limits import require
from moco_tf.config.transfer import Finetune
from moco_tf.data.balanced import balanced_subset, held_out
from moco_tf.data.labelled import require_labels
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import Source
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.finetune import (
    build_classifier,
    classifier_accuracy,
    encoder_of,
    fit_classifier,
)
from moco_tf.interchange import Pretrained, export_saved_model
from moco_tf.interchange.staging import check_replaceable
from moco_tf.protocols.figures import curves, grouped_points
from moco_tf.protocols.labelled_sets import open_labelled_sets, resolve_labelled
from moco_tf.protocols.output import (
    Outcome,
    conclude,
    percent,
    results_folder,
    text_table,
)

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
    folder = results_folder(pretrained.path / "report" / name, settings.out)
    if settings.save:
        for kind in _KINDS.values():
            path = results_folder(pathlib.Path(settings.save) / kind, None, "save")
            check_replaceable(path, folder=True)
            require(
                path.resolve() != pretrained.path.resolve(),
                f"save={settings.save} would replace {pretrained.path}, the encoder "
                "itself; name another folder.",
            )
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    require(
        settings.batch_size % replicas == 0,
        f"batch_size={settings.batch_size} does not divide among {replicas} replicas; "
        f"use a multiple of {replicas}.",
    )
    train_set, test_set = open_labelled_sets(settings.data, pretrained)
    source = require_labels(train_set.source, "training")
    source = balanced_subset(source, settings.fraction, settings.seed)
    log.info("Fine-tuning on %s images.", f"{source.num_examples:,}")
    test = require_labels(test_set.source, "test")
    trial = _Trial(settings, pretrained, source, test)
    arms = [trial.run("pretrained")]
    if settings.control:
        arms.append(trial.run("from scratch"))
    if settings.save:
        data = train_set.facts.get("name", train_set.facts["source"])
        facts = {"recipe": name, "data": data, "images": source.num_examples}
        _save(trial.encoders, settings, pretrained, facts)
    figures = {"top1": arms[0].top1, "top5": arms[0].top5}
    if settings.control:
        figures["from scratch top1"] = arms[1].top1
    outcome = Outcome(
        figures=figures,
        facts={
            "images": source.num_examples,
            "arms": [vars(arm) for arm in arms],
            "data": {"train": train_set.facts, "test": test_set.facts},
        },
        rows=[row for arm in arms for row in arm.rows()],
        pictures=_pictures(arms),
        table=_table(f"{name}, {source.num_examples:,} images", arms),
        warning=_explain_chance(arms, test),
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


@dataclass(frozen=True)
class _Arm:
    """What came of one initialisation."""

    start: str
    learning_rate: float
    head_multiplier: float
    top1: float
    top5: float
    history: dict[str, list[float]]
    candidates: list[dict]

    def rows(self):
        for candidate in self.candidates:
            yield {"start": self.start, "trained_on": "kept part", **candidate}
        yield {
            "start": self.start,
            "trained_on": "all",
            "learning_rate": self.learning_rate,
            "head_multiplier": self.head_multiplier,
            "held_out": None,
            "loss": self.history["loss"][-1],
            "top1": self.top1,
            "top5": self.top5,
        }


class _Trial:
    """Chooses among the candidates, trains the winner, scores it on the test set."""

    def __init__(self, settings, pretrained, source: Source, test: Source):
        self.settings, self.pretrained = settings, pretrained
        self.source, self.test = source, test
        self.encoders = {}  # start -> what came of it, where they are to be saved
        self.normalise = Normalize(pretrained.mean, pretrained.std)
        self.grid = list(
            itertools.product(settings.learning_rates, settings.head_multipliers)
        )
        if len(self.grid) > 1:
            self.parts = held_out(source, settings.held_out, settings.seed)

    def run(self, start: str) -> _Arm:
        candidates, (rate, multiplier) = [], self.grid[0]
        if len(self.grid) > 1:
            candidates = [self._candidate(start, *pair) for pair in self.grid]
            best = max(candidates, key=lambda candidate: candidate["held_out"])
            rate, multiplier = best["learning_rate"], best["head_multiplier"]
        log.info("%s: rate %g, head x%g.", start.capitalize(), rate, multiplier)
        model, history = self._train(start, self.source, rate, multiplier)
        if not math.isfinite(history["loss"][-1]):
            raise ConfigError(
                f"the loss is not finite in epoch {len(history['loss'])} of training "
                f"{start}: learning_rates={rate:g} is too high for this data; try "
                f"--learning_rates=[{rate / 10:g}]."
            )
        score = self._score(model, self.test, "test")
        if self.settings.save:
            self.encoders[start] = encoder_of(model)
        return _Arm(start, rate, multiplier, **score, history=history,
                    candidates=candidates)  # fmt: skip

    def _candidate(self, start, rate, multiplier):
        kept, held = self.parts
        log.info("%s, candidate rate %g, head x%g:", start, rate, multiplier)
        model, history = self._train(start, kept, rate, multiplier)
        loss = history["loss"][-1]
        diverged = not math.isfinite(loss)
        top1 = 0.0 if diverged else self._score(model, held, "held out")["top1"]
        log.info("diverged" if diverged else f"held out: {percent(top1)}")
        return {
            "learning_rate": rate,
            "head_multiplier": multiplier,
            "held_out": top1,
            "loss": None if diverged else loss,
            "top1": None,
            "top5": None,
        }

    def _train(self, start, source, rate, multiplier):
        keras.utils.set_random_seed(self.settings.seed)
        try:
            model = build_classifier(
                self.pretrained.encoder,
                source.num_classes,
                self.normalise,
                pretrained=start == "pretrained",
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        history = fit_classifier(
            model,
            source,
            self.settings,
            image_size=self.pretrained.image_size,
            channels=self.pretrained.channels,
            learning_rate=rate,
            head_multiplier=multiplier,
            callbacks=[Progress()],
        )
        return model, history

    def _score(self, model, source, title):
        batches = labelled_batches(
            source,
            batch_size=self.settings.batch_size,
            image_size=self.pretrained.image_size,
            resize=self.pretrained.resize,
            channels=self.pretrained.channels,
        )
        return classifier_accuracy(model, batches, title)


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
                pathlib.Path(settings.save) / _KINDS[start],
                image_size=pretrained.image_size,
                resize=pretrained.resize,
                mean=pretrained.mean,
                std=pretrained.std,
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
    accuracy = grouped_points("Test accuracy, %", ["top-1", "top-5"], bars)
    return {"curves": curves(epochs, panels), "accuracy": accuracy}
