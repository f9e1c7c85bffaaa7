"""One start of fine-tuning: candidates by held-out images, the winner on the test."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tensorflow import keras

from moco_tf.augment import Normalize
from moco_tf.config import ConfigError
from moco_tf.data.balanced import held_out
from moco_tf.data.pipeline import labelled_batches
from moco_tf.data.sources import Source
from moco_tf.evaluation.finetune.settings import Finetune
from moco_tf.evaluation.finetune.training import (
    build_classifier,
    classifier_accuracy,
    encoder_of,
    fit_classifier,
)
from moco_tf.evaluation.results.output import percent
from moco_tf.interchange import Pretrained
from moco_tf.report.progress import Progress

log = logging.getLogger("moco_tf")


@dataclass(frozen=True)
class Arm:
    """What came of one initialisation.

    Attributes:
        start: "pretrained" or "from scratch".
        learning_rate: of the winner.
        head_multiplier: of the winner.
        top1: on the test images, 0 to 1.
        top5: the same.
        history: of the winner's training, by epoch.
        candidates: what each of the grid came to, if there are several.
        others: "top1" and "top5" on each further test set.
    """

    start: str
    learning_rate: float
    head_multiplier: float
    top1: float
    top5: float
    history: dict[str, list[float]]
    candidates: list[dict]
    others: list[dict[str, float]]

    def rows(self) -> Iterator[dict]:
        """Rows of results.csv: the candidates, then the winner."""
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


class Trial:
    """Chooses among the candidates, trains the winner, scores it on the test set.

    Args:
        settings: the recipe and the candidates.
        pretrained: the encoder, which is copied.
        source: labelled images to learn from.
        tests: several sets of labelled images, the test set first, which only winners
            see.

    Attributes:
        encoders: start -> the winner's encoder, where they are to be saved.

    Raises:
        DataError: a class has a single image, so that none can be held out.
    """

    def __init__(
        self,
        settings: Finetune,
        pretrained: Pretrained,
        source: Source,
        tests: Sequence[Source],
    ):
        self.settings, self.pretrained = settings, pretrained
        self.source, self.tests = source, tests
        self.encoders: dict[str, keras.Model] = {}
        self.normalise = Normalize(
            pretrained.mean, pretrained.std, pretrained.pixels.value_range
        )
        self.grid = list(
            itertools.product(settings.learning_rates, settings.head_multipliers)
        )
        if len(self.grid) > 1:
            self.parts = held_out(source, settings.held_out, settings.seed)

    def run(self, start: str) -> Arm:
        """Trains from "pretrained" weights, or "from scratch".

        Raises:
            ConfigError: training diverged.
        """
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
        score, *others = [self._score(model, test, "test") for test in self.tests]
        if self.settings.save:
            self.encoders[start] = encoder_of(model)
        return Arm(start, rate, multiplier, **score, history=history,
                    candidates=candidates, others=others)  # fmt: skip

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
                dtype=self.pretrained.pixels.dtype,
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
            callbacks=[Progress(columns={"loss": "loss", "top1": "top-1"})],
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
