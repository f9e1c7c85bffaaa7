"""A run's configuration: from a recipe and words to a checked Config, and back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import yaml

from moco_tf.config.checks import validate
from moco_tf.config.reader import Reader, plain
from moco_tf.config.recipes import find
from moco_tf.config.tree import Config


def load_config(
    path: str | os.PathLike | None = None, overrides: Iterable[str] = ()
) -> Config:
    """Read a configuration.

    Args:
        path: YAML file, or the name of a recipe that comes with the package, such as
            "moco_v2_resnet50_200ep"; None for the defaults, which are the demo.
        overrides: words such as "train.epochs=5", with or without leading dashes;
            they win over the file, a later one over an earlier one.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: one sentence that says what is wrong, where, and how to mend it.
    """
    words = [word if word.startswith("--") else f"--{word}" for word in overrides]
    return read_words(path, words)


def dump(config: Config) -> str:
    """YAML of every field, which `load_config` reads back to an equal Config."""
    scale = f"batch {config.train.batch_size} / 256"
    if config.optimizer.scaling == "sqrt":
        scale = f"sqrt({scale})"
    header = (
        f"# Effective learning rate {config.effective_learning_rate:g} = "
        f"{config.optimizer.learning_rate:g} x {scale}.\n"
    )
    return header + yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)


def read_words(
    path: str | os.PathLike | None, words: Sequence[str], flags: Sequence[str] = ()
) -> Config:
    """As `load_config`, of a command line's words: "--key=value" or "--key" "value".

    Args:
        path: as there.
        words: the overrides.
        flags: as `Reader.read`.
    """
    config = Reader(Config).read(None if path is None else find(path), words, flags)
    validate(config)
    return config
