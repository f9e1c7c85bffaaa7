"""The official linear protocol and MoCo v3's: a classifier trained on random crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import tensorflow as tf
from tensorflow import keras

from moco_tf import encoders
from moco_tf.augment import Normalize
from moco_tf.config import ConfigError
from moco_tf.data.labelled import even_batches, labelled_crops, require_labels
from moco_tf.evaluation.chance import explain_chance
from moco_tf.evaluation.features import Features
from moco_tf.evaluation.images import ImageSet
from moco_tf.evaluation.linear.classifier import LinearClassifier
from moco_tf.evaluation.linear.settings import Linear
from moco_tf.evaluation.results.output import Outcome, percent, text_table
from moco_tf.evaluation.results.pictures import curves
from moco_tf.interchange import Pretrained
from moco_tf.interchange.pretrained import weights_digest
from moco_tf.optimizers import SGD, Schedule, make_schedule
from moco_tf.report.progress import Progress


@dataclass(frozen=True)
class Recipe:
    """What a protocol prescribes where the user does not say otherwise."""

    schedule: str
    epochs: int
    batch_size: int
    learning_rate: float  # for a batch of 256

    def make_schedule(self, steps: int) -> Schedule:
        """The rate of each step, held within an epoch as in the references."""
        wanted = {round(0.6 * self.epochs), round(0.8 * self.epochs)}
        drops = sorted(drop for drop in wanted if 0 < drop < self.epochs)
        return make_schedule(
            self.schedule,
            self.learning_rate * self.batch_size / 256,
            epochs=self.epochs,
            steps_per_epoch=steps,
            milestones=drops,
            per_epoch=True,
        )


def recipe_of(settings: Linear, encoder: keras.Model) -> Recipe:
    """The protocol's numbers, with the user's in their place where given."""
    if settings.protocol == "official":
        recipe = Recipe("step", 100, 256, 30.0)
    else:
        is_vit = isinstance(encoder, getattr(encoders, "ViT", ()))
        recipe = Recipe("cosine", 90, 1024, 3.0 if is_vit else 0.1)
    return Recipe(
        recipe.schedule,
        settings.epochs or recipe.epochs,
        settings.batch_size or recipe.batch_size,
        settings.learning_rate or recipe.learning_rate,
    )


class _Score(keras.callbacks.Callback):
    """Adds the rate and the test figures to each epoch's logs, and keeps them."""

    def __init__(self, test):
        super().__init__()
        self.test = test
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        # Under a schedule Keras shows the rate of the last step.
        rate = float(self.model.optimizer.learning_rate.numpy())
        train = {name: float(logs[name]) for name in ("loss", "top1", "top5")}
        score = self.model.score(self.test)
        score = {f"test_{name}": value for name, value in score.items()}
        self.rows.append({"epoch": epoch + 1, "learning_rate": rate, **train, **score})
        logs.update(score)


