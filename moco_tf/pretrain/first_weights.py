"""Weights from elsewhere that a run's encoder starts from."""

from __future__ import annotations

import json
import logging
import pathlib
from dataclasses import dataclass

import keras_cv
import tensorflow as tf
from tensorflow import keras

from moco_tf.augment import Normalize
from moco_tf.config import Config, ConfigError
from moco_tf.encoders import ResNet, ViT, pooled
from moco_tf.exchange import of_hosts, together
from moco_tf.interchange.checkpoints import load_checkpoint
from moco_tf.interchange.pretrained import load_pretrained, weights_digest
from moco_tf.methods import ContrastiveModel
from moco_tf.mistakes import reason
from moco_tf.paths import to_path
from moco_tf.pretrain.claim import write_whole

log = logging.getLogger("moco_tf")

_NOTE = "first_weights.json"
# What does not change an encoder's arithmetic once it has weights.
_NAMES_ONLY = {"name", "trainable", "zero_init_residual"}


@dataclass(frozen=True)
class Found:
    """An encoder from elsewhere.

    Attributes:
        encoder: normalised images -> (N, F).
        normalised: mean and std of each channel, as its images were; None: not known.
    """

    encoder: keras.Model
    normalised: tuple | None = None


def take_first_weights(
    config: Config,
    strategy: tf.distribute.Strategy,
    run_dir: pathlib.Path,
    model: ContrastiveModel,
) -> None:
    """Gives both encoders the weights that a configuration names, and notes whose.

    Args:
        config: the run, which has not trained yet.
        strategy: whose hosts read them all.
        run_dir: where their digest is noted.
        model: as built.

    Raises:
        ConfigError: they do not fit the encoder, or differ between hosts.
        InterchangeError: they cannot be read.
    """
    place = config.encoder.weights
    if place is None:
        # Of a start that was given up before it had trained.
        if (run_dir / _NOTE).exists():
            (run_dir / _NOTE).unlink()
        return
    with together(strategy):
        found = _found(config)
        weights = found.encoder.get_weights()
        _require_fit(place, found.encoder, model.encoder)
        digest = weights_digest(weights)
        note = {"weights": place, "weights_sha256": digest}
        write_whole(run_dir / _NOTE, json.dumps(note, indent=2) + "\n")
    if len(set(of_hosts(strategy, int(digest[:7], 16)))) > 1:
        raise ConfigError(
            f"encoder.weights={place} holds other weights on another host; give every "
            "host the same ones."
        )
    model.start_from(weights)
    log.info("The encoder starts from %s (SHA-256 %s...).", place, digest[:12])
    _compare_normalisation(place, found, model)


def noted_weights(run_dir: pathlib.Path) -> dict[str, str]:
    """What a run's encoder started from, for its provenance; empty: random weights."""
    try:
        return json.loads((run_dir / _NOTE).read_text())
    except (OSError, ValueError):
        return {}


def _found(config):
    place = config.encoder.weights
    if place == "imagenet":
        return _published(config.encoder.name)
    path = to_path(place)
    if path.is_file():
        return Found(load_checkpoint(path).encoder)
    pretrained = load_pretrained(path)
    return Found(pretrained.encoder, (pretrained.mean, pretrained.std))


def _published(name):
    """What KerasCV publishes of a backbone."""
    kind = getattr(keras_cv.models, name)
    presets = [preset for preset in kind.presets_with_weights if "imagenet" in preset]
    if not presets:
        raise ConfigError(
            f"encoder.weights=imagenet: KerasCV publishes no such weights of {name}; "
            "leave it out, or use for instance EfficientNetV2B0Backbone."
        )
    try:
        backbone = kind.from_preset(presets[0])
    except Exception as error:  # the network's, Kaggle's or KerasCV's own
        raise ConfigError(
            f"encoder.weights=imagenet: KerasCV could not fetch {presets[0]} "
            f"({reason(error)}); check the network and, where it asks for them, "
            "Kaggle's credentials, or name a folder or file of weights instead."
        ) from error
    # Its own first layer divides by 255, which is the recipe's part here.
    channels = backbone.input_shape[-1]
    return Found(pooled(backbone), ((0.0,) * channels, (1.0,) * channels))


def _require_fit(place, found, wanted):
    """Refuses weights of another network, naming the first thing that differs."""
    ours, theirs = wanted.weights, found.weights
    for own, other in zip(ours, theirs):
        if own.shape != other.shape:
            raise _unfit(
                place, found, f"{_plain(other)} is {_sides(other)} there and "
                f"{_sides(own)} here, as {_plain(own)}",
            )  # fmt: skip
    if len(ours) != len(theirs):
        longer, where = (ours, "here") if len(ours) > len(theirs) else (theirs, "there")
        first = _plain(longer[min(len(ours), len(theirs))])
        raise _unfit(place, found, f"{first} is only {where}")
    if isinstance(wanted, (ResNet, ViT)):
        settings = wanted.get_config()
        others = found.get_config() if type(found) is type(wanted) else {}
        for name, value in settings.items():
            if name not in _NAMES_ONLY and others.get(name) != value:
                raise _unfit(
                    place, found, f"{name} is {others.get(name)} there and {value} here"
                )


def _unfit(place, found, difference):
    facts = [found.name]
    for name in ("width", "stem", "image_size", "patch_size", "heads", "channels"):
        if (value := getattr(found, name, None)) is not None:
            facts.append(f"{name} {value}")
    return ConfigError(
        f"encoder.weights={place} does not fit encoder.name and its fields: "
        f"{difference}; it holds a {', '.join(facts)}: set these fields accordingly, "
        "or name other weights."
    )


def _plain(variable):
    return variable.name.partition(":")[0]


def _sides(variable):
    return " x ".join(map(str, variable.shape)) or "one number"


def _compare_normalisation(place, found, model):
    """Warns where images were normalised otherwise than this run does."""
    layers = getattr(model.augment, "layers", [])
    own = next(((x.mean, x.std) for x in layers if isinstance(x, Normalize)), None)
    if found.normalised is None or own is None:
        return
    pairs = zip([*own[0], *own[1]], [*found.normalised[0], *found.normalised[1]])
    if all(abs(one - other) < 1e-3 for one, other in pairs):
        return
    mean, std = ([round(value, 4) for value in side] for side in found.normalised)
    log.warning(
        "The weights of %s were learnt on images normalised otherwise than in this "
        "run, so their features are off at first; add `--augment.mean=%s "
        "--augment.std=%s`.",
        place,
        str(mean).replace(" ", ""),
        str(std).replace(" ", ""),
    )