def train(
    settings: Linear,
    pretrained: Pretrained,
    train_set: ImageSet,
    test: Features,
    others: Sequence[Features] = (),
) -> tuple[Outcome, list[dict[str, float]]]:
    """Trains the classifier on random crops of the training images.

    Args:
        settings: official or mocov3, and its numbers.
        pretrained: the encoder; it is checked to be the same afterwards.
        train_set: the images to learn from.
        test: features of the central crops of the test images.
        others: the same of further test sets, scored after the last epoch.

    Returns:
        What was found, and the figures on each of the further test sets.

    Raises:
        ConfigError: the training diverged.
        DataError: some images have no label.
    """
    strategy = tf.distribute.get_strategy()
    recipe = recipe_of(settings, pretrained.encoder)
    source = require_labels(train_set.source, "training")
    steps = math.ceil(source.num_examples / recipe.batch_size)
    dataset = labelled_crops(
        source,
        batch_size=recipe.batch_size,
        image_size=pretrained.image_size,
        channels=pretrained.channels,
        crop_scale=settings.crop_scale,
        seed=settings.seed,
    )
    dataset = even_batches(dataset, strategy.num_replicas_in_sync)
    before = weights_digest(pretrained.encoder.get_weights())
    model = LinearClassifier(
        pretrained.encoder,
        source.num_classes,
        Normalize(pretrained.mean, pretrained.std, pretrained.pixels.value_range),
        settings.seed,
    )
    model.compile(SGD(recipe.make_schedule(steps), momentum=0.9, weight_decay=0.0))
    score = _Score(test)
    columns = {"loss": "loss", "top1": "top-1", "test_loss": "test loss"}
    progress = Progress(columns={**columns, "test_top1": "test top-1"})
    model.fit(
        dataset,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        callbacks=[score, progress, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    if weights_digest(pretrained.encoder.get_weights()) != before:
        raise RuntimeError("The frozen encoder's weights changed during training.")
    last = score.rows[-1]
    rate = recipe.learning_rate
    if not all(map(math.isfinite, last.values())):
        raise ConfigError(
            f"the loss is not finite in epoch {last['epoch']}: learning_rate={rate:g} "
            f"is too high for these features; try --learning_rate={rate / 10:g}, or "
            "--protocol=cached, which searches for one."
        )
    warning = explain_chance(
        last["test_top1"],
        test.labels,
        cause_of_chance(recipe, last, source.num_classes),
        last["top1"],
        test.features,
    ) or explain_loss(recipe, last, source.num_classes)
    table = text_table(
        [f"linear, {settings.protocol}", "top-1", "top-5", "loss"],
        [["test", *_cells(last, "test_")], ["training (crops)", *_cells(last, "")]],
    )
    of_others = [model.score(other) for other in others]
    outcome = Outcome(
        figures={"top1": last["test_top1"], "top5": last["test_top5"]},
        facts={
            "recipe": asdict(recipe),
            "train_top1": last["top1"],
            "encoder_unchanged": True,
            "epochs": score.rows,
        },
        rows=score.rows,
        pictures={"curves": _curves(score.rows)},
        table=table,
        warning=warning,
    )
    names = ("top1", "top5")
    return outcome, [{name: score[name] for name in names} for score in of_others]


def cause_of_chance(recipe: Recipe, last: dict, num_classes: int) -> str:
    """Why a classifier on sound features may have learnt nothing."""
    rate, guessing = recipe.learning_rate, math.log(num_classes)
    losses = f"training loss {last['loss']:.3g}, guessing {guessing:.3g}"
    if last["loss"] > guessing:
        return (
            f"learning_rate={rate:g} is probably too high for this data ({losses}); "
            f"try --learning_rate={rate / 10:g}, or --protocol=cached, which searches "
            "for one."
        )
    return (
        f"the training was probably too short or too slow ({losses}); try more "
        f"--epochs, --learning_rate={10 * rate:g}, or --protocol=cached, which "
        "searches for a rate."
    )


def explain_loss(recipe: Recipe, last: dict, num_classes: int) -> str | None:
    """A sentence where a classifier that beats chance has a loss worse than guessing.

    Its wrong answers are then far too sure: it jumps about its optimum.
    """
    guessing = math.log(num_classes)
    if last["loss"] <= guessing:
        return None
    rate = recipe.learning_rate
    return (
        f"The training loss of {last['loss']:,.3g} is worse than guessing "
        f"({guessing:.3g}), so learning_rate={rate:g} is too high for these features "
        "and the accuracy probably lower than they allow; --protocol=cached searches "
        f"for a rate, --learning_rate={rate / 10:g} is one to try."
    )


def _cells(row, prefix):
    figures = [percent(row[f"{prefix}{name}"]) for name in ("top1", "top5")]
    return [*figures, f"{row[f'{prefix}loss']:.3g}"]


def _curves(rows):
    def lines(**names):
        return {name: [row[key] for row in rows] for name, key in names.items()}

    shares = lines(test="test_top1", training="top1")
    return curves(
        [row["epoch"] for row in rows],
        {
            "Top-1, %": {n: [100 * v for v in values] for n, values in shares.items()},
            "Cross-entropy, nats": lines(test="test_loss", training="loss"),
        },
    )
